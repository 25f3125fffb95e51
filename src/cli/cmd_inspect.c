/* cmd_inspect.c — `trilith inspect`: what a tensor file, model, checkpoint or run holds, without loading it. */
#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "cli/cli.h"
#include "infer/engine.h"
#include "infer/session.h"
#include "io/manifest.h"
#include "model/gguf_model.h"
#include "observe/machine.h"

typedef struct settings {
    bool tensors, json;
} settings;

static const tl_option options[] = {{"tensors", TL_FLAG(settings, tensors),
                                     .help = "List every tensor; else those that repeat in each layer share a line."},
                                    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
                                     .help = "Print one JSON object (kind, parameters, types, tensors, weights_hash, "
                                             "architecture, to_run, …) and nothing else."},
                                    {0}};

typedef struct subject {
    const char *given;
    const char *kind;  /* "safetensors", "model", "checkpoint", "run" */
    char folder[4096]; /* of the model; of a run: its newest checkpoint */
    bool has_model, has_tokenizer;
    tl_arch arch;
    int vocab;            /* of the tokenizer */
    tl_safetensors *file; /* one of the two is NULL; both where a run has saved nothing */
    tl_gguf *gguf;
    tl_error unknown; /* of a GGUF file: why its architecture is not known */
    bool has_size;
    tl_engine_size size; /* what it takes to generate with `context` tokens */
    int context;
    int64_t available_bytes;   /* of this machine; 0: not known */
    int context_that_fits;     /* in these, at most all positions; 0: none */
    int64_t parameters, bytes; /* of all tensors */
    int64_t by_type[TL_TYPES];
    tl_hash hash;
    json_t *manifest; /* NULL: none */
    json_t *metrics;  /* last line of a run's metrics.jsonl; NULL: none */
    json_t *plan;     /* a run's plan.json; NULL: none */
} subject;

/* ---- gathering ---- */

static int64_t element_count(const tl_tensor_info *t) {
    return t->size_bytes / (int64_t)tl__type_bytes(t->type) * tl__type_block(t->type);
}

static int tensor_count(const subject *s) {
    return s->gguf ? tl__gguf_count(s->gguf) : s->file ? tl__safetensors_count(s->file) : 0;
}

static const tl_tensor_info *tensor_at(const subject *s, int i) {
    return s->gguf ? tl__gguf_tensor_at(s->gguf, i) : tl__safetensors_at(s->file, i);
}

static int file_count(const subject *s) {
    return s->gguf ? tl__gguf_files(s->gguf) : tl__safetensors_files(s->file);
}

/* The last whole line of a file of JSON lines; NULL where there is none. What is damaged is no reason to refuse the
 * rest. */
static json_t *last_line(const char *path) {
    enum { TAIL_BYTES = 1 << 16 };
    tl_file *file;
    if (!tl__path_exists(path) || tl__file_open(&file, path, NULL) < 0) return NULL;
    int64_t size = tl__file_size_bytes(file), n = size < TAIL_BYTES ? size : TAIL_BYTES;
    char *tail = calloc(1, (size_t)n + 1);
    json_t *line = NULL;
    if (tail && n > 0 && tl__file_read(file, tail, size - n, (size_t)n, NULL) == 0) {
        while (n > 0 && tail[n - 1] != '\n') n--; /* a line without its end is being written */
        while (n > 0 && tail[n - 1] == '\n') n--;
        int64_t first = n;
        while (first > 0 && tail[first - 1] != '\n') first--;
        if (n > first) line = tl__json_parse(tail + first, (size_t)(n - first), path, NULL);
    }
    free(tail);
    tl__file_close(file);
    return line;
}

/* A run's plan; NULL where there is none that can be read. */
static json_t *read_plan(const char *run) {
    char path[4096 + 64], *text;
    size_t size;
    tl__path_join(path, sizeof path, run, "plan.json");
    if (!tl__path_exists(path) || tl__file_slurp(&text, &size, path, (size_t)4 << 20, NULL) < 0) return NULL;
    json_t *plan = tl__json_parse(text, size, path, NULL);
    free(text);
    return plan;
}

