/* cmd_verify.c — `trilith verify`: a certificate that a model was opened as what it is: its tokens, template, logits
 * and weights, each held against a reference where there is one, and against itself. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "cli/cli.h"
#include "infer/engine.h"
#include "infer/session.h"
#include "io/hash.h"
#include "text/chat_template.h"

enum { MOST_CHECKS = 8, DETERMINISM_TOKENS = 64, HASH_BYTES = 1 << 20 };
#define TEXT_LIMIT_BYTES ((size_t)1 << 30)

typedef struct settings {
    const char *against, *text;
    int64_t tokens, threads;
    double tolerance;
    int dtype, device;
    bool round_trip, mmap, json;
} settings;

static const tl_option options[] = {
    {"against", TL_STRING(settings, against), .value = "REFERENCE",
     .help =
         "Another copy of the same model (a folder or a GGUF file), or vectors that tools/make_reference.py wrote."},
    {"text", TL_STRING(settings, text), .value = "FILE",
     .help =
         "The text to encode and compute with; a passage of this program's own unless given. Vectors bring theirs."},
    {"tokens", TL_INT(settings, tokens), .initial = "512", .least = 2, .most = 1e6,
     .help = "How many of the text's tokens to compute with."},
    {"tolerance", TL_REAL(settings, tolerance), .initial = "1e-4", .least = 0, .most = 1,
     .help = "What a position's logits may differ by, at most, in parts of its largest."},
    {"dtype", TL_CHOICE(settings, dtype), .initial = "f32", .choices = tl__dtype_names, .help = TL_DTYPE_HELP},
    {"round-trip", TL_FLAG(settings, round_trip), .initial = "true",
     .help = "Save the weights as a folder in TMPDIR, in f32, and compare what is read back."},
    {"device", TL_CHOICE(settings, device), .initial = "cpu", .choices = tl__device_names, .help = TL_DEVICE_HELP},
    {"threads", TL_INT(settings, threads), .least = 0, .most = 1024,
     .help = "CPU threads; all that this process may use unless given."},
    {"mmap", TL_FLAG(settings, mmap), .initial = "true",
     .help = "Use the weights where they lie in their file; --no-mmap reads them into memory."},
    {"json", TL_FLAG(settings, json), .not_in_yaml = true,
     .help = "Print one JSON object (model, passed, checks: name, passed, detail) and nothing else."},
    {0}};

/* Everything that tokenizers treat apart: runs of white space, digits, contractions, accents composed and not, scripts
 * without spaces, emoji of several code points. */
static const char passage[] =
    "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\nSpeak, speak.\n\nFirst Citizen:\nYou are "
    "all "
    "resolved rather to die than to famish?\n\tIt's 1,234,567.89 things we'd\t do;  we've   done them    (twice) -- "
    "haven't WE?\r\nNa\xc3\xafve caf\xc3\xa9, nai\xcc\x88ve cafe\xcc\x81; "
    "\xce\xb5\xce\xbb\xce\xbb\xce\xb7\xce\xbd\xce\xb9"
    "\xce\xba\xce\xac, \xd1\x80\xd1\x83\xd1\x81\xd1\x81\xd0\xba\xd0\xb8\xd0\xb9, "
    "\xe4\xb8\xad\xe6\x96\x87\xe3\x80\x81\xe6"
    "\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e, \xd8\xa7\xd9\x84\xd8\xb9\xd8\xb1\xd8\xa8\xd9\x8a\xd8\xa9, "
    "\xe0\xa4\xb9\xe0\xa4\xbf"
    "\xe0\xa4\xa8\xe0\xa5\x8d\xe0\xa4\xa6\xe0\xa5\x80 \xf0\x9f\x91\xa9\xe2\x80\x8d\xf0\x9f\x94\xac \xf0\x9f\x87\xab\xf0"
    "\x9f\x87\xb7 \xe2\x88\x91 x\xc2\xb2 \xe2\x89\xa5 0.\n\nint main(void) { return 0x7f; }  // done\n";

