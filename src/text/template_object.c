/* template_object.c — what a value answers when it is asked for its truth, length, attributes, items, one after the
 * other: Python's protocols, through jinja2's sandbox. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include "text/template_eval.h"
#include "text/unicode.h"

tl_value tl__undefined(tl_run *run, const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    char *why = tl__memory_take(&run->memory, strlen(text) + 1);
    strcpy(why, text);
    return (tl_value){.kind = TL_V_UNDEFINED, .why = why};
}

static int64_t loop_length(tl_run *run, tl_loop *loop) {
    if (loop->has_length) return loop->length;
    tl_value source = loop->it->source;
    bool sized = !loop->it->make && !loop->it->keep && source.kind != TL_V_ITERATOR && loop->it->label == NULL;
    if (sized) {
        loop->length = source.kind == TL_V_STRING ? (int64_t)source.s->chars : tl__length(run, source);
    } else { /* what is left is walked through now, as jinja2 does */
        tl_value rest = tl__list_new(&run->memory, TL_V_LIST, 0);
        for (tl_value item; tl__next(run, loop->it, &item);) tl__list_add(&run->memory, rest.list, item);
        loop->it = tl__iterate(run, rest);
        loop->length = (int64_t)rest.list->n + loop->index0 + 1 + loop->has_after;
    }
    loop->has_length = true;
    return loop->length;
}

bool tl__has_length(tl_value v) {
    return v.kind == TL_V_STRING || v.kind == TL_V_LIST || v.kind == TL_V_TUPLE || v.kind == TL_V_DICT ||
           v.kind == TL_V_VIEW || v.kind == TL_V_RANGE || v.kind == TL_V_UNDEFINED || v.kind == TL_V_LOOP;
}

int64_t tl__length(tl_run *run, tl_value v) {
    switch (v.kind) {
    case TL_V_UNDEFINED:
        return 0;
    case TL_V_STRING:
        return (int64_t)v.s->chars;
    case TL_V_LIST:
    case TL_V_TUPLE:
        return (int64_t)v.list->n;
    case TL_V_DICT:
    case TL_V_VIEW:
        return (int64_t)v.dict->n;
    case TL_V_RANGE:
        return v.range->n;
    case TL_V_LOOP:
        return loop_length(run, v.loop);
    default:
        tl__run_fail(run, "a value of type %s has no length", tl__value_type(v));
    }
}

bool tl__truth(tl_run *run, tl_value v) {
    switch (v.kind) {
    case TL_V_MISSING:
    case TL_V_UNDEFINED:
    case TL_V_NONE:
        return false;
    case TL_V_BOOL:
        return v.b;
    case TL_V_INT:
        return v.i != 0;
    case TL_V_FLOAT:
        return v.f != 0;
    default:
        return !tl__has_length(v) || tl__length(run, v) > 0;
    }
}

size_t tl__offset(const tl_string *s, size_t i) {
    if (s->chars == s->n) return i;
    size_t at = 0;
    while (i > 0 && at < s->n) {
        at++;
        while (at < s->n && (s->bytes[at] & 0xC0) == 0x80) at++;
        i--;
    }
    return at;
}

/* ---- items ---- */

static tl_value no_item(tl_run *run, tl_value of, tl_value key) {
    if (key.kind == TL_V_STRING)
        return tl__undefined(run, "'%s object' has no attribute '%.100s'", tl__value_type(of),
                             tl__string_copy(&run->memory, key.s->bytes, key.s->n)->bytes);
    tl_text t = {.m = &run->memory};
    const char *why;
    if (!tl__value_repr(&t, key, 0, &why)) tl__text_c(&t, why);
    tl__text_char(&t, 0, false);
    return tl__undefined(run, "%s object has no element %.100s", tl__value_type(of), t.bytes);
}