static int gather_folder(subject *s, tl_error *err) {
    char path[4096 + 64];
    int status = tl__model_folder(s->folder, sizeof s->folder, s->given, err);
    if (status) { /* a run that has not saved yet, or tensors without a config.json */
        tl__path_join(path, sizeof path, s->given, "metrics.jsonl");
        if (tl__path_exists(path)) {
            s->kind = "run";
            s->metrics = last_line(path);
            return 0;
        }
        tl_error ignored;
        if (tl__safetensors_open(&s->file, s->given, &ignored) < 0) {
            s->file = NULL;
            return status;
        }
        s->kind = "safetensors";
        return 0;
    }
    s->has_model = true;
    s->plan = read_plan(s->given);
    status = tl__manifest_read(&s->manifest, s->folder, err);
    if (status && status != TL_ENOTFOUND) return status;
    tl__path_join(path, sizeof path, s->given, "metrics.jsonl");
    s->kind = tl__path_exists(path) ? "run" : s->manifest ? "checkpoint" : "model";
    s->metrics = last_line(path);
    tl__path_join(path, sizeof path, s->folder, "tokenizer.json");
    s->has_tokenizer = tl__path_exists(path);
    status = tl__arch_open(&s->arch, s->folder, err);
    if (!status && s->has_tokenizer) {
        tl_tokenizer *tok;
        status = tl__tokenizer_open(&tok, s->folder, err);
        if (status) return status;
        s->vocab = tl__tokenizer_vocab(tok);
        tl__tokenizer_close(tok);
    }
    if (!status) status = tl__safetensors_open(&s->file, s->folder, err);
    if (!status) status = tl__model_fits(&s->arch, s->folder, err);
    return status || !s->manifest ? status : tl__manifest_verify(s->manifest, s->folder, TL_WEIGHTS_NAME, err);
}

/* A file of a family that is not known is told for what it holds, and why it would not run. */
static int gather_gguf(subject *s, const char *path, tl_error *err) {
    s->kind = "gguf";
    TRY(tl__gguf_open(&s->gguf, path, err));
    snprintf(s->folder, sizeof s->folder, "%s", path);
    s->has_model = tl__arch_from_gguf(&s->arch, s->gguf, &s->unknown) == 0;
    tl_tokenizer *tok;
    s->has_tokenizer = tl__gguf_find(s->gguf, "tokenizer.ggml.tokens") && !tl__tokenizer_from_gguf(&tok, s->gguf, NULL);
    if (!s->has_tokenizer) return 0;
    s->vocab = tl__tokenizer_vocab(tok);
    tl__tokenizer_close(tok);
    return 0;
}

/* What generating takes, with a common context, and the largest that this machine's memory has room for. */
static int predict_memory(subject *s, tl_error *err) {
    enum { COMMON = 4096, CHUNK = 256 };
    tl_engine engine;
    tl_engine_options options = {0};
    int status = tl__engine_open(&engine, s->folder, false, err);
    s->context = s->arch.max_positions < COMMON ? s->arch.max_positions : COMMON;
    if (!status) status = tl__engine_size(&s->size, &engine, &options, s->context, CHUNK, err);
    s->has_size = !status;
    const tl_limits limits = tl__cgroup_limits();
    s->available_bytes = tl__memory_available_bytes();
    if (limits.memory_max_bytes > 0 && limits.memory_max_bytes < s->available_bytes)
        s->available_bytes = limits.memory_max_bytes;
    int least = 0, most = status ? 0 : s->arch.max_positions; /* the largest that fits lies in [least, most] */
    while (least < most) {
        const int middle = least + (most - least + 1) / 2;
        tl_engine_size size;
        if (tl__engine_size(&size, &engine, &options, middle, CHUNK, NULL) || size.generating > s->available_bytes)
            most = middle - 1;
        else least = middle;
    }
    s->context_that_fits = least;
    tl__engine_close(&engine);
    return status;
}