static const char conversation[] =
    "{\"messages\":[{\"role\":\"user\",\"content\":\"What is 2 + 2?\"},{\"role\":\"assistant\","
    "\"content\":\"4\"},{\"role\":\"user\",\"content\":\" And\\n3 + 3? \"}]}";

/* ---- the certificate ---- */

typedef struct check {
    const char *name;
    bool passed;
    char detail[400];
} check;

typedef struct certificate {
    check checks[MOST_CHECKS];
    int n;
} certificate;

__attribute__((format(printf, 4, 5))) static void add(certificate *c, const char *name, bool passed, const char *format,
                                                      ...) {
    check *k = &c->checks[c->n++];
    va_list list;
    *k = (check){.name = name, .passed = passed};
    va_start(list, format);
    vsnprintf(k->detail, sizeof k->detail, format, list);
    va_end(list);
}

static bool all_passed(const certificate *c) {
    bool all = true;
    for (int i = 0; i < c->n; i++) all = all && c->checks[i].passed;
    return all;
}

/* ---- what is held against what ---- */

typedef struct subject {
    tl_engine engine;
    tl_session *session;
    float *logits; /* [V] */
} subject;

typedef struct reference {
    subject model;           /* of a folder or file */
    tl_safetensors *vectors; /* else; NULL */
    const tl_tensor_info *logits;
    float *row; /* [V] */
} reference;

typedef struct work {
    const settings *o;
    subject model;
    reference against; /* neither: none was given */
    bool has_other;
    char *text; /* malloc'd where read from a file */
    size_t text_bytes;
    int32_t *ids; /* [n] */
    int64_t n;
    certificate sheet;
} work;

static int open_subject(subject *s, const settings *o, const char *path, bool needs_tokenizer, tl_error *err) {
    tl_engine_options how = {.threads = (int)o->threads,
                             .positions = (int)o->tokens,
                             .dtype = (tl_dtype)o->dtype,
                             .device = (tl_device)o->device};
    TRY(tl__engine_open(&s->engine, path, needs_tokenizer, err));
    s->logits = malloc((size_t)s->engine.arch.V * sizeof *s->logits);
    if (!s->logits) return tl__fail(err, TL_ENOMEM, "not enough memory for a row of logits");
    return tl__engine_load(&s->engine, &how, err);
}

static void close_subject(subject *s) {
    tl__session_close(s->session);
    free(s->logits);
    tl__engine_close(&s->engine);
}

static bool are_vectors(const char *path) {
    size_t n = strlen(path);
    return !tl__path_is_folder(path) && n > 12 && strcmp(path + n - 12, ".safetensors") == 0;
}

static int open_vectors(work *w, tl_error *err) {
    const char *path = w->o->against;
    reference *r = &w->against;
    TRY(tl__safetensors_open(&r->vectors, path, err));
    const tl_tensor_info *ids = tl__safetensors_find(r->vectors, "tokens");
    r->logits = tl__safetensors_find(r->vectors, "logits");
    const char *text = tl__safetensors_metadata(r->vectors, "text");
    const int64_t V = w->model.engine.arch.V;
    if (!ids || ids->type != TL_I32 || ids->dims != 1 || !r->logits || r->logits->type != TL_F32 ||
        r->logits->dims != 2 || !text)
        return tl__fail(
            err, TL_EFORMAT,
            "%s: a reference has tensors 'tokens' [n] of I32 and 'logits' [n, vocabulary] of F32, and metadata "
            "'text'; make it by tools/make_reference.py",
            path);
    if (r->logits->shape[0] != ids->shape[0] || r->logits->shape[1] != V || ids->shape[0] < 2)
        return tl__fail(err, TL_EINVALID,
                        "%s: logits are [%lld, %lld], but there are %lld tokens, and the model has %lld ids", path,
                        (long long)r->logits->shape[0], (long long)r->logits->shape[1], (long long)ids->shape[0],
                        (long long)V);
    w->n = ids->shape[0];
    w->ids = malloc((size_t)w->n * sizeof *w->ids);
    r->row = malloc((size_t)V * sizeof *r->row);
    if (!w->ids || !r->row)
        return tl__fail(err, TL_ENOMEM, "not enough memory for the reference's %lld tokens", (long long)w->n);
    w->text_bytes = strlen(text);
    w->text = strdup(text);
    return tl__safetensors_read(r->vectors, ids, w->ids, err);
}

