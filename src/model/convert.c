/* convert.c — owns the way of the weights from one form to another: which tensors the output has, in which types, where
 * their numbers come from, and how they pass through: read, widened, narrowed, written, a chunk at a time. What the
 * forms keep beside their tensors is in convert_metadata.c. */
#include "model/convert.h"

#include <assert.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocks.h"
#include "model/convert_parts.h"

#define CHUNK ((int64_t)1 << 22) /* elements at once */
#define TASK ((int64_t)1 << 14)  /* of them a thread takes in turn: whole blocks */

typedef struct item { /* a tensor of the output */
    const char *name;
    tl_type to;
    int dims;
    int64_t shape[TL_MAX_DIMS], elements;
    const tl_tensor_info *t; /* within one form: the same of the input */
    tl_gguf_place place;     /* between forms, to GGUF */
    int param, experts;      /* between forms: of params; the tensor joins so many (1: it is one parameter) */
} item;

typedef struct conversion {
    tl_conversion c;
    tl_converted *done;
    item *items;
    int n;
    unsigned char *raw, *out; /* a chunk before and after */
    float *wide;
    tl_gguf_out *gguf; /* the one of the two that is open */
    tl_sink *sink;
} conversion;

/* ---- types ---- */

static bool ends_with(const char *text, const char *end) {
    const size_t n = strlen(text), m = strlen(end);
    return n >= m && !strcmp(text + n - m, end);
}

/* What llama.cpp's tools leave as it is: vectors, gains of norms, routers, learned positions. */
static bool stays_float(const char *name, int dims) {
    return dims < 2 || !ends_with(name, "weight") || strstr(name, "_norm.weight") ||
           strstr(name, "ffn_gate_inp.weight") || !strcmp(name, "position_embd.weight") ||
           !strcmp(name, "token_types.weight");
}

/* The type in which rows of so many elements can be kept, as llama-quantize chooses it. */
static tl_type fitting(tl_type type, int64_t row) {
    if (row % tl__type_block(type) == 0) return type;
    const tl_type less = type == TL_Q4_K ? TL_Q5_0 : type == TL_Q5_K ? TL_Q5_1 : type == TL_Q6_K ? TL_Q8_0 : TL_F16;
    return row % tl__type_block(less) == 0 ? less : TL_F16;
}

static tl_type choose_type(conversion *v, const char *name, int dims, int64_t row, tl_type stored) {
    const tl_type wanted = v->c.job->type;
    if (!tl__can_widen(stored)) return stored; /* whole numbers, flags */
    if (!v->c.to_gguf) return wanted != TL_TYPES ? wanted : tl__type_quantised(stored) ? TL_F32 : stored;
    if (stays_float(name, dims)) return v->c.same_form ? stored : TL_F32;
    if (wanted == TL_TYPES) return tl__gguf_type_number(stored) < 0 ? TL_BF16 : stored; /* F8 is exact in BF16 */
    const tl_type fits = fitting(wanted, row);
    v->done->demoted += fits != wanted;
    return fits;
}

static int check_type(const tl_conversion *c, tl_error *err) {
    const tl_type type = c->job->type;
    if (type == TL_TYPES) return 0;
    if (!tl__can_narrow(type))
        return tl__fail(err, TL_EUNSUPPORTED,
                        "weights cannot be converted to %s; F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, "
                        "Q5_1, Q4_K, Q5_K and Q6_K are written",
                        tl__type_name(type));
    if (!c->to_gguf && tl__type_quantised(type))
        return tl__fail(err, TL_EINVALID,
                        "%s: a folder of safetensors holds F32, F16 or BF16; for %s give a name that ends "
                        "in .gguf",
                        c->job->out, tl__type_name(type));
    return 0;
}

/* ---- which tensors ---- */

static item *add_item(conversion *v, const char *name, int dims, const int64_t *shape, tl_type stored) {
    item *it = &v->items[v->n++];
    *it = (item){.name = name, .dims = dims, .elements = 1, .experts = 1, .param = -1};
    for (int d = 0; d < dims; d++) it->shape[d] = shape[d], it->elements *= shape[d];
    it->to = choose_type(v, name, dims, dims ? shape[dims - 1] : 1, stored);
    return it;
}

static int list_same(conversion *v, tl_error *err) {
    const tl_gguf *g = tl__source_gguf(v->c.source);
    const tl_safetensors *st = tl__source_safetensors(v->c.source);
    const int n = g ? tl__gguf_count(g) : tl__safetensors_count(st);
    v->items = calloc((size_t)n + 1, sizeof *v->items);
    if (!v->items) return tl__fail(err, TL_ENOMEM, "no memory for the list of %d tensors", n);
    for (int i = 0; i < n; i++) {
        const tl_tensor_info *t = g ? tl__gguf_tensor_at(g, i) : tl__safetensors_at(st, i);
        add_item(v, t->name, t->dims, t->shape, t->type)->t = t;
    }
    return 0;
}

