/* fault.c — reads planned faults and brings them about. */
#include "train/fault.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"

static const char *const kinds[] = {"kill", "stop", "exit", "sleep", "flip"};
static const char *const points[] = {"begin", "gradient", "update", "checkpoint", "weights"};

/* ---- reading ---- */

static int find(const char *const *names, int n, const char *word, size_t size) {
    for (int i = 0; i < n; i++)
        if (strlen(names[i]) == size && memcmp(names[i], word, size) == 0) return i;
    return -1;
}

/* A plain decimal number, the whole of text[size]. */
static bool read_number(const char *text, size_t size, double most, double *out) {
    char digits[24], *end;
    if (size == 0 || size >= sizeof digits || strspn(text, "0123456789.") < size) return false;
    memcpy(digits, text, size);
    digits[size] = 0;
    *out = strtod(digits, &end);
    return *end == 0 && *out <= most;
}

static bool read_whole(const char *text, size_t size, double most, double *out) {
    return read_number(text, size, most, out) && *out == floor(*out);
}

/* One KEY=VALUE. */
static bool read_pair(tl_fault *fault, double *restart, const char *text, size_t size, unsigned *given) {
    static const char *const keys[] = {"rank", "step", "status", "seconds", "at", "restart"};
    const char *equals = memchr(text, '=', size);
    if (!equals) return false;
    int key = find(keys, 6, text, (size_t)(equals - text));
    const char *value = equals + 1;
    size_t value_size = size - (size_t)(value - text);
    double x = 0;
    if (key < 0 || *given & 1u << key) return false;
    *given |= 1u << key;
    switch (key) {
    case 0:
        if (!read_whole(value, value_size, 1 << 20, &x)) return false;
        fault->rank = (int)x;
        return true;
    case 1:
        if (!read_whole(value, value_size, 1e15, &x) || x < 1) return false;
        fault->step = (int64_t)x;
        return true;
    case 2:
        if (!read_whole(value, value_size, 255, &x)) return false;
        fault->status = (int)x;
        return true;
    case 3:
        return read_number(value, value_size, 1e6, &fault->seconds);
    case 4: {
        int at = find(points, 5, value, value_size);
        fault->at = (tl_fault_point)at;
        return at >= 0;
    }
    default:
        return read_whole(value, value_size, 1e9, restart);
    }
}

static bool read_fault(tl_fault *fault, double *restart, const char *text, size_t size) {
    const char *colon = memchr(text, ':', size), *end = text + size;
    unsigned given = 0;
    *restart = 0;
    *fault = (tl_fault){.status = 1};
    if (!colon) return false;
    int kind = find(kinds, 5, text, (size_t)(colon - text));
    if (kind < 0) return false;
    fault->kind = (tl_fault_kind)kind;
    for (const char *pair = colon + 1;;) {
        const char *comma = memchr(pair, ',', (size_t)(end - pair));
        if (!read_pair(fault, restart, pair, (size_t)((comma ? comma : end) - pair), &given)) return false;
        if (!comma) break;
        pair = comma + 1;
    }
    bool flip = fault->kind == TL_FAULT_FLIP, at = given & 1u << 4;
    if (flip && !at) fault->at = TL_AT_GRADIENT;
    return (given & 3) == 3 && !!(given & 4) <= (fault->kind == TL_FAULT_EXIT) &&
           !!(given & 8) == (fault->kind == TL_FAULT_SLEEP) &&
           (flip ? fault->at == TL_AT_GRADIENT || fault->at == TL_AT_WEIGHTS : fault->at != TL_AT_WEIGHTS);
}

int tl__faults_parse(tl_faults *faults, const char *text, int64_t restart, tl_error *err) {
    *faults = (tl_faults){0};
    for (const char *at = text; at && *at;) {
        size_t size = strcspn(at, ";");
        tl_fault fault;
        double when;
        if (!read_fault(&fault, &when, at, size))
            return tl__fail(err, TL_EINVALID,
                            "TRILITH_FAULT: '%.*s' is no fault; write kill, stop, exit, sleep or flip, then "
                            ":rank=R,step=S and what docs/cli.md lists, or unset it",
                            (int)(size < 80 ? size : 80), at);
        if (faults->n == TL_MOST_FAULTS)
            return tl__fail(err, TL_EINVALID, "TRILITH_FAULT: more than %d faults; name fewer", TL_MOST_FAULTS);
        if ((int64_t)when == restart) faults->list[faults->n++] = fault;
        at += size + (at[size] == ';');
    }
    return 0;
}

int tl__faults_open(tl_faults *faults, int rank, tl_error *err) {
    const char *restarts = getenv("TRILITH_RESTART");
    double restart = 0;
    tl_faults all;
    *faults = (tl_faults){0};
    if (restarts && !read_whole(restarts, strlen(restarts), 1e9, &restart))
        return tl__fail(err, TL_EINVALID, "TRILITH_RESTART: '%.40s' is not a whole number; unset it", restarts);
    TRY(tl__faults_parse(&all, getenv("TRILITH_FAULT"), (int64_t)restart, err));
    for (int i = 0; i < all.n; i++) {
        if (all.list[i].rank != rank) continue;
        faults->list[faults->n++] = all.list[i];
        tl__warn("TRILITH_FAULT is set: rank %d will %s at step %lld, on purpose", rank, kinds[all.list[i].kind],
                 (long long)all.list[i].step);
    }
    return 0;
}

/* ---- bringing about ---- */

/* A high bit of the mantissa of one number near the middle that is not 0: what is computed from it stays finite. */
static void flip_bit(float *values, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        float *x = &values[(n / 2 + i) % n];
        uint32_t bits;
        if (*x == 0.0f) continue;
        memcpy(&bits, x, sizeof bits);
        bits ^= UINT32_C(1) << 21;
        memcpy(x, &bits, sizeof bits);
        return;
    }
}

static void sleep_for(double seconds) {
    struct timespec left = {.tv_sec = (time_t)seconds, .tv_nsec = (long)((seconds - floor(seconds)) * 1e9)};
    while (nanosleep(&left, &left) && errno == EINTR) {
    }
}

void tl__faults_act(tl_faults *faults, tl_fault_point at, int64_t step, float *values, int64_t n) {
    for (int i = 0; i < faults->n; i++) {
        tl_fault *f = &faults->list[i];
        if (f->at != at || f->step != step || f->done) continue;
        f->done = f->kind != TL_FAULT_FLIP || values;
        switch (f->kind) {
        case TL_FAULT_KILL:
            raise(SIGKILL);
            break;
        case TL_FAULT_STOP:
            raise(SIGSTOP);
            break;
        case TL_FAULT_EXIT:
            _exit(f->status);
        case TL_FAULT_SLEEP:
            sleep_for(f->seconds);
            break;
        case TL_FAULT_FLIP:
            if (values) flip_bit(values, n);
            break;
        }
    }
}
