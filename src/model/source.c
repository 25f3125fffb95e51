/* source.c — owns where a model's weights come from, and what has to be done to a tensor to make it a parameter. */
#include "model/source.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/blocks.h"
#include "model/gguf_model.h"

enum { CHUNK = 8192 }; /* elements widened at once: whole blocks of every type */

/* Where a parameter lies. rows and cols are the tensor's own, or its expert's; a vector is one row, unless its elements
 * are ordered by head. */
typedef struct place {
    const tl_tensor_info *t;
    int64_t from_bytes, rows, cols;
    int heads;
    bool turned;
    float add;
} place;

struct tl_weight_source {
    char path[4096];
    tl_gguf *gguf; /* one of the two is NULL */
    tl_safetensors *file;
    place *places; /* by parameter; NULL until matched */
};

/* ---- opening ---- */

static bool ends_with(const char *name, const char *ending) {
    size_t n = strlen(name), m = strlen(ending);
    return n >= m && strcmp(name + n - m, ending) == 0;
}

/* "…-00002-of-00003.gguf": a part that is not the first, which stands for all. */
static bool is_later_part(const char *name) {
    const char *of = strstr(name, "-of-");
    return of && of - name >= 5 && ends_with(name, ".gguf") && strncmp(of - 5, "00001", 5) != 0;
}

int tl__source_gguf_path(char *out, size_t size, const char *path, tl_error *err) {
    *out = 0;
    if (!tl__path_is_folder(path)) {
        if (tl__gguf_is(path)) snprintf(out, size, "%s", path);
        return 0;
    }
    char config[4096 + 64], found[256] = "";
    tl__path_join(config, sizeof config, path, "config.json");
    if (tl__path_exists(config)) return 0;
    DIR *folder = opendir(path);
    if (!folder) return tl__fail_errno(err, "cannot look into %s", path);
    int n = 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        const char *name = entry->d_name;
        if (!ends_with(name, ".gguf") || is_later_part(name) || strlen(name) >= sizeof found) continue;
        /* The first by name, whatever the folder's order: what an error says does not change. */
        if (n++ == 0 || strcmp(name, found) < 0) snprintf(found, sizeof found, "%s", name);
    }
    closedir(folder);
    if (n > 1)
        return tl__fail(err, TL_EINVALID, "%s holds %d .gguf files and no config.json; name one of them, as %s/%s",
                        path, n, path, found);
    if (n == 1) tl__path_join(out, size, path, found);
    return 0;
}

int tl__source_open(tl_weight_source **out, const char *path, tl_error *err) {
    *out = NULL;
    tl_weight_source *s = calloc(1, sizeof *s);
    if (!s) return tl__fail(err, TL_ENOMEM, "no memory to open %s", path);
    int status = tl__source_gguf_path(s->path, sizeof s->path, path, err);
    if (!status && s->path[0]) {
        status = tl__gguf_open(&s->gguf, s->path, err);
    } else if (!status) {
        snprintf(s->path, sizeof s->path, "%s", path);
        status = tl__safetensors_open(&s->file, path, err);
    }
    if (status) tl__source_close(s);
    else *out = s;
    return status;
}

void tl__source_close(tl_weight_source *s) {
    if (!s) return;
    if (s->gguf) tl__gguf_close(s->gguf);
    if (s->file) tl__safetensors_close(s->file);
    free(s->places);
    free(s);
}

const char *tl__source_path(const tl_weight_source *s) {
    return s->path;
}

const tl_gguf *tl__source_gguf(const tl_weight_source *s) {
    return s->gguf;
}

const tl_safetensors *tl__source_safetensors(const tl_weight_source *s) {
    return s->file;
}

int tl__source_arch(tl_arch *arch, const tl_weight_source *s, tl_error *err) {
    return s->gguf ? tl__arch_from_gguf(arch, s->gguf, err) : tl__arch_open(arch, s->path, err);
}

tl_layout tl__source_layout(const tl_weight_source *s, const tl_arch *a) {
    return s->gguf || a->positions != TL_POS_LEARNED ? TL_OUT_IN : TL_IN_OUT; /* GPT-2's Conv1D */
}

