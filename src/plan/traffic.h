/* traffic.h — what the ranks of a step send each other, and how long that takes, before it is run. The bytes are those of the very
 * collectives that the step starts (comm/cost.h says what each moves); a test holds them equal to what the communicator counted. */
#ifndef TL_PLAN_TRAFFIC_H
#define TL_PLAN_TRAFFIC_H

#include "plan/size.h"

typedef struct tl_train_traffic {
    int64_t exchanges;      /* collectives of a step */
    double bytes;           /* that shape->rank sends and receives */
    double seconds;         /* in which exchanges are under way, by the measured latency and bandwidth of the link */
    double exposed_seconds; /* of those, what the engine waits; the rest goes on behind the backward pass */
} tl_train_traffic;

/* Seconds of one micro-batch by block of parameters (plan/shard.h), [L + 2] each, and of the update of everything. */
typedef struct tl_train_pace {
    double *forward, *backward;
    double update;
} tl_train_pace;

/* A step as tl__train_predict has it, with what its ranks exchange: exposed seconds are its bucket comm. */
int tl__train_predict_ranks(tl_totals *out, tl_train_traffic *traffic, const tl_arch *arch, const tl_train_shape *shape,
                            const tl_machine *machine, tl_error *err);

/* From a step that was predicted for m and then run: m with the pace at which it really computes and exchanges. What is
 * predicted with it is the same walk over the same operators, at that pace. */
int tl__machine_learn(tl_machine *m, const tl_arch *arch, const tl_train_shape *shape, const tl_totals *predicted,
                      const tl_train_traffic *traffic, const tl_totals *seen, const tl_comm_traffic *seen_traffic, tl_error *err);

/* The traffic alone. All zeros with one rank; no seconds where the link was not measured. */
int tl__traffic_predict(tl_train_traffic *out, const tl_arch *arch, const tl_train_shape *shape, const tl_machine *machine,
                        const tl_train_pace *pace, tl_error *err);

#endif