static int read_text(work *w, tl_error *err) {
    if (w->o->text) return tl__file_slurp(&w->text, &w->text_bytes, w->o->text, TEXT_LIMIT_BYTES, err);
    w->text = strdup(passage);
    w->text_bytes = strlen(passage);
    return 0;
}

/* ---- opened ---- */

static int hash_file(tl_hash *out, const char *path, tl_error *err) {
    tl_file *file;
    TRY(tl__file_open(&file, path, err));
    unsigned char *chunk = malloc(HASH_BYTES);
    tl_hasher *hasher = tl__hasher_open();
    int status = chunk ? 0 : tl__fail(err, TL_ENOMEM, "not enough memory to read %s", path);
    const int64_t size = tl__file_size_bytes(file);
    for (int64_t at = 0; !status && at < size; at += HASH_BYTES) {
        size_t n = size - at < HASH_BYTES ? (size_t)(size - at) : HASH_BYTES;
        status = tl__file_read(file, chunk, at, n, err);
        if (!status) tl__hasher_add(hasher, chunk, n);
    }
    *out = tl__hasher_close(hasher);
    free(chunk);
    tl__file_close(file);
    return status;
}

static int check_opened(work *w, tl_error *err) {
    tl_weight_source *source;
    const tl_arch *a = &w->model.engine.arch;
    int64_t by_type[TL_TYPES] = {0}, all = 0;
    char types[200] = "";
    tl_hash hash;
    TRY(tl__source_open(&source, w->model.engine.folder, err));
    const tl_gguf *gguf = tl__source_gguf(source);
    const tl_safetensors *file = tl__source_safetensors(source);
    const int n = gguf ? tl__gguf_count(gguf) : tl__safetensors_count(file);
    for (int i = 0; i < n; i++) {
        const tl_tensor_info *t = gguf ? tl__gguf_tensor_at(gguf, i) : tl__safetensors_at(file, i);
        int64_t count = 1;
        for (int d = 0; d < t->dims; d++) count *= t->shape[d];
        by_type[t->type] += count, all += count;
    }
    for (int t = 0; t < TL_TYPES; t++) {
        size_t used = strlen(types);
        if (by_type[t])
            snprintf(types + used, sizeof types - used, "%s%s %.3g %%", used ? ", " : "", tl__type_name((tl_type)t),
                     100.0 * (double)by_type[t] / (double)all);
    }
    int status = gguf ? hash_file(&hash, w->model.engine.folder, err) : tl__safetensors_hash(file, &hash, err);
    tl__source_close(source);
    if (!status)
        add(&w->sheet, "opened", true, "%s %s, %lld numbers in %d tensors (%s), %s %s", a->family,
            gguf ? "GGUF file" : "folder", (long long)all, n, types, gguf ? "file hash" : "weights hash", hash.hex);
    return status;
}

/* ---- tokens ---- */

static int encode(const tl_engine *e, int32_t **ids, int64_t *n, const work *w, tl_error *err) {
    *n = tl__engine_encode(e, ids, w->text, w->text_bytes, false, w->o->text ? w->o->text : "the passage", err);
    return *n < 0 ? (int)*n : 0;
}

