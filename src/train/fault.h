/* fault.h — faults planted on purpose, for tests of what a job does when a rank dies, stops, is slow or computes wrongly.
 *
 * TRILITH_FAULT holds one or more, apart by ';', each KIND:rank=R,step=S[,…]:
 *   kill              the rank ends by SIGKILL            stop   it stops by SIGSTOP
 *   exit:…,status=N   it ends with that status (1)        sleep:…,seconds=X   it sleeps
 *   flip              one bit of what it holds: of the step's gradient, or with at=weights of the weights after the update
 * at=begin|gradient|update|checkpoint says when within the step: before its batch is read (the default), after the gradient is
 * summed, after the update, or once a checkpoint is begun. restart=N (0): in the job's N-th start alone, which a supervisor counts in
 * TRILITH_RESTART; so that a job started again meets its fault once. Each is announced by a warning; anything else is refused. */
#ifndef TL_TRAIN_FAULT_H
#define TL_TRAIN_FAULT_H

#include <stdbool.h>
#include <stdint.h>
#include "base/error.h"

enum { TL_MOST_FAULTS = 16 };
typedef enum tl_fault_kind { TL_FAULT_KILL, TL_FAULT_STOP, TL_FAULT_EXIT, TL_FAULT_SLEEP, TL_FAULT_FLIP } tl_fault_kind;
typedef enum tl_fault_point { TL_AT_BEGIN, TL_AT_GRADIENT, TL_AT_UPDATE, TL_AT_CHECKPOINT, TL_AT_WEIGHTS } tl_fault_point;

typedef struct tl_fault {
    tl_fault_kind kind;
    tl_fault_point at;
    int rank, status;
    int64_t step;
    double seconds;
    bool done; /* each comes once, whatever steps are taken again */
} tl_fault;
typedef struct tl_faults { /* {0}: none */
    tl_fault list[TL_MOST_FAULTS];
    int n;
} tl_faults;

/* Those of `text` (NULL or "": none) that are planned for this start of the job. */
int tl__faults_parse(tl_faults *faults, const char *text, int64_t restart, tl_error *err);
/* The same from the environment, with a warning for each of this rank's; the others' are left out. */
int tl__faults_open(tl_faults *faults, int rank, tl_error *err);
/* Do what is planned here. values[n]: what a flip finds (NULL: nothing to flip). No heap call. */
void tl__faults_act(tl_faults *faults, tl_fault_point at, int64_t step, float *values, int64_t n);

#endif
