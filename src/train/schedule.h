/* schedule.h — the learning rate of a step, from the settings and the step's number alone. */
#ifndef TL_TRAIN_SCHEDULE_H
#define TL_TRAIN_SCHEDULE_H

#include <stdint.h>

typedef enum tl_schedule_kind {
    TL_SCHEDULE_COSINE,
    TL_SCHEDULE_LINEAR,
    TL_SCHEDULE_WSD,
    TL_SCHEDULE_CONSTANT
} tl_schedule_kind;

typedef struct tl_schedule {
    tl_schedule_kind kind;
    double peak;        /* the learning rate after warm-up */
    double least_ratio; /* of the peak, reached at the last step */
    int64_t warmup_steps;
    double decay_fraction; /* WSD: the last part of the steps, which decays linearly (Hu et al. 2024, MiniCPM, §4) */
    int64_t steps;
} tl_schedule;

/* Of step 1 … steps. Warm-up rises linearly from peak/warmup_steps; cosine as Loshchilov & Hutter 2017, eq. 5, without
 * restarts. */
double tl__schedule_rate(const tl_schedule *schedule, int64_t step);

#endif
