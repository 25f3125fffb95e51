/* ranks.h — how the processes of one run begin as one: a failure of one is the failure of all and is said once, what rank 0 decides
 * holds for all, and the CPUs of a host are shared out. Every call is made by all ranks. */
#ifndef TL_TRAIN_RANKS_H
#define TL_TRAIN_RANKS_H

#include "comm/comm.h"

/* This rank's status, and err, become the job's: 0 when every rank's is. The lowest rank that failed keeps its sentence, and so does
 * any other with another one; the rest get its status and no sentence. Waits a day: rank 0 may have data to prepare. */
int tl__ranks_agree(tl_comm *comm, int status, tl_error *err);
/* Rank 0's bytes on all ranks. */
int tl__ranks_share(tl_comm *comm, void *bytes, int64_t n, tl_error *err);
/* How many ranks are on this one's host, and how many threads are its part: each CPU that it may run on is divided by the ranks that
 * may run there too. */
int tl__ranks_threads(tl_comm *comm, int *here, int *threads, tl_error *err);

#endif