/* Is the text got back from its ids? One space more at the beginning is what a tokenizer may add. */
static int comes_back(bool *out, const work *w, const int32_t *ids, int64_t n, tl_error *err) {
    const tl_engine *e = &w->model.engine;
    size_t bytes;
    TRY(tl_engine_decode(e, ids, (size_t)n, false, NULL, 0, &bytes, err));
    char *text = malloc(bytes + 1);
    if (!text) return tl__fail(err, TL_ENOMEM, "not enough memory for %zu bytes of text", bytes);
    int status = tl_engine_decode(e, ids, (size_t)n, false, text, bytes + 1, &bytes, err);
    const size_t skip = bytes == w->text_bytes + 1 && text[0] == ' ';
    *out = !status && bytes - skip == w->text_bytes && memcmp(text + skip, w->text, w->text_bytes) == 0;
    free(text);
    return status;
}

static int64_t first_difference(const int32_t *a, int64_t n, const int32_t *b, int64_t m) {
    int64_t i = 0;
    while (i < n && i < m && a[i] == b[i]) i++;
    return i < n || i < m ? i : -1;
}

static int check_tokens(work *w, tl_error *err) {
    const tl_engine *e = &w->model.engine;
    int32_t *ids = NULL, *other = NULL;
    int64_t n = 0, m = 0;
    bool back = false;
    if (!e->tokenizer) {
        add(&w->sheet, "tokens", true, "the model brings no tokenizer");
        return 0;
    }
    int status = encode(e, &ids, &n, w, err);
    if (!status) status = comes_back(&back, w, ids, n, err);
    if (!status)
        add(&w->sheet, "tokens", back, "%zu bytes → %lld ids → %s", w->text_bytes, (long long)n,
            back ? "the same bytes" : "other bytes");
    if (!status && w->has_other && w->against.model.engine.tokenizer)
        status = encode(&w->against.model.engine, &other, &m, w, err);
    const int32_t *want = w->against.vectors ? w->ids : other;
    if (w->against.vectors) m = w->n, n = n > m ? m : n; /* the reference may have kept the first ones alone */
    if (!status && want) {
        int64_t at = first_difference(ids, n, want, m);
        if (at < 0) add(&w->sheet, "same tokens", true, "%lld ids are the reference's", (long long)n);
        else
            add(&w->sheet, "same tokens", false, "id %lld is %d, the reference's %d (%lld and %lld ids)", (long long)at,
                at < n ? ids[at] : -1, at < m ? want[at] : -1, (long long)n, (long long)m);
    }
    if (!status && !w->ids) w->ids = ids, w->n = n, ids = NULL;
    free(ids);
    free(other);
    return status;
}

/* ---- template ---- */

/* NULL: the model has none, or it refuses this conversation; why says which. */
static char *render(const char *model, char why[200]) {
    tl_chat_template chat = {0};
    tl_rendering out = {0};
    tl_error err = {0};
    char *text = NULL;
    json_t *talk = json_loads(conversation, 0, NULL);
    int status = tl__chat_template_open(&chat, model, NULL, false, &err);
    if (!status) {
        json_t *with = json_deep_copy(chat.tokens ? chat.tokens : talk);
        json_object_set_new(with, "add_generation_prompt", json_true());
        status = tl__template_render(chat.template, talk, with, NULL, &out, &err);
        json_decref(with);
        tl__chat_template_close(&chat);
    }
    if (!status) text = strndup(out.text, out.n);
    tl__rendering_free(&out);
    json_decref(talk);
    snprintf(why, 200, "%.190s", status == TL_ENOTFOUND ? "the model brings no chat template" : err.text);
    return text;
}

static void check_template(work *w) {
    char why[200], other_why[200] = "";
    char *text = render(w->model.engine.folder, why), *kept = NULL;
    if (w->has_other) kept = render(w->against.model.engine.folder, other_why);
    if (w->against.vectors && tl__safetensors_metadata(w->against.vectors, "rendering"))
        kept = strdup(tl__safetensors_metadata(w->against.vectors, "rendering"));
    if (text && kept)
        add(&w->sheet, "template", strcmp(text, kept) == 0, "three messages rendered as %zu bytes, %s", strlen(text),
            strcmp(text, kept) ? "not as the reference has them" : "the reference's");
    else if (text) add(&w->sheet, "template", true, "three messages rendered as %zu bytes", strlen(text));
    else add(&w->sheet, "template", !kept, "%s%s", why, kept ? ", but the reference has one" : "");
    free(text);
    free(kept);
}