/* ---- matching ---- */

static int count(const tl_weight_source *s) {
    return s->gguf ? tl__gguf_count(s->gguf) : tl__safetensors_count(s->file);
}

static const tl_tensor_info *tensor_at(const tl_weight_source *s, int i) {
    return s->gguf ? tl__gguf_tensor_at(s->gguf, i) : tl__safetensors_at(s->file, i);
}

/* Base models are saved without their first name ("wte.weight"): both are read. */
static const tl_tensor_info *find_tensor(const tl_weight_source *s, const char *name) {
    if (s->gguf) return tl__gguf_tensor(s->gguf, name);
    const tl_tensor_info *t = tl__safetensors_find(s->file, name);
    const char *dot = strchr(name, '.');
    return t || !dot ? t : tl__safetensors_find(s->file, dot + 1);
}

/* Buffers that old checkpoints carry and that hold no weights, the head's second copy of a tied embedding, and what the
 * architecture was read from. */
static bool is_known_extra(const tl_weight_source *s, const tl_arch *a, const char *name) {
    static const char *const endings[] = {".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq"};
    if (s->gguf) return strcmp(name, "rope_freqs.weight") == 0 && a->rope.scaling == TL_ROPE_LLAMA3;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++)
        if (ends_with(name, endings[i])) return true;
    return a->tied && strcmp(name, "lm_head.weight") == 0;
}

static void print_shape(char out[96], const int64_t *shape, int dims) {
    size_t used = 0;
    out[0] = 0;
    for (int d = 0; d < dims && used < 64; d++)
        used += (size_t)snprintf(out + used, 96 - used, "%s%lld", d ? ", " : "", (long long)shape[d]);
}

/* The tensor that a parameter should be. */
typedef struct wanted {
    char name[128];
    int64_t shape[3];
    int dims, expert; /* expert −1: it is the parameter's alone */
} wanted;

static int find_place(place *out, wanted *w, const tl_weight_source *s, const tl_arch *a, const tl_params *params,
                      int i, tl_error *err) {
    const tl_param *p = &params->list[i];
    bool look_up = p->role == TL_ROLE_EMBED || p->role == TL_ROLE_POSITION || p->role == TL_ROLE_HEAD;
    *out = (place){.turned = p->dims == 2 && !look_up && tl__source_layout(s, a) != a->layout};
    *w = (wanted){.dims = p->dims, .expert = -1};
    snprintf(w->name, sizeof w->name, "%s", p->name);
    if (s->gguf) {
        tl_gguf_place g;
        if (!tl__gguf_place(&g, a, params, i))
            return tl__fail(err, TL_EUNSUPPORTED, "%s: '%s' has no place in a GGUF file of a %s model", s->path,
                            p->name, a->family);
        snprintf(w->name, sizeof w->name, "%s", g.name);
        w->expert = g.expert, out->heads = g.heads, out->add = g.add;
    }
    out->rows = p->dims == 2 ? p->shape[out->turned ? 1 : 0] : 1;
    out->cols = p->count / out->rows;
    if (p->dims == 2) w->shape[0] = out->rows, w->shape[1] = out->cols;
    else w->shape[0] = p->count;
    if (p->dims == 1 && out->heads) out->rows = p->count, out->cols = 1;
    if (w->expert >= 0) w->dims = 3, w->shape[0] = a->E, w->shape[1] = out->rows, w->shape[2] = out->cols;
    return 0;
}