static int list_params(conversion *v, tl_error *err) {
    tl_conversion *c = &v->c;
    TRY(tl__source_arch(&c->arch, c->source, err));
    if (c->to_gguf) c->arch.layout = TL_OUT_IN;
    TRY(tl__params_make(&c->params, &c->arch, err));
    TRY(tl__source_match(c->source, &c->arch, &c->params, err));
    v->items = calloc((size_t)c->params.n + 1, sizeof *v->items);
    if (!v->items) return tl__fail(err, TL_ENOMEM, "no memory for the list of %d tensors", c->params.n);
    for (int i = 0; i < c->params.n; i++) {
        const tl_param *p = &c->params.list[i];
        tl_gguf_place place = {.expert = -1};
        if (c->to_gguf && !tl__gguf_place(&place, &c->arch, &c->params, i))
            return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' has no place in a GGUF file of a %s model",
                            tl__source_path(c->source), p->name, c->arch.family);
        if (place.expert > 0) continue; /* in expert 0's */
        int64_t shape[3] = {c->arch.E, p->shape[0], p->shape[1]};
        const bool joined = place.expert == 0;
        item *it = add_item(v, c->to_gguf ? place.name : p->name, p->dims + joined, joined ? shape : p->shape,
                            tl__source_type(c->source, i));
        it->param = i, it->place = place;
        if (c->to_gguf) it->name = it->place.name;
        if (joined) it->experts = c->arch.E;
    }
    return 0;
}

/* ---- a chunk ---- */

typedef struct passage {
    tl_type from, to;
    const unsigned char *raw; /* NULL: `wide` is filled */
    float *wide;
    unsigned char *out;
    int64_t n;
    bool lost[CHUNK / TASK + 1]; /* a task found a number that `to` does not hold */
} passage;

/* Quantisers want finite numbers; a half may not turn a finite one into an infinite. */
static bool holds(tl_type to, float x) {
    if (tl__type_quantised(to)) return isfinite(x);
    return to != TL_F16 || !(fabsf(x) >= 65520 && isfinite(x));
}

static void pass(void *user, int64_t i, int worker) {
    passage *p = user;
    (void)worker;
    const int64_t first = i * TASK, n = p->n - first < TASK ? p->n - first : TASK;
    float *wide = p->wide + first;
    if (p->raw) tl__widen(wide, p->from, p->raw + tl__type_size(p->from, first), n);
    for (int64_t k = 0; k < n; k++) p->lost[i] |= !holds(p->to, wide[k]);
    if (!p->lost[i]) tl__narrow(p->out + tl__type_size(p->to, first), p->to, wide, n);
}

static int write_bytes(conversion *v, const void *bytes, int64_t n, tl_error *err) {
    v->done->bytes += n;
    return v->gguf ? tl__gguf_write(v->gguf, bytes, (size_t)n, err) : tl__sink_write(v->sink, bytes, (size_t)n, err);
}

/* n elements in v->raw, of type `from`; or in v->wide, from TL_TYPES. */
static int write_chunk(conversion *v, const item *it, tl_type from, int64_t n, tl_error *err) {
    if (from == it->to) return write_bytes(v, v->raw, tl__type_size(from, n), err);
    passage p = {from, it->to, from == TL_TYPES ? NULL : v->raw, v->wide, v->out, n, {0}};
    const int64_t tasks = (n + TASK - 1) / TASK;
    assert(tasks <= (int64_t)sizeof p.lost);
    tl__parallel_for(v->c.job->pool, tasks, pass, &p);
    for (int64_t i = 0; i < tasks; i++)
        for (int64_t k = i * TASK; p.lost[i] && k < n; k++)
            if (!holds(it->to, v->wide[k]))
                return tl__fail(err, TL_EUNSUPPORTED, "%s: tensor '%s' holds %g, which %s does not; convert it to %s",
                                tl__source_path(v->c.source), it->name, (double)v->wide[k], tl__type_name(it->to),
                                tl__type_quantised(it->to) ? "F32 or BF16" : "BF16");
    return write_bytes(v, v->out, tl__type_size(it->to, n), err);
}

/* ---- a tensor ---- */

static int copy_tensor(conversion *v, const item *it, tl_error *err) {
    const tl_gguf *g = tl__source_gguf(v->c.source);
    const tl_safetensors *st = tl__source_safetensors(v->c.source);
    for (int64_t done = 0; done < it->elements; done += CHUNK) {
        const int64_t n = it->elements - done < CHUNK ? it->elements - done : CHUNK;
        const int64_t from = tl__type_size(it->t->type, done), bytes = tl__type_size(it->t->type, n);
        TRY(g ? tl__gguf_read(g, it->t, v->raw, from, (size_t)bytes, err)
              : tl__safetensors_read_part(st, it->t, v->raw, from, (size_t)bytes, err));
        TRY(write_chunk(v, it, it->t->type, n, err));
    }
    return 0;
}