/* ---- logits ---- */

static int likeliest(const float *logits, int V) {
    int best = 0;
    for (int i = 1; i < V; i++)
        if (logits[i] > logits[best]) best = i;
    return best;
}

/* max|Δ| / max|reference| of one position. */
static double distance(const float *got, const float *want, int V) {
    double worst = 0, largest = 0;
    for (int i = 0; i < V; i++) {
        double d = fabs((double)got[i] - (double)want[i]);
        if (!(d <= worst)) worst = d; /* NaN too */
        largest = fmax(largest, fabs((double)want[i]));
    }
    return largest > 0 ? worst / largest : worst;
}

static int reference_row(const float **row, work *w, int64_t i, tl_error *err) {
    reference *r = &w->against;
    if (r->vectors) {
        const size_t bytes = (size_t)r->logits->shape[1] * sizeof(float);
        *row = r->row;
        return tl__safetensors_read_part(r->vectors, r->logits, r->row, i * (int64_t)bytes, bytes, err);
    }
    *row = r->model.logits;
    return tl__session_append(r->model.session, w->ids + i, 1, r->model.logits, err);
}

static int check_logits(work *w, tl_error *err) {
    const int V = w->model.engine.arch.V;
    double worst = 0;
    int64_t at = 0, agree = 0;
    TRY(tl__session_open(&w->model.session, &w->model.engine.model, &w->model.engine.ctx, (int)w->n, 0, err));
    if (w->has_other)
        TRY(tl__session_open(&w->against.model.session, &w->against.model.engine.model, &w->against.model.engine.ctx,
                             (int)w->n, 0, err));
    for (int64_t i = 0; i < w->n; i++) {
        const float *want;
        TRY(tl__session_append(w->model.session, w->ids + i, 1, w->model.logits, err));
        TRY(reference_row(&want, w, i, err));
        double d = distance(w->model.logits, want, V);
        agree += likeliest(w->model.logits, V) == likeliest(want, V);
        if (!(d <= worst)) worst = d, at = i;
    }
    add(&w->sheet, "logits", worst <= w->o->tolerance,
        "%lld positions: max|Δ|/max|ref| at most %.2e, at position %lld (allowed %.0e); the likeliest id agrees at "
        "%lld",
        (long long)w->n, worst, (long long)at, w->o->tolerance, (long long)agree);
    return 0;
}

/* ---- determinism ---- */

static int score(float *logp, work *w, int n, int chunk, int threads, tl_error *err) {
    tl_ctx ctx;
    tl_session *s = NULL;
    TRY(tl__ctx_open(&ctx, threads, NULL, err));
    ctx.contract = w->model.engine.ctx.contract;
    int status = tl__session_open(&s, &w->model.engine.model, &ctx, n, chunk, err);
    if (!status) status = tl__session_score(s, w->ids, n, -1, logp, err);
    tl__session_close(s);
    tl__ctx_close(&ctx);
    return status;
}

static int check_determinism(work *w, tl_error *err) {
    static const int ways[][2] = {{0, 1}, {7, 1}, {0, 2}, {1, 2}}; /* rows at once, threads */
    const int n = w->n < DETERMINISM_TOKENS ? (int)w->n : DETERMINISM_TOKENS;
    float whole[DETERMINISM_TOKENS], other[DETERMINISM_TOKENS];
    bool same = true;
    TRY(score(whole, w, n, ways[0][0], ways[0][1], err));
    for (size_t i = 1; i < sizeof ways / sizeof *ways; i++) {
        TRY(score(other, w, n, ways[i][0], ways[i][1], err));
        same = same && memcmp(whole, other, sizeof *whole * (size_t)(n - 1)) == 0;
    }
    add(&w->sheet, "determinism", same, "%d tokens whole, by 7 and one by one, on 1 and 2 threads: %s", n,
        same ? "the same bits" : "other bits");
    return 0;
}