static bool item_at(tl_run *run, tl_value of, tl_value key, tl_value *out) {
    if (of.kind == TL_V_DICT) {
        if (!tl__value_hashable(key)) return false;
        const tl_value *found = tl__dict_get(of.dict, key);
        if (found) *out = *found;
        return found != NULL;
    }
    if (!tl__value_whole(key)) return false;
    int64_t i = tl__value_int(key), n;
    if (of.kind == TL_V_STRING) n = (int64_t)of.s->chars;
    else if (of.kind == TL_V_LIST || of.kind == TL_V_TUPLE) n = (int64_t)of.list->n;
    else if (of.kind == TL_V_RANGE) n = of.range->n;
    else return false;
    if (i < 0) i += n;
    if (i < 0 || i >= n) return false;
    if (of.kind == TL_V_STRING) {
        size_t from = tl__offset(of.s, (size_t)i);
        uint32_t c;
        int width = tl__utf8_at((const uint8_t *)of.s->bytes + from, &c);
        *out = tl__str(tl__string_part(&run->memory, of.s, from, (size_t)width));
        tl__run_steps(run, i / 64);
    } else if (of.kind == TL_V_RANGE) {
        *out = tl__int(of.range->start + i * of.range->step);
    } else {
        *out = of.list->at[i];
    }
    return true;
}

/* ---- attributes ---- */

static bool loop_attribute(tl_run *run, tl_loop *loop, const tl_string *name, tl_value *out) {
    if (tl__string_is(name, "index")) *out = tl__int(loop->index0 + 1);
    else if (tl__string_is(name, "index0")) *out = tl__int(loop->index0);
    else if (tl__string_is(name, "first")) *out = tl__bool(loop->index0 == 0);
    else if (tl__string_is(name, "length")) *out = tl__int(loop_length(run, loop));
    else if (tl__string_is(name, "revindex")) *out = tl__int(loop_length(run, loop) - loop->index0);
    else if (tl__string_is(name, "revindex0")) *out = tl__int(loop_length(run, loop) - loop->index0 - 1);
    else if (tl__string_is(name, "depth")) *out = tl__int(loop->depth0 + 1);
    else if (tl__string_is(name, "depth0")) *out = tl__int(loop->depth0);
    else if (tl__string_is(name, "previtem"))
        *out = loop->index0 == 0 ? tl__undefined(run, "there is no previous item") : loop->before;
    else if (tl__string_is(name, "last") || tl__string_is(name, "nextitem")) {
        if (!loop->has_after && !loop->ended) {
            loop->has_after = tl__next(run, loop->it, &loop->after);
            loop->ended = !loop->has_after;
        }
        if (name->n == 4) *out = tl__bool(!loop->has_after);
        else *out = loop->has_after ? loop->after : tl__undefined(run, "there is no next item");
    } else {
        return false;
    }
    return true;
}

/* What Python's getattr finds; jinja2's sandbox then refuses what begins with '_' or would change a list or dict. */
static bool own_attribute(tl_run *run, tl_value of, const tl_string *name, tl_value *out) {
    if (of.kind == TL_V_NAMESPACE) {
        const tl_value *found = tl__dict_get(of.dict, tl__str(name));
        if (found) *out = *found;
        return found != NULL;
    }
    if (of.kind == TL_V_LOOP && loop_attribute(run, of.loop, name, out)) return true;
    if (of.kind == TL_V_CYCLER && tl__string_is(name, "current")) {
        *out = of.cycler->items.at[of.cycler->at];
        return true;
    }
    if (of.kind == TL_V_MACRO && tl__string_is(name, "name")) {
        *out = of.macro->node->text ? tl__str(of.macro->node->text) : tl__none();
        return true;
    }
    int method = tl__method_find(of, name);
    if (method == -2)
        tl__run_fail(run, "the attribute '%.*s' of a value of type %s is not supported", (int)name->n, name->bytes,
                     tl__value_type(of));
    if (method < 0) return false;
    tl_bound *bound = TL_NEW(&run->memory, tl_bound, 1);
    bound->self = of;
    *out = (tl_value){.kind = TL_V_METHOD, .which = method, .bound = bound};
    return true;
}

tl_value tl__attribute(tl_run *run, tl_value of, const tl_string *name) {
    tl__run_defined(run, of);
    tl_value out, key = tl__str(name);
    if (own_attribute(run, of, name, &out)) return out;
    if (item_at(run, of, key, &out)) return out;
    return no_item(run, of, key);
}