/* A vector: through f32, since a gain's 1 comes and goes; its elements may be ordered by head. */
static int write_vector(conversion *v, const item *it, tl_error *err) {
    TRY(tl__source_read_f32(v->c.source, it->param, v->wide, err));
    float *x = (float *)v->raw;
    memcpy(x, v->wide, (size_t)it->elements * sizeof *x);
    for (int64_t r = 0; r < it->elements; r++)
        v->wide[r] = x[tl__gguf_param_row(r, it->elements, it->place.heads)] + it->place.add;
    return write_chunk(v, it, TL_TYPES, it->elements, err);
}

static int write_matrix(conversion *v, const item *it, int param, tl_error *err) {
    const tl_weight_source *s = v->c.source;
    const int64_t rows = v->c.params.list[param].shape[0], cols = v->c.params.list[param].shape[1];
    const int64_t most = cols < CHUNK ? CHUNK / cols : 1;
    const tl_type from = tl__source_type(s, param);
    const int64_t row_bytes = tl__type_size(from, cols);
    for (int64_t r = 0; r < rows; r += most) {
        const int64_t n = rows - r < most ? rows - r : most;
        if (!it->place.heads) TRY(tl__source_rows(s, param, r, n, v->raw, err));
        for (int64_t k = 0; k < n && it->place.heads; k++)
            TRY(tl__source_rows(s, param, tl__gguf_param_row(r + k, rows, it->place.heads), 1, v->raw + k * row_bytes,
                                err));
        TRY(write_chunk(v, it, from, n * cols, err));
    }
    return 0;
}

static int write_tensor(conversion *v, const item *it, tl_error *err) {
    v->done->tensors[it->to]++;
    v->done->elements[it->to] += it->elements;
    if (it->t) return copy_tensor(v, it, err);
    if (it->dims == 1) return write_vector(v, it, err);
    for (int e = 0; e < it->experts; e++) TRY(write_matrix(v, it, it->param + e * TL_EXPERT_STRIDE, err));
    return 0;
}

/* ---- a file ---- */

static int write_gguf(conversion *v, tl_error *err) {
    TRY(tl__gguf_create(&v->gguf, v->c.job->out, err));
    TRY(tl__convert_keys(&v->c, v->gguf, err));
    float factors[TL_MAX_HEAD_DIM / 2];
    const bool scaled = !v->c.same_form && tl__gguf_rope_factors(factors, &v->c.arch);
    const int64_t half = v->c.arch.D / 2;
    if (scaled) TRY(tl__gguf_declare(v->gguf, "rope_freqs.weight", TL_F32, 1, &half, err));
    for (int i = 0; i < v->n; i++)
        TRY(tl__gguf_declare(v->gguf, v->items[i].name, v->items[i].to, v->items[i].dims, v->items[i].shape, err));
    if (scaled) TRY(write_bytes(v, factors, half * (int64_t)sizeof *factors, err));
    for (int i = 0; i < v->n; i++) TRY(write_tensor(v, &v->items[i], err));
    tl_gguf_out *out = v->gguf;
    v->gguf = NULL;
    v->done->files = 1;
    return tl__gguf_publish(out, err);
}

static int64_t item_bytes(const item *it) {
    return tl__type_size(it->to, it->elements);
}

/* Items [first, end) of shard i of n. */
static int write_shard(conversion *v, int first, int end, int i, int n, json_t *index, tl_error *err) {
    char name[256] = "model.safetensors", path[4096];
    if (n > 1) tl__safetensors_shard_name(name, sizeof name, "model.safetensors", i, n);
    tl__path_join(path, sizeof path, v->c.job->out, name);
    tl_tensor_out *list = calloc((size_t)(end - first) + 1, sizeof *list);
    if (!list) return tl__fail(err, TL_ENOMEM, "no memory for the list of %d tensors", end - first);
    for (int k = first; k < end; k++) {
        const item *it = &v->items[k];
        list[k - first] = (tl_tensor_out){.name = it->name, .type = it->to, .dims = it->dims};
        memcpy(list[k - first].shape, it->shape, sizeof it->shape);
        json_object_set_new(index, it->name, json_string(name));
    }
    int rc = tl__sink_open(&v->sink, path, err);
    if (!rc) rc = tl__safetensors_write_header(v->sink, list, end - first, err);
    free(list);
    for (int k = first; k < end && !rc; k++) rc = write_tensor(v, &v->items[k], err);
    if (rc) return rc;
    tl_sink *sink = v->sink;
    v->sink = NULL;
    return tl__sink_publish(sink, err);
}