static int gather(subject *s, tl_error *err) {
    int status;
    char gguf[4096];
    if (!tl__path_exists(s->given)) return tl__fail(err, TL_ENOTFOUND, "there is no file or folder '%s'", s->given);
    TRY(tl__source_gguf_path(gguf, sizeof gguf, s->given, err));
    if (gguf[0]) {
        status = gather_gguf(s, gguf, err);
    } else if (tl__path_is_folder(s->given)) {
        status = gather_folder(s, err);
    } else {
        s->kind = "safetensors";
        status = tl__safetensors_open(&s->file, s->given, err);
    }
    if (status) return status;
    for (int i = 0; i < tensor_count(s); i++) {
        const tl_tensor_info *t = tensor_at(s, i);
        s->parameters += element_count(t);
        s->bytes += t->size_bytes;
        s->by_type[t->type] += element_count(t);
    }
    if (s->has_model) {
        tl_error why;
        status = predict_memory(s, &why);
        if (status && s->gguf)
            s->unknown = why, s->has_model = false; /* its tensors are others than its metadata say */
        else if (status) return *err = why, status;
    }
    return s->file ? tl__safetensors_hash(s->file, &s->hash, err) : 0;
}

static void release(subject *s) {
    if (s->file) tl__safetensors_close(s->file);
    tl__gguf_close(s->gguf);
    json_decref(s->manifest);
    json_decref(s->metrics);
    json_decref(s->plan);
}

/* Keys and values of one more token, all layers. */
static int64_t kv_bytes_per_token(const tl_arch *a) {
    return (int64_t)a->L * 2 * a->Hkv * a->D * (int64_t)sizeof(float);
}

static const char *norm_name(const tl_arch *a) {
    return a->norm == TL_NORM_RMS ? "RMSNorm" : "LayerNorm";
}
static const char *act_name(const tl_arch *a) {
    return a->act == TL_ACT_SWIGLU ? "SwiGLU" : a->act == TL_ACT_GEGLU ? "GeGLU" : "GELU";
}

/* ---- as JSON ---- */

static json_t *tensors_json(const subject *s) {
    json_t *list = json_array();
    for (int i = 0; i < tensor_count(s); i++) {
        const tl_tensor_info *t = tensor_at(s, i);
        json_t *shape = json_array();
        for (int d = 0; d < t->dims; d++) json_array_append_new(shape, json_integer(t->shape[d]));
        json_array_append_new(list, json_pack("{s:s, s:s, s:o, s:I}", "name", t->name, "type", tl__type_name(t->type),
                                              "shape", shape, "bytes", (json_int_t)t->size_bytes));
    }
    return list;
}

static json_t *arch_json(const tl_arch *a) {
    return json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:s, s:s, s:b}", "family", a->family,
                     "vocabulary", a->V, "layers", a->L, "width", a->C, "heads", a->H, "kv_heads", a->Hkv, "head_width",
                     a->D, "feed_forward_width", a->F, "positions", a->max_positions, "norm", norm_name(a),
                     "position_encoding", a->positions == TL_POS_ROPE ? "RoPE" : "learned", "activation", act_name(a),
                     "tied", (int)a->tied);
}

/* A GGUF file's keys; an array longer than this is told by its length. */
enum { MOST_ELEMENTS = 64 };

static json_t *text_json(tl_gguf_text text) {
    char *utf8 = malloc(6 * text.n + 16);
    json_t *out = NULL;
    if (utf8) {
        int n = tl__json_quote(utf8, 6 * text.n + 16, text.bytes, text.n); /* repairs what is no UTF-8 */
        out = n > 0 ? json_loadb(utf8, (size_t)n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL) : NULL;
    }
    free(utf8);
    return out ? out : json_null();
}