static int match_one(place *out, const tl_weight_source *s, const tl_arch *a, const tl_params *params, int i,
                     tl_error *err) {
    wanted w;
    char want[96], have[96];
    TRY(find_place(out, &w, s, a, params, i, err));
    const tl_tensor_info *t = out->t = find_tensor(s, w.name);
    if (!t)
        return tl__fail(err, TL_EFORMAT, "%s: the weights lack tensor '%s', which %s for", s->path, w.name,
                        s->gguf ? "the metadata call" : "config.json calls");
    bool same = t->dims == w.dims;
    for (int d = 0; same && d < w.dims; d++) same = t->shape[d] == w.shape[d];
    if (!same) {
        print_shape(want, w.shape, w.dims);
        print_shape(have, t->shape, t->dims);
        return tl__fail(err, TL_EFORMAT, "%s: tensor '%s' should have shape [%s] by %s, but the file's is [%s]",
                        s->path, w.name, want, s->gguf ? "the metadata" : "config.json", have);
    }
    if (!tl__can_widen(t->type))
        return tl__fail(err, TL_EUNSUPPORTED,
                        "%s: tensor '%s' has type %s; weights can be F32, F16, BF16, F8 or a quantised type of GGUF",
                        s->path, w.name, tl__type_name(t->type));
    if (w.expert > 0) out->from_bytes = w.expert * tl__type_size(t->type, out->rows * out->cols);
    return 0;
}

static int by_address(const void *a, const void *b) {
    uintptr_t x = (uintptr_t) * (const tl_tensor_info *const *)a, y = (uintptr_t) * (const tl_tensor_info *const *)b;
    return x < y ? -1 : x > y;
}

/* No tensor is left over. */
static int check_all_used(const tl_weight_source *s, const tl_arch *a, const place *places, int n, tl_error *err) {
    const tl_tensor_info **used = malloc((size_t)n * sizeof *used);
    if (!used) return tl__fail(err, TL_ENOMEM, "no memory for %d tensor records", n);
    for (int i = 0; i < n; i++) used[i] = places[i].t;
    qsort(used, (size_t)n, sizeof *used, by_address);
    int status = 0;
    for (int k = 0; !status && k < count(s); k++) {
        const tl_tensor_info *t = tensor_at(s, k);
        if (bsearch(&t, used, (size_t)n, sizeof *used, by_address) || is_known_extra(s, a, t->name)) continue;
        status = tl__fail(err, TL_EUNSUPPORTED,
                          "%s: tensor '%s' belongs to no part of a %s model with %s; it would be ignored", s->path,
                          t->name, a->family, s->gguf ? "these metadata" : "this config.json");
    }
    free(used);
    return status;
}

int tl__source_match(tl_weight_source *s, const tl_arch *a, const tl_params *params, tl_error *err) {
    place *places = calloc((size_t)params->n, sizeof *places);
    if (!places) return tl__fail(err, TL_ENOMEM, "no memory for %d tensor records", params->n);
    int status = 0;
    for (int i = 0; !status && i < params->n; i++) status = match_one(&places[i], s, a, params, i, err);
    if (!status) status = check_all_used(s, a, places, params->n, err);
    if (status) {
        free(places);
        return status;
    }
    free(s->places);
    s->places = places;
    return 0;
}

/* ---- bytes ---- */

tl_type tl__source_type(const tl_weight_source *s, int i) {
    return s->places[i].t->type;
}

bool tl__source_turns(const tl_weight_source *s, int i) {
    return s->places[i].turned;
}

static const unsigned char *mapped(const tl_weight_source *s, const place *p) {
    const unsigned char *data = s->gguf ? tl__gguf_data(s->gguf, p->t) : tl__safetensors_data(s->file, p->t);
    return data ? data + p->from_bytes : NULL;
}

static int64_t row_bytes(const place *p) {
    return tl__type_size(p->t->type, p->cols);
}

/* n bytes from byte `from` of the parameter's part of its tensor. */
static int read_raw(const tl_weight_source *s, const place *p, void *out, int64_t from, int64_t n, tl_error *err) {
    const unsigned char *data = mapped(s, p);
    if (data) {
        memcpy(out, data + from, (size_t)n);
        return 0;
    }
    if (s->gguf) return tl__gguf_read(s->gguf, p->t, out, p->from_bytes + from, (size_t)n, err);
    return tl__safetensors_read_part(s->file, p->t, out, p->from_bytes + from, (size_t)n, err);
}

const void *tl__source_data(const tl_weight_source *s, int i) {
    const place *p = &s->places[i];
    const unsigned char *data = p->heads || p->turned || p->add != 0 ? NULL : mapped(s, p);
    bool quantised = tl__type_quantised(p->t->type); /* packed or widened byte by byte */
    return data && (quantised || (uintptr_t)data % tl__type_bytes(p->t->type) == 0) ? data : NULL;
}

