/* progress.h — a training run as a person sees it: a few lines at the start, one live line (or plain lines where
 * standard error is no terminal), a few lines at the end. */
#ifndef TL_CLI_PROGRESS_H
#define TL_CLI_PROGRESS_H

#include "train/pretrain.h"

typedef struct tl_progress tl_progress;

/* quiet: nothing but warnings. */
tl_progress *tl__progress_open(bool quiet);
void tl__progress_close(tl_progress *progress);
tl_train_observer tl__progress_observer(tl_progress *progress);
void tl__progress_end(tl_progress *progress, const tl_train_config *config, const tl_train_outcome *outcome);

#endif