static json_t *element_json(const tl_gguf_value *v, int64_t i) {
    int64_t whole;
    double real;
    if (v->texts) return text_json(v->texts[i]);
    if (v->of == TL_GGUF_BOOL) return json_boolean(tl__gguf_int(v, i, &whole) && whole);
    if (v->of != TL_GGUF_F32 && v->of != TL_GGUF_F64 && tl__gguf_int(v, i, &whole)) return json_integer(whole);
    return tl__gguf_real(v, i, &real) && isfinite(real) ? json_real(real) : json_null();
}

static json_t *metadata_json(const subject *s) {
    json_t *out = json_object();
    for (int i = 0; i < tl__gguf_values(s->gguf); i++) {
        const tl_gguf_value *v = tl__gguf_value_at(s->gguf, i);
        json_t *value;
        if (v->kind != TL_GGUF_ARRAY) {
            value = element_json(v, 0);
        } else if (v->count > MOST_ELEMENTS) {
            value = json_pack("{s:s, s:I}", "array_of", tl__gguf_kind_name(v->of), "count", (json_int_t)v->count);
        } else {
            value = json_array();
            for (int64_t k = 0; k < v->count; k++) json_array_append_new(value, element_json(v, k));
        }
        json_object_setn_new(out, v->key.bytes, v->key.n, value);
    }
    return out;
}

static json_t *to_run_json(const subject *s) {
    return json_pack("{s:i, s:I, s:I, s:I, s:I, s:I, s:I, s:i}", "context", s->context, "bytes",
                     (json_int_t)s->size.generating, "weights_bytes", (json_int_t)s->size.weights.total_bytes,
                     "mapped_bytes", (json_int_t)s->size.weights.mapped_bytes, "kv_bytes", (json_int_t)s->size.kv,
                     "activation_bytes", (json_int_t)(s->size.activations + s->size.workspace),
                     "machine_available_bytes", (json_int_t)s->available_bytes, "context_that_fits",
                     s->context_that_fits);
}

/* How much the run's training takes with each way of recomputing activations; NULL: its plan does not say. */
static const json_t *predicted_peaks(const subject *s) {
    const json_t *peaks = json_object_get(json_object_get(s->plan, "predicted"), "peak_bytes_by_recompute");
    return json_is_object(peaks) ? peaks : NULL;
}

/* What the plan says of the run itself, where it had several ranks; else NULL. */
static const json_t *ranks_of(const subject *s) {
    const json_t *run = json_object_get(s->plan, "run");
    return json_is_integer(json_object_get(run, "ranks")) ? run : NULL;
}

static json_t *as_json(const subject *s) {
    json_t *out = json_pack("{s:s, s:s}", "path", s->given, "kind", s->kind);
    if (s->file || s->gguf) {
        json_t *types = json_object();
        for (int t = 0; t < TL_TYPES; t++)
            if (s->by_type[t]) json_object_set_new(types, tl__type_name((tl_type)t), json_integer(s->by_type[t]));
        json_object_set_new(out, "parameters", json_integer(s->parameters));
        json_object_set_new(out, "bytes", json_integer(s->bytes));
        json_object_set_new(out, "files", json_integer(file_count(s)));
        json_object_set_new(out, "types", types);
        if (s->file) json_object_set_new(out, "weights_hash", json_string(s->hash.hex));
    }
    if (s->gguf) json_object_set_new(out, "metadata", metadata_json(s));
    if (s->gguf && !s->has_model) json_object_set_new(out, "unknown", json_string(s->unknown.text));
    if (s->has_model) {
        json_object_set_new(out, "model_folder", json_string(s->folder));
        json_object_set_new(out, "architecture", arch_json(&s->arch));
        json_object_set_new(out, "kv_bytes_per_token", json_integer(kv_bytes_per_token(&s->arch)));
        json_object_set_new(out, "session_bytes",
                            json_integer((json_int_t)tl__session_bytes(&s->arch, s->arch.max_positions, 0)));
        if (s->has_size) json_object_set_new(out, "to_run", to_run_json(s));
        json_object_set_new(out, "tokenizer_ids", s->has_tokenizer ? json_integer(s->vocab) : json_null());
        json_object_set_new(out, "verified", s->manifest ? json_true() : json_null());
    }
    if (s->manifest && json_object_get(s->manifest, "state"))
        json_object_set(out, "state", json_object_get(s->manifest, "state"));
    if (s->metrics) json_object_set(out, "last_metrics", s->metrics);
    if (ranks_of(s)) json_object_set(out, "run", (json_t *)(uintptr_t)ranks_of(s));
    if (predicted_peaks(s)) json_object_set(out, "training_peak_bytes", (json_t *)(uintptr_t)predicted_peaks(s));
    if (s->file || s->gguf) json_object_set_new(out, "tensors", tensors_json(s));
    return out;
}