/* ---- round trip ---- */

static int save(const tl_model *m, const char *folder, tl_error *err) {
    char path[4096 + 64];
    char *config = tl__arch_config_json(&m->arch);
    tl_tensor_out *out = calloc((size_t)m->params.n, sizeof *out);
    int status = config && out ? 0 : tl__fail(err, TL_ENOMEM, "not enough memory to save %d tensors", m->params.n);
    for (int i = 0; !status && i < m->params.n; i++) {
        const tl_param *p = &m->params.list[i];
        out[i] = (tl_tensor_out){.name = p->name, .type = TL_F32, .dims = p->dims, .data = m->weight[i]};
        for (int d = 0; d < p->dims; d++) out[i].shape[d] = p->shape[d];
    }
    tl__path_join(path, sizeof path, folder, "config.json");
    if (!status) status = tl__file_publish(path, config, strlen(config), err);
    tl__path_join(path, sizeof path, folder, "model.safetensors");
    if (!status) status = tl__safetensors_write(path, out, m->params.n, NULL, err);
    free(config);
    free(out);
    return status;
}

/* Parameters of the saved folder whose bits are not the model's. */
static int compare(int *differ, const tl_model *m, const char *folder, tl_error *err) {
    tl_weight_source *source;
    tl_arch arch;
    tl_params params = {0};
    TRY(tl__source_open(&source, folder, err));
    int status = tl__source_arch(&arch, source, err);
    if (!status) status = tl__params_make(&params, &arch, err);
    if (!status && params.n != m->params.n)
        status = tl__fail(err, TL_EDAMAGED, "%s: %d parameters were saved, %d read", folder, m->params.n, params.n);
    if (!status) status = tl__source_match(source, &arch, &params, err);
    for (int i = 0; !status && i < params.n; i++) {
        const int64_t count = params.list[i].count;
        float *w = malloc((size_t)count * sizeof *w);
        status = w ? tl__source_read_f32(source, i, w, err)
                   : tl__fail(err, TL_ENOMEM, "not enough memory to compare '%s'", params.list[i].name);
        *differ +=
            !status && (count != m->params.list[i].count || memcmp(w, m->weight[i], (size_t)count * sizeof *w) != 0);
        free(w);
    }
    tl__params_free(&params);
    tl__source_close(source);
    return status;
}

static int check_round_trip(work *w, tl_error *err) {
    const char *tmp = getenv("TMPDIR");
    char folder[4096];
    tl_model m = {0};
    int differ = 0;
    snprintf(folder, sizeof folder, "%s/trilith-verify-XXXXXX", tmp && *tmp ? tmp : "/tmp");
    if (!mkdtemp(folder)) return tl__fail_errno(err, "cannot make a folder in %s", tmp && *tmp ? tmp : "/tmp");
    int status = tl__model_create(&m, &w->model.engine.arch, 1, err);
    if (!status) status = tl__model_load_into(&m, w->model.engine.folder, err);
    if (!status) status = save(&m, folder, err);
    if (!status) status = compare(&differ, &m, folder, err);
    if (!status)
        add(&w->sheet, "round trip", differ == 0,
            "saved as f32 and opened again: %d of %d parameters have the same bits", m.params.n - differ, m.params.n);
    if (m.weight) tl__model_close(&m);
    tl__folder_remove(folder, NULL);
    return status;
}

/* ---- the command ---- */