tl_value tl__item(tl_run *run, tl_value of, tl_value key) {
    tl__run_defined(run, of);
    if (key.kind == TL_V_STRING) tl__run_steps(run, (int64_t)key.s->n / 64);
    tl_value out;
    if (item_at(run, of, key, &out)) return out;
    if (key.kind == TL_V_STRING && own_attribute(run, of, key.s, &out)) return out;
    return no_item(run, of, key);
}

/* ---- slices ---- */

static int64_t clamp(int64_t i, int64_t n, int64_t low, int64_t high) {
    if (i < 0) i = i < -n ? low : i + n;
    return i < low ? low : i > high ? high : i;
}

tl_value tl__slice(tl_run *run, tl_value of, const tl_value bound[3]) {
    tl__run_defined(run, of);
    if (of.kind != TL_V_STRING && of.kind != TL_V_LIST && of.kind != TL_V_TUPLE && of.kind != TL_V_RANGE)
        tl__run_fail(run, "a value of type %s cannot be sliced", tl__value_type(of));
    int64_t n = tl__length(run, of), step = 1;
    for (int i = 0; i < 3; i++)
        if (bound[i].kind != TL_V_NONE && !tl__value_whole(bound[i])) {
            tl__run_defined(run, bound[i]);
            tl__run_fail(run, "the bounds of a slice are whole numbers, not a value of type %s",
                         tl__value_type(bound[i]));
        }
    if (bound[2].kind != TL_V_NONE) step = tl__value_int(bound[2]);
    if (step == 0) tl__run_fail(run, "the step of a slice cannot be zero");
    int64_t low = step < 0 ? -1 : 0, high = step < 0 ? n - 1 : n;
    int64_t start = bound[0].kind == TL_V_NONE ? (step < 0 ? high : low) : clamp(tl__value_int(bound[0]), n, low, high);
    int64_t stop = bound[1].kind == TL_V_NONE ? (step < 0 ? low : high) : clamp(tl__value_int(bound[1]), n, low, high);
    uint64_t span =
        step < 0 ? (start > stop ? (uint64_t)(start - stop) : 0) : (stop > start ? (uint64_t)(stop - start) : 0);
    uint64_t stride = step < 0 ? 0 - (uint64_t)step : (uint64_t)step;
    int64_t count = (int64_t)(span ? (span - 1) / stride + 1 : 0);
    tl__run_steps(run, count / 16 + (of.kind == TL_V_STRING ? (int64_t)of.s->n / 64 : 0));
    if (of.kind == TL_V_RANGE) {
        tl_range *r = TL_NEW(&run->memory, tl_range, 1);
        *r = (tl_range){of.range->start + start * of.range->step, of.range->start + stop * of.range->step,
                        of.range->step * step, count};
        return (tl_value){.kind = TL_V_RANGE, .range = r};
    }
    if (of.kind == TL_V_STRING && step == 1) {
        size_t from = tl__offset(of.s, (size_t)start), to = from;
        if (count) {
            tl_string rest = {
                .bytes = of.s->bytes + from, .n = of.s->n - from, .chars = of.s->chars == of.s->n ? of.s->n - from : 0};
            to = from + tl__offset(&rest, (size_t)count);
        }
        return tl__str(tl__string_part(&run->memory, of.s, from, to - from));
    }
    if (of.kind == TL_V_STRING) {
        size_t *offset = TL_NEW(&run->memory, size_t, of.s->chars + 1), at = 0;
        for (size_t i = 0; i < of.s->chars; i++) {
            uint32_t c;
            offset[i] = at;
            at += (size_t)tl__utf8_at((const uint8_t *)of.s->bytes + at, &c);
        }
        offset[of.s->chars] = at;
        tl_text t = {.m = &run->memory};
        for (int64_t i = 0, k = start; i < count; i++, k += i < count ? step : 0)
            tl__text_add(&t, of.s->bytes + offset[k], offset[k + 1] - offset[k],
                         of.s->data ? of.s->data + offset[k] : NULL);
        return tl__str(tl__text_done(&t));
    }
    tl_value out = tl__list_new(&run->memory, of.kind, (size_t)count);
    for (int64_t i = 0, k = start; i < count; i++, k += i < count ? step : 0)
        tl__list_add(&run->memory, out.list, of.list->at[k]);
    return out;
}