/* ---- for a person ---- */

/* "1,234,567"; four buffers in turn. */
static const char *grouped(int64_t n) {
    static char ring[4][32];
    static int turn;
    char *out = ring[turn++ % 4], digits[24];
    int len = snprintf(digits, sizeof digits, "%lld", (long long)n), used = 0;
    for (int i = 0; i < len; i++) {
        if (i > 0 && (len - i) % 3 == 0 && digits[i - 1] != '-') out[used++] = ',';
        out[used++] = digits[i];
    }
    out[used] = 0;
    return out;
}

/* "43.2 MB" in powers of 1,000, "10.8M" without a unit. */
static const char *scaled(double x, const char *unit) {
    static char ring[4][32];
    static int turn;
    static const char *const steps[] = {"", "k", "M", "G", "T", "P"};
    int i = 0;
    while (x >= 999.5 && i < 5) x /= 1000, i++;
    char *out = ring[turn++ % 4];
    snprintf(out, sizeof ring[0], "%.*f%s%s%s", i == 0 || x >= 99.95 ? 0 : 1, x, *unit ? " " : "", steps[i], unit);
    return out;
}

static void row(const char *label) {
    printf("  %-13s", label);
}

static void print_rope(const tl_arch *a) {
    static const char *const scalings[] = {"", "linear", "llama3", "YaRN"};
    printf("%s, RoPE with theta %.10g", grouped(a->max_positions), a->rope.theta);
    if (a->rope.scaling != TL_ROPE_PLAIN) printf(", stretched %gx (%s)", a->rope.factor, scalings[a->rope.scaling]);
    if (a->rope.local_theta > 0) printf(", theta %.10g on sliding layers", a->rope.local_theta);
    putchar('\n');
}

/* What sets this family's attention apart, if anything does. */
static void print_attention(const tl_arch *a) {
    int sliding = 0, still = 0, said = 0;
    for (int l = 0; l < a->L; l++) sliding += a->layer[l].sliding, still += a->layer[l].no_rope;
    if (!sliding && !still && a->qk_norm == TL_QK_NORM_NONE && a->attention_softcap == 0) return;
    row("attention");
    if (sliding) printf("a window of %s on %d of %d layers", grouped(a->window), sliding, a->L), said++;
    if (still) printf("%sno RoPE on %d of %d layers", said++ ? ", " : "", still, a->L);
    if (a->qk_norm != TL_QK_NORM_NONE) printf("%squeries and keys normed", said++ ? ", " : "");
    if (a->attention_softcap > 0) printf("%sscores capped at %g", said++ ? ", " : "", (double)a->attention_softcap);
    putchar('\n');
}

static void print_model(const subject *s) {
    const tl_arch *a = &s->arch;
    row("architecture");
    printf("%s: %d layers of %d, ", a->family, a->L, a->C);
    if (a->H == a->Hkv) printf("%d heads of %d", a->H, a->D);
    else printf("%d heads and %d key/value heads of %d", a->H, a->Hkv, a->D);
    printf(", feed-forward %s, %s, %s\n", grouped(a->F), act_name(a), norm_name(a));
    if (a->E > 0) {
        row("experts");
        printf("%d of width %s in %d of %d layers, %d a token\n", a->E, grouped(a->expert_F), tl__moe_layers(a), a->L,
               a->top_k);
    }
    row("vocabulary");
    printf("%s%s", grouped(a->V), a->tied ? ", embedding and head tied" : "");
    if (!s->has_tokenizer) printf(s->gguf ? "; no tokenizer that is known" : "; no tokenizer.json");
    else if (s->vocab != a->V) printf("; the tokenizer has %s ids", grouped(s->vocab));
    putchar('\n');
    row("positions");
    if (a->positions == TL_POS_LEARNED) printf("%s, learned\n", grouped(a->max_positions));
    else print_rope(a);
    print_attention(a);
}