static int verify(work *w, const char *given, tl_error *err) {
    const settings *o = w->o;
    const bool vectors = o->against && are_vectors(o->against);
    TRY(open_subject(&w->model, o, given, false, err));
    if (vectors) TRY(open_vectors(w, err));
    else TRY(read_text(w, err));
    if (o->against && !vectors) {
        TRY(open_subject(&w->against.model, o, o->against, false, err));
        w->has_other = true;
        if (w->against.model.engine.arch.V != w->model.engine.arch.V)
            return tl__fail(err, TL_EINVALID, "%s has %d ids and %s %d: they are not the same model", given,
                            w->model.engine.arch.V, o->against, w->against.model.engine.arch.V);
    }
    TRY(check_opened(w, err));
    TRY(check_tokens(w, err));
    check_template(w);
    if (!w->ids)
        return tl__fail(err, TL_ENOTFOUND, "%s brings no tokenizer; give it --against vectors, which hold ids", given);
    const int positions = w->model.engine.model.positions;
    if (w->n > o->tokens) w->n = o->tokens;
    if (w->n > positions) w->n = positions;
    if (w->n < 2)
        return tl__fail(err, TL_EINVALID, "the text has %lld tokens; at least two are needed", (long long)w->n);
    if (o->against) TRY(check_logits(w, err));
    TRY(check_determinism(w, err));
    return o->round_trip ? check_round_trip(w, err) : 0;
}

static json_t *as_json(const work *w, const char *given) {
    json_t *list = json_array();
    for (int i = 0; i < w->sheet.n; i++) {
        const check *k = &w->sheet.checks[i];
        json_array_append_new(list,
                              json_pack("{s:s, s:b, s:s}", "name", k->name, "passed", k->passed, "detail", k->detail));
    }
    return json_pack("{s:s, s:s?, s:b, s:o}", "model", given, "against", w->o->against, "passed", all_passed(&w->sheet),
                     "checks", list);
}

static void print_text(const work *w, const char *given) {
    for (int i = 0; i < w->sheet.n; i++) {
        const check *k = &w->sheet.checks[i];
        printf("%-4s  %-12s  %s\n", k->passed ? "ok" : "FAIL", k->name, k->detail);
    }
    printf("%s: %s%s%s\n", given, all_passed(&w->sheet) ? "verified" : "NOT verified", w->o->against ? " against " : "",
           w->o->against ? w->o->against : "");
}

static int run(tl_cli *cli) {
    const settings *o = cli->values;
    const char *given = cli->operands.values[0];
    work w = {.o = o};
    tl_error err = {0};
    tl__cli_mmap(o->mmap);
    int code = TL_EXIT_DONE;
    if (verify(&w, given, &err) < 0) code = tl__cli_fail(cli, &err);
    else if (o->json) code = tl__cli_print_json(cli, as_json(&w, given));
    else print_text(&w, given);
    if (code == TL_EXIT_DONE && !all_passed(&w.sheet)) code = TL_EXIT_FAILED;
    close_subject(&w.model);
    close_subject(&w.against.model);
    if (w.against.vectors) tl__safetensors_close(w.against.vectors);
    free(w.against.row);
    free(w.text);
    free(w.ids);
    return code;
}

const tl_command tl__cmd_verify = {
    .name = "verify",
    .summary = "prove that a model was opened as what it is",
    .usage = "MODEL [--against REFERENCE] [options]",
    .about =
        "Prints a certificate: what was opened, with a hash; that a text comes back from its ids; how its chat "
        "template "
        "renders; that the same bits come out however a text is cut and on any number of threads; that saved weights "
        "come back to the bit. Against a reference (another copy of the model, or vectors made from transformers by "
        "tools/make_reference.py) ids, rendering and the logits of every position are compared too.\n\n"
        "The exit status is 0 where everything holds and 1 where something does not.",
    .examples = "  trilith verify model.gguf\n"
                "      what can be known of the file alone\n"
                "  trilith verify model-q8_0.gguf --against folder --dtype auto --tolerance 0.05\n"
                "      what quantising has moved\n"
                "  trilith verify folder --against reference.safetensors --json\n"
                "      against transformers, for a program",
    .options = options,
    .values_bytes = sizeof(settings),
    .operand = "MODEL",
    .least_operands = 1,
    .most_operands = 1,
    .run = run,
};