/* Columns [first, first + n) of the tensor as rows of the parameter. */
static int read_columns(const tl_weight_source *s, const place *p, int64_t first, int64_t n, unsigned char *out,
                        tl_error *err) {
    const int64_t row = row_bytes(p), element = (int64_t)tl__type_bytes(p->t->type);
    unsigned char *raw = malloc((size_t)row);
    int status = raw ? 0 : tl__fail(err, TL_ENOMEM, "no memory for a row of tensor '%s'", p->t->name);
    assert(tl__type_block(p->t->type) == 1);
    for (int64_t r = 0; !status && r < p->rows; r++) {
        status = read_raw(s, p, raw, r * row, row, err);
        for (int64_t c = 0; !status && c < n; c++)
            memcpy(out + (c * p->rows + r) * element, raw + (first + c) * element, (size_t)element);
    }
    free(raw);
    return status;
}

int tl__source_rows(const tl_weight_source *s, int i, int64_t first, int64_t n, void *out, tl_error *err) {
    const place *p = &s->places[i];
    const int64_t row = row_bytes(p);
    assert(first >= 0 && n >= 0 && first + n <= (p->turned ? p->cols : p->rows));
    if (p->turned) return read_columns(s, p, first, n, out, err);
    if (!p->heads) return read_raw(s, p, out, first * row, n * row, err);
    for (int64_t r = 0; r < n; r++)
        TRY(read_raw(s, p, (unsigned char *)out + r * row, tl__gguf_row(first + r, p->rows, p->heads) * row, row, err));
    return 0;
}

void tl__source_release(const tl_weight_source *s, int i, int64_t first, int64_t n) {
    const place *p = &s->places[i];
    const unsigned char *data = mapped(s, p);
    if (first > p->rows) first = p->rows;
    if (n > p->rows - first) n = p->rows - first;
    if (data) tl__file_let_go(data + first * row_bytes(p), (size_t)(n * row_bytes(p)));
}

/* ---- widening ---- */

/* In the order of the tensor, which is the parameter's. */
static int widen_straight(const tl_weight_source *s, const place *p, float *out, tl_error *err) {
    unsigned char chunk[CHUNK * sizeof(float)];
    const int64_t n = p->rows * p->cols;
    const unsigned char *data = mapped(s, p);
    if (data) tl__widen(out, p->t->type, data, n);
    for (int64_t done = 0; !data && done < n; done += CHUNK) {
        int64_t k = n - done < CHUNK ? n - done : CHUNK;
        TRY(read_raw(s, p, chunk, tl__type_size(p->t->type, done), tl__type_size(p->t->type, k), err));
        tl__widen(out + done, p->t->type, chunk, k);
    }
    return 0;
}

/* Row by row to where it belongs. */
static int widen_rows(const tl_weight_source *s, const place *p, float *out, tl_error *err) {
    const int64_t row = row_bytes(p);
    float *wide = malloc((size_t)p->cols * sizeof *wide);
    unsigned char *raw = malloc((size_t)row);
    int status = wide && raw ? 0 : tl__fail(err, TL_ENOMEM, "no memory for a row of tensor '%s'", p->t->name);
    for (int64_t r = 0; !status && r < p->rows; r++) {
        status = read_raw(s, p, raw, r * row, row, err);
        if (status) break;
        tl__widen(wide, p->t->type, raw, p->cols);
        float *to = out + tl__gguf_param_row(r, p->rows, p->heads) * p->cols;
        if (!p->turned) memcpy(to, wide, (size_t)p->cols * sizeof *wide);
        else
            for (int64_t c = 0; c < p->cols; c++) out[c * p->rows + r] = wide[c];
    }
    free(wide);
    free(raw);
    return status;
}

int tl__source_read_f32(const tl_weight_source *s, int i, float *out, tl_error *err) {
    const place *p = &s->places[i];
    TRY((p->heads || p->turned ? widen_rows : widen_straight)(s, p, out, err));
    for (int64_t k = 0; p->add != 0 && k < p->rows * p->cols; k++) out[k] -= p->add;
    return 0;
}