static void print_memory(const subject *s) {
    const tl_arch *a = &s->arch;
    int64_t token = kv_bytes_per_token(a);
    row("memory");
    printf("%s of weights; %s of keys and values a token, %s at %s tokens\n", scaled((double)s->bytes, "B"),
           scaled((double)token, "B"), scaled((double)token * a->max_positions, "B"), grouped(a->max_positions));
    if (!s->has_size) return;
    row("to run");
    printf("%s with a context of %s tokens", scaled((double)s->size.generating, "B"), grouped(s->context));
    if (s->available_bytes > 0) {
        printf("; %s are free here: ", scaled((double)s->available_bytes, "B"));
        if (s->context_that_fits == a->max_positions) printf("all %s fit", grouped(a->max_positions));
        else if (s->context_that_fits > 0) printf("%s fit", grouped(s->context_that_fits));
        else printf("it does not fit");
    }
    putchar('\n');
}

/* A GGUF file's keys, one a line; what is long is told by its length. */
static void print_metadata(const subject *s) {
    putchar('\n');
    for (int i = 0; i < tl__gguf_values(s->gguf); i++) {
        const tl_gguf_value *v = tl__gguf_value_at(s->gguf, i);
        printf("  ");
        tl__cli_show(stdout, v->key.bytes, v->key.n, true);
        const int pad = 44 - (int)(v->key.n < 44 ? v->key.n : 44);
        printf("%*s ", pad, "");
        if (v->kind == TL_GGUF_ARRAY && v->count > 8) {
            printf("%s of %s\n", grouped(v->count), tl__gguf_kind_name(v->of));
            continue;
        }
        for (int64_t k = 0; k < v->count; k++) {
            json_t *value = element_json(v, k);
            char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_REAL_PRECISION(9));
            if (k) fputs(", ", stdout);
            if (text) tl__cli_show(stdout, text, strlen(text) < 100 ? strlen(text) : 97, true);
            if (text && strlen(text) >= 100) fputs("…", stdout);
            free(text);
            json_decref(value);
        }
        putchar('\n');
    }
}

static void print_training(const subject *s) {
    if (!predicted_peaks(s)) return;
    row("training");
    for (int i = 0; i < TL_RECOMPUTES; i++) {
        const char *name = tl__recompute_name((tl_recompute)i);
        const json_t *bytes = json_object_get(predicted_peaks(s), name);
        if (!json_is_number(bytes)) continue;
        printf("%s%s with --recompute %s", i ? ", " : "at most ", scaled(json_number_value(bytes), "B"), name);
    }
    putchar('\n');
}

