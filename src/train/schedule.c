/* schedule.c — warm-up, then cosine, linear, warm-up–stable–decay or constant. */
#include "train/schedule.h"

#include "base/elementary.h"

/* From 1 at progress 0 to least at progress 1. */
static double decayed(double least, double shape) {
    return least + (1.0 - least) * shape;
}

double tl__schedule_rate(const tl_schedule *s, int64_t step) {
    const double pi = 3.14159265358979323846;
    if (step <= s->warmup_steps) return s->peak * (double)step / (double)s->warmup_steps;
    int64_t first = s->warmup_steps;
    if (s->kind == TL_SCHEDULE_WSD) {
        int64_t decay = (int64_t)((double)s->steps * s->decay_fraction);
        if (s->steps - decay > first) first = s->steps - decay;
    }
    if (s->kind == TL_SCHEDULE_CONSTANT || step <= first) return s->peak;
    double progress = s->steps > first ? (double)(step - first) / (double)(s->steps - first) : 1.0;
    if (progress > 1.0) progress = 1.0;
    double shape = s->kind == TL_SCHEDULE_COSINE ? 0.5 * (1.0 + tl__cos_f64(pi * progress)) : 1.0 - progress;
    return s->peak * decayed(s->least_ratio, shape);
}
