/* template_global.c — the functions that every template sees. */
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include "text/template_eval.h"

#define MOST_RANGE 100000 /* as jinja2's sandbox */

typedef enum global { G_RAISE, G_STRFTIME, G_NAMESPACE, G_RANGE, G_DICT, G_JOINER, G_CYCLER, G_LIPSUM, GLOBALS } global;

static const char *const names[GLOBALS] = {"raise_exception", "strftime_now", "namespace", "range", "dict",
                                           "joiner",          "cycler",       "lipsum"};

int tl__global_find(const tl_string *name) {
    for (int i = 0; i < GLOBALS; i++)
        if (tl__string_is(name, names[i])) return i;
    return -1;
}

/* dict(mapping or pairs, name=value …) */
static tl_value dict(tl_run *run, const tl_args *args, tl_value_kind kind) {
    tl_value v = tl__dict_new(&run->memory, kind);
    if (args->n > 1)
        tl__run_fail(run, "%s takes one value and others by name", names[kind == TL_V_DICT ? G_DICT : G_NAMESPACE]);
    if (args->n && args->at[0].kind == TL_V_DICT) {
        for (size_t i = 0; i < args->at[0].dict->n; i++)
            tl__dict_set(&run->memory, v.dict, args->at[0].dict->at[i].key, args->at[0].dict->at[i].value);
    } else if (args->n) {
        tl_iterator *it = tl__iterate(run, args->at[0]);
        for (tl_value item; tl__next(run, it, &item);) {
            tl_value pair = tl__list_of(run, item, TL_V_TUPLE);
            if (pair.list->n != 2 || !tl__value_hashable(pair.list->at[0]))
                tl__run_fail(run, "dict wants pairs of a key and a value");
            tl__dict_set(&run->memory, v.dict, pair.list->at[0], pair.list->at[1]);
        }
    }
    for (int i = 0; i < args->names; i++) tl__dict_set(&run->memory, v.dict, tl__str(args->name[i]), args->named[i]);
    for (size_t i = 0; kind == TL_V_NAMESPACE && i < v.dict->n; i++)
        if (v.dict->at[i].key.kind == TL_V_STRING && v.dict->at[i].key.s->n && v.dict->at[i].key.s->bytes[0] == '_')
            tl__run_fail(run, "the attributes of a namespace must not begin with '_'");
    return v;
}

static tl_value range(tl_run *run, const tl_args *args) {
    int64_t bound[3] = {0, 0, 1};
    if (args->names || args->n < 1 || args->n > 3) tl__run_fail(run, "range takes one to three whole numbers");
    for (int i = 0; i < args->n; i++) {
        tl__run_defined(run, args->at[i]);
        if (!tl__value_whole(args->at[i]))
            tl__run_fail(run, "range takes whole numbers, not a value of type %s", tl__value_type(args->at[i]));
        bound[args->n == 1 ? 1 : i] = tl__value_int(args->at[i]);
    }
    if (bound[2] == 0) tl__run_fail(run, "the step of a range cannot be zero");
    __int128 span = bound[2] > 0 ? (__int128)bound[1] - bound[0] : (__int128)bound[0] - bound[1];
    __int128 step = bound[2] > 0 ? (__int128)bound[2] : -(__int128)bound[2];
    __int128 n = span > 0 ? (span - 1) / step + 1 : 0;
    if (n > MOST_RANGE) tl__run_fail(run, "a range of more than %d numbers is refused", MOST_RANGE);
    tl_range *r = TL_NEW(&run->memory, tl_range, 1);
    *r = (tl_range){bound[0], bound[1], bound[2], (int64_t)n};
    return (tl_value){.kind = TL_V_RANGE, .range = r};
}

/* datetime.now().strftime(format): of a time without a zone. */
static tl_value strftime_now(tl_run *run, const tl_args *args) {
    tl_value a[1];
    tl__bind(run, "strftime_now", args, "format", 1, a);
    const tl_string *format = tl__string_or(run, "strftime_now", a[0], NULL);
    struct timeval now;
    struct tm local;
    gettimeofday(&now, NULL);
    localtime_r(&now.tv_sec, &local);
    tl_text t = {.m = &run->memory};
    for (size_t i = 0; i < format->n; i++) {
        char one[256], spec[4] = {'%', 0, 0, 0};
        if (format->bytes[i] != '%' || i + 1 >= format->n) {
            tl__text_add(&t, format->bytes + i, 1, format->data ? format->data + i : NULL);
            continue;
        }
        i++;
        spec[1] = format->bytes[i];
        if (spec[1] == '-' && i + 1 < format->n) spec[2] = format->bytes[++i];
        char kind = spec[2] ? spec[2] : spec[1];
        if (kind == 'z' || kind == 'Z' || kind == ':') continue; /* no zone */
        if (kind == 'f') {
            static const char digit[] = "0123456789";
            for (int64_t unit = 100000; unit; unit /= 10) tl__text_add(&t, digit + now.tv_usec / unit % 10, 1, NULL);
            continue;
        }
        if (!strchr("aAbBcCdDeFgGhHIjklmMnpPrRsStTuUVwWxXyY%", kind))
            tl__run_fail(run, "strftime_now: the format '%%%c' is not supported", kind);
        size_t n = strftime(one, sizeof one, spec, &local);
        tl__text_add(&t, one, n, NULL);
    }
    return tl__str(tl__text_done(&t));
}

tl_value tl__global_call(tl_run *run, int index, const tl_args *args) {
    tl_value a[1];
    switch ((global)index) {
    case G_RAISE:
        tl__bind(run, "raise_exception", args, "message", 1, a);
        tl__run_raise(run, tl__to_string(run, a[0]));
    case G_STRFTIME:
        return strftime_now(run, args);
    case G_NAMESPACE:
        return dict(run, args, TL_V_NAMESPACE);
    case G_RANGE:
        return range(run, args);
    case G_DICT:
        return dict(run, args, TL_V_DICT);
    case G_JOINER:
    case G_CYCLER: {
        tl_cycler *c = TL_NEW(&run->memory, tl_cycler, 1);
        if (index == G_CYCLER) {
            if (args->names || !args->n) tl__run_fail(run, "cycler wants something to cycle through");
            c->items = (tl_list_value){args->at, (size_t)args->n, (size_t)args->n};
            return (tl_value){.kind = TL_V_CYCLER, .cycler = c};
        }
        tl__bind(run, "joiner", args, "sep", 0, a);
        tl__list_add(&run->memory, &c->items,
                     a[0].kind == TL_V_MISSING ? tl__str(tl__string(&run->memory, ", ", 2, NULL)) : a[0]);
        return (tl_value){.kind = TL_V_JOINER, .cycler = c};
    }
    default:
        tl__run_fail(run, "%s is not supported", names[index]);
    }
}