static double real(const json_t *o, const char *key) {
    const json_t *v = json_object_get(o, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* "4 on 2 hosts (node-a, node-b), shard zero1; a step: 0.220 s of communication exposed, 0.090 s hidden, 0.13 GB/s" */
static void print_ranks(const subject *s) {
    const json_t *run = ranks_of(s), *hosts = json_object_get(run, "hosts"),
                 *comm = json_object_get(s->metrics, "comm");
    const char *shard = json_string_value(json_object_get(run, "shard"));
    if (!run) return;
    row("ranks");
    printf("%s", grouped(json_integer_value(json_object_get(run, "ranks"))));
    enum { MOST_SHOWN = 8, MOST_READ = 1024 };
    const char *name[MOST_READ];
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(hosts) && i < MOST_READ; i++) { /* each host once, in order of appearance */
        name[n] = json_string_value(json_array_get(hosts, i));
        bool seen = !name[n];
        for (size_t k = 0; k < n && !seen; k++) seen = !strcmp(name[k], name[n]);
        n += !seen;
    }
    if (n > 0) printf(" on %zu host%s (", n, n == 1 ? "" : "s");
    for (size_t i = 0; i < n && i < MOST_SHOWN; i++) {
        if (i) fputs(", ", stdout);
        tl__cli_show(stdout, name[i], strlen(name[i]), true);
    }
    if (n > 0) fputs(n > MOST_SHOWN ? ", \u2026)" : ")", stdout);
    if (shard) {
        fputs(", shard ", stdout);
        tl__cli_show(stdout, shard, strlen(shard), true);
    }
    putchar('\n');
    if (!isfinite(real(comm, "exposed_seconds"))) return;
    row("between them");
    printf("last step: %.3g s of communication exposed, %.3g s hidden, %s", real(comm, "exposed_seconds"),
           real(comm, "hidden_seconds"), scaled(real(comm, "bytes"), "B"));
    if (isfinite(real(comm, "gb_per_second"))) printf(" at %.3g GB/s", real(comm, "gb_per_second"));
    double link = real(json_object_get(json_object_get(s->plan, "machine"), "link"), "gb_per_second");
    if (isfinite(link)) printf(" of %.3g measured", link);
    putchar('\n');
}

static void print_state(const subject *s) {
    const json_t *state = s->manifest ? json_object_get(s->manifest, "state") : NULL;
    const json_t *step = json_object_get(state, "step"), *tokens = json_object_get(state, "tokens");
    if (json_is_integer(step)) {
        row("checkpoint");
        printf("step %s", grouped(json_integer_value(step)));
        if (json_is_integer(tokens)) printf(", after %s tokens", scaled((double)json_integer_value(tokens), ""));
        putchar('\n');
    }
    const json_t *loss = json_object_get(s->metrics, "loss"), *last = json_object_get(s->metrics, "step");
    if (json_is_integer(last)) {
        row("last step");
        printf("%s", grouped(json_integer_value(last)));
        if (json_is_number(loss)) printf(", loss %.4f", json_number_value(loss));
        const json_t *validation = json_object_get(s->metrics, "validation_loss");
        if (json_is_number(validation)) printf(", validation loss %.4f", json_number_value(validation));
        putchar('\n');
    }
}

/* A tensor's name with its numbers replaced by '*': layers share it, and experts. */
static void template_of(char *out, size_t size, const char *name) {
    size_t used = 0;
    for (const char *p = name; *p && used + 2 < size;) {
        if (isdigit((unsigned char)*p) && p > name && p[-1] == '.') {
            while (isdigit((unsigned char)*p)) p++;
            out[used++] = '*';
        } else {
            unsigned char c = (unsigned char)*p++; /* names come from the file: no control characters on a terminal */
            out[used++] = c < 0x20 || c == 0x7f ? '?' : (char)c;
        }
    }
    out[used] = 0;
}

static bool same_form(const tl_tensor_info *a, const tl_tensor_info *b) {
    if (a->type != b->type || a->dims != b->dims) return false;
    for (int d = 0; d < a->dims; d++)
        if (a->shape[d] != b->shape[d]) return false;
    char x[192], y[192];
    template_of(x, sizeof x, a->name);
    template_of(y, sizeof y, b->name);
    return !strcmp(x, y);
}

static void print_tensor(const tl_tensor_info *t, const char *name, int count) {
    char shape[128] = "[";
    for (int d = 0; d < t->dims; d++) {
        size_t used = strlen(shape);
        snprintf(shape + used, sizeof shape - used, "%s%lld", d ? ", " : "", (long long)t->shape[d]);
    }
    printf("  %-52s %-5s %s]", name, tl__type_name(t->type), shape);
    if (count > 1) printf("  x %d", count);
    putchar('\n');
}

/* One line a form, at its first tensor in name order. Quadratic in the forms only: each tensor is compared with those
 * before it that began a form. */
static void print_tensors(const subject *s, bool all) {
    int n = tensor_count(s), forms = 0;
    int *first = calloc((size_t)n + 1, sizeof *first), *count = calloc((size_t)n + 1, sizeof *count);
    enum { MOST_FORMS = 4096 }; /* a hostile file may hold a million forms */
    for (int i = 0; first && count && i < n; i++) {
        int f = 0;
        if (all || forms >= MOST_FORMS) f = forms;
        while (f < forms && !same_form(tensor_at(s, first[f]), tensor_at(s, i))) f++;
        if (f == forms) first[forms++] = i;
        count[f]++;
    }
    putchar('\n');
    for (int f = 0; f < forms; f++) {
        const tl_tensor_info *t = tensor_at(s, first[f]);
        char name[192];
        template_of(name, sizeof name, t->name);
        if (count[f] == 1) {
            snprintf(name, sizeof name, "%s", t->name);
            for (char *c = name; *c; c++)
                if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
        }
        print_tensor(t, name, count[f]);
    }
    free(first);
    free(count);
}

static void print_text(const subject *s, bool all) {
    printf("%s: %s\n", s->given, !strcmp(s->kind, "safetensors") ? "tensors" : s->gguf ? "a GGUF file" : s->kind);
    if (s->has_model && strcmp(s->folder, s->given)) row("model"), printf("%s\n", s->folder);
    print_state(s);
    if (!s->file && !s->gguf) {
        puts("  no finished checkpoint yet");
        return;
    }
    if (s->has_model) print_model(s);
    else if (s->gguf) row("architecture"), printf("not known: %s\n", s->unknown.text);
    row("parameters");
    printf("%s (%s) in %s tensors", scaled((double)s->parameters, ""), grouped(s->parameters),
           grouped(tensor_count(s)));
    if (file_count(s) > 1) printf(" of %d files", file_count(s));
    for (int t = 0; t < TL_TYPES; t++)
        if (s->by_type[t] == s->parameters) printf(", %s", tl__type_name((tl_type)t));
        else if (s->by_type[t]) printf(", %s of %s", scaled((double)s->by_type[t], ""), tl__type_name((tl_type)t));
    putchar('\n');
    if (s->has_model) print_memory(s);
    print_training(s);
    print_ranks(s);
    if (s->file) {
        row("weights hash");
        printf("%s%s\n", s->hash.hex, s->manifest ? "; every tensor is as its manifest says" : "");
    }
    if (s->gguf) print_metadata(s);
    print_tensors(s, all);
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    subject s = {.given = cli->operands.values[0]};
    tl_error err = {0};
    int code = TL_EXIT_DONE;
    if (gather(&s, &err) < 0) code = tl__cli_fail(cli, &err);
    else if (o->json) code = tl__cli_print_json(cli, as_json(&s));
    else print_text(&s, o->tensors);
    release(&s);
    return code;
}

const tl_command tl__cmd_inspect = {
    .name = "inspect",
    .summary = "say what a tensor file, model, checkpoint or run holds",
    .usage = "FILE|DIR [--tensors] [--json]",
    .about = "Reads a .safetensors or GGUF file, a model folder (sharded or not), a checkpoint or a run, and says what "
             "it is, "
             "how large, what it takes in memory to run, what context this machine has room for, and (but of GGUF) the "
             "hash of its weights. A checkpoint whose tensors differ "
             "from its manifest is refused, by tensor. The hash covers names, types, shapes "
             "and bytes, and "
             "not how they are spread over files: two models with the same hash hold the same weights.",
    .examples = "  trilith inspect runs/demo\n"
                "      the newest checkpoint of a run\n"
                "  trilith inspect model.safetensors --tensors\n"
                "      every tensor, one a line\n"
                "  trilith inspect runs/demo --json | jq -r .weights_hash\n"
                "      the hash alone",
    .options = options,
    .values_bytes = sizeof(settings),
    .operand = "FILE or DIR",
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