/* ---- one after the other ---- */

bool tl__iterable(tl_value v) {
    return v.kind == TL_V_UNDEFINED || v.kind == TL_V_STRING || v.kind == TL_V_LIST || v.kind == TL_V_TUPLE ||
           v.kind == TL_V_DICT || v.kind == TL_V_VIEW || v.kind == TL_V_RANGE || v.kind == TL_V_ITERATOR ||
           v.kind == TL_V_LOOP;
}

static tl_value pair_of(tl_run *run, tl_pair p) {
    tl_value t = tl__list_new(&run->memory, TL_V_TUPLE, 2);
    tl__list_add(&run->memory, t.list, p.key);
    tl__list_add(&run->memory, t.list, p.value);
    return t;
}

tl_iterator *tl__iterate(tl_run *run, tl_value v) {
    if (v.kind == TL_V_ITERATOR) return v.iterator;
    tl_iterator *it = TL_NEW(&run->memory, tl_iterator, 1);
    it->source = v;
    if (v.kind == TL_V_UNDEFINED) {
        it->source = tl__list_new(&run->memory, TL_V_LIST, 0);
    } else if (v.kind == TL_V_DICT || v.kind == TL_V_VIEW) {
        int which = v.kind == TL_V_DICT ? 0 : v.which;
        it->source = tl__list_new(&run->memory, TL_V_LIST, v.dict->n);
        tl__run_steps(run, (int64_t)v.dict->n / 4);
        for (size_t i = 0; i < v.dict->n; i++)
            tl__list_add(&run->memory, it->source.list,
                         which == 0   ? v.dict->at[i].key
                         : which == 1 ? v.dict->at[i].value
                                      : pair_of(run, v.dict->at[i]));
    } else if (v.kind == TL_V_LOOP) {
        tl__run_fail(run, "walking through 'loop' itself is not supported");
    } else if (!tl__iterable(v)) {
        tl__run_fail(run, "a value of type %s cannot be iterated over", tl__value_type(v));
    }
    return it;
}

tl_value tl__iterator_new(tl_run *run, void (*make)(tl_run *, tl_iterator *), void *more, const char *label) {
    tl_iterator *it = TL_NEW(&run->memory, tl_iterator, 1);
    *it = (tl_iterator){.make = make, .more = more, .label = label ? label : "generator"};
    return (tl_value){.kind = TL_V_ITERATOR, .iterator = it};
}

static bool next_raw(tl_run *run, tl_iterator *it, tl_value *item) {
    tl_value v = it->source;
    switch (v.kind) {
    case TL_V_ITERATOR:
        return tl__next(run, v.iterator, item);
    case TL_V_STRING: {
        if (it->at >= v.s->n) return false;
        uint32_t c;
        size_t width = (size_t)tl__utf8_at((const uint8_t *)v.s->bytes + it->at, &c);
        *item = tl__str(tl__string_part(&run->memory, v.s, it->at, width));
        it->at += width;
        return true;
    }
    case TL_V_RANGE:
        if ((int64_t)it->at >= v.range->n) return false;
        *item = tl__int(v.range->start + (int64_t)it->at++ * v.range->step);
        return true;
    default:
        if (it->at >= v.list->n) return false;
        *item = v.list->at[it->at++];
        return true;
    }
}

bool tl__next(tl_run *run, tl_iterator *it, tl_value *item) {
    tl__run_steps(run, 1);
    if (it->make) {
        void (*make)(tl_run *, tl_iterator *) = it->make;
        it->make = NULL;
        it->source = tl__list_new(&run->memory, TL_V_LIST, 0);
        make(run, it);
    }
    while (next_raw(run, it, item))
        if (!it->keep || it->keep(run, it, *item)) return true;
    return false;
}

tl_value tl__list_of(tl_run *run, tl_value v, tl_value_kind kind) {
    tl_iterator *it = tl__iterate(run, v);
    tl_value out = tl__list_new(&run->memory, kind, 0);
    for (tl_value item; tl__next(run, it, &item);) tl__list_add(&run->memory, out.list, item);
    return out;
}