/* The items of a shard from `first` on: as many as fit. */
static int shard_end(const conversion *v, int first) {
    int64_t bytes = 0;
    int k = first;
    while (k < v->n &&
           (k == first || !v->c.job->shard_bytes || bytes + item_bytes(&v->items[k]) <= v->c.job->shard_bytes))
        bytes += item_bytes(&v->items[k++]);
    return k;
}

static int write_folder(conversion *v, tl_error *err) {
    TRY(tl__folder_make(v->c.job->out, err));
    json_t *index = json_object();
    int shards = 0, rc = 0;
    for (int first = 0; first < v->n; first = shard_end(v, first)) shards++;
    for (int first = 0, i = 0; first < v->n && !rc; first = shard_end(v, first), i++)
        rc = write_shard(v, first, shard_end(v, first), i, shards, index, err);
    v->done->files = shards;
    if (!rc && shards > 1) {
        char path[4096];
        tl__path_join(path, sizeof path, v->c.job->out, "model.safetensors.index.json");
        json_t *whole =
            json_pack("{s:{s:I}, s:O}", "metadata", "total_size", (json_int_t)v->done->bytes, "weight_map", index);
        char *text = json_dumps(whole, JSON_INDENT(2) | JSON_SORT_KEYS);
        rc =
            text ? tl__file_publish(path, text, strlen(text), err) : tl__fail(err, TL_ENOMEM, "no memory for %s", path);
        free(text);
        json_decref(whole);
    }
    json_decref(index);
    return rc ? rc : tl__convert_files(&v->c, err);
}

/* ---- all of it ---- */

static int check_free(const tl_convert *job, bool to_gguf, tl_error *err) {
    char path[4096];
    if (job->overwrite) return 0;
    if (to_gguf && tl__path_exists(job->out))
        return tl__fail(err, TL_EINVALID, "%s is there already; choose another name, or give --overwrite", job->out);
    static const char *const names[] = {"config.json", "model.safetensors", "model.safetensors.index.json"};
    for (size_t i = 0; !to_gguf && i < sizeof names / sizeof *names; i++) {
        tl__path_join(path, sizeof path, job->out, names[i]);
        if (tl__path_exists(path))
            return tl__fail(err, TL_EINVALID, "%s is there already; choose another folder, or give --overwrite", path);
    }
    return 0;
}

static int make_room(conversion *v, tl_error *err) {
    int64_t n = CHUNK;
    for (int i = 0; i < v->n; i++) { /* a row is taken whole */
        const int64_t row = v->items[i].t ? 0 : v->items[i].dims ? v->items[i].shape[v->items[i].dims - 1] : 1;
        if (row > CHUNK)
            return tl__fail(err, TL_EUNSUPPORTED,
                            "%s: tensor '%s' has rows of %" PRId64 " elements; %" PRId64 " at most "
                            "were expected",
                            tl__source_path(v->c.source), v->items[i].name, row, CHUNK);
    }
    v->raw = malloc((size_t)n * sizeof(float));
    v->wide = malloc((size_t)n * sizeof(float));
    v->out = malloc((size_t)n * sizeof(float));
    return v->raw && v->wide && v->out
               ? 0
               : tl__fail(err, TL_ENOMEM, "no memory for %" PRId64 " MB of buffers; free some and try again",
                          n * 12 >> 20);
}

static int convert(conversion *v, tl_error *err) {
    tl_conversion *c = &v->c;
    TRY(check_type(c, err));
    TRY(check_free(c->job, c->to_gguf, err));
    TRY(tl__source_open(&c->source, c->job->in, err));
    c->same_form = c->to_gguf == (tl__source_gguf(c->source) != NULL);
    TRY(c->same_form ? list_same(v, err) : list_params(v, err));
    int64_t elements[TL_TYPES] = {0};
    for (int i = 0; i < v->n; i++) elements[v->items[i].to] += v->items[i].elements;
    for (int t = 0; t < TL_TYPES; t++)
        if (elements[t] > elements[c->most]) c->most = (tl_type)t;
    TRY(make_room(v, err));
    return c->to_gguf ? write_gguf(v, err) : write_folder(v, err);
}

int tl__convert(const tl_convert *job, tl_converted *done, tl_error *err) {
    conversion *v = calloc(1, sizeof *v);
    if (!v) return tl__fail(err, TL_ENOMEM, "no memory to convert %s", job->in);
    *done = (tl_converted){0};
    v->c.job = job, v->c.to_gguf = ends_with(job->out, ".gguf"), v->done = done;
    int rc = convert(v, err);
    tl__gguf_abandon(v->gguf);
    tl__sink_abandon(v->sink);
    tl__params_free(&v->c.params);
    tl__source_close(v->c.source);
    free(v->items), free(v->raw), free(v->wide), free(v->out);
    free(v);
    return rc;
}
