/* test_crowd_of_files.c — L1 through crowds on models in files, in the types that they are stored in.
 *
 * TRILITH_TEST_MODELS=a.gguf:b.gguf names them, TRILITH_TEST_DRAFTS others that only propose; a model is proposed to by
 * another of these that has its vocabulary, and by itself. Without: two small ones, of random weights and without text.
 * What is asked is brief, and what a session answers is worked out once for many shuffles, so that a shuffle of a
 * hundred million parameters takes about a second: that many can be made (crowd.h). */
#include "infer/crowd.h"

enum { FILES = 8, SERVES = 100 };

static tl_engine engines[FILES];
static int n_engines, n_asked; /* the first so many are asked */

static int open_listed(const char *list, bool with_tokenizer, tl_error *err) {
    char *paths = strdup(list ? list : ""), *rest = paths;
    int status = 0;
    for (char *path; !status && (path = strtok_r(rest, ":", &rest)); n_engines++) {
        if (n_engines == FILES) status = tl__fail(err, TL_EINVALID, "%d files are named at most", FILES);
        else status = tl__engine_open(&engines[n_engines], path, with_tokenizer, err);
        if (!status) status = tl__engine_load(&engines[n_engines], &(tl_engine_options){.threads = 2}, err);
    }
    free(paths);
    return status;
}

static int open_files(void **state) {
    static const char small[] =
        TL_SOURCE_DIR "/tests/vectors/gguf-models/llama3.gguf:" TL_SOURCE_DIR "/tests/vectors/gguf-models/gemma3.gguf";
    const char *models = getenv("TRILITH_TEST_MODELS");
    tl_error err = {0};
    int status = open_listed(models ? models : small, models, &err);
    n_asked = n_engines;
    if (!status) status = open_listed(getenv("TRILITH_TEST_DRAFTS"), models, &err);
    if (status) fprintf(stderr, "%s\n", err.text);
    return status;
}

static int close_files(void **state) {
    for (int i = 0; i < n_engines; i++) tl__engine_close(&engines[i]);
    return 0;
}

static tl_engine *another_of_its_vocabulary(int model) {
    for (int i = 1; i < n_engines; i++) {
        tl_engine *other = &engines[(model + i) % n_engines];
        if (other->arch.V == engines[model].arch.V) return other;
    }
    return NULL;
}

/* A text that stays as it is, in the model's own tokens; NULL: it has none. */
static int32_t *read_text(const tl_engine *e, int *n) {
    static const char path[] = TL_SOURCE_DIR "/tests/vectors/tokenizer/text.txt";
    tl_error err = {0};
    int32_t *ids;
    char *text;
    size_t bytes;
    if (!e->tokenizer) return NULL;
    if (tl__file_slurp(&text, &bytes, path, 1 << 20, &err)) fail_msg("%s", err.text);
    *n = (int)tl__engine_encode(e, &ids, text, bytes, false, path, &err);
    free(text);
    assert_true(*n > 1000);
    return ids;
}

/* Crowds of all sizes, most of them small. A step reads all weights, so that the larger ones are not held to steps,
 * slots or pages of which they would need hundreds; those of 64 come at once. Where pages are fewest somebody needs
 * more than there are. */
static setting draw_brief_setting(const subject *s, uint64_t key, uint64_t asked, tl_type kv_type) {
    static const int sizes[] = {1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8, 12, 24};
    setting how = draw_setting(s, key, asked, kv_type);
    const bool all = key % 25 == 0;
    how.requests = all ? REQUESTS : sizes[draw(key, 8, sizeof sizes / sizeof *sizes)];
    how.come = all ? 0 : how.come ? 2 + how.requests / 8 : 0;
    if (how.step_tokens < how.requests / 2) how.step_tokens += how.requests;
    if (how.running < how.requests / 8) how.running += how.requests / 8;
    if (all) how.running = REQUESTS;
    if (how.pages == pages_for(s->positions)) {
        how.surely = FIRST_THAT_GROWS;
        if (how.running == 1) how.running = 2;
    }
    how.pages += all ? REQUESTS : how.requests / 8;
    return how;
}

static void L1_of_files(void **state) {
    const int first = number_of("FIRST", 0), end = first + number_of("SHUFFLES", 24);
    for (int model = 0; model < n_asked; model++) {
        tl_engine *e = &engines[model];
        subject s = {.engine = e,
                     .draft = {NULL, another_of_its_vocabulary(model), e},
                     .requests = REQUESTS,
                     .prompt = 34,
                     .made = 7,
                     .alike = 11,
                     .positions = 64,
                     .brief = true};
        int32_t *text = read_text(e, &s.n_text);
        s.text = text;
        deeds d = {0};
        for (int k = first; k < end; k++) {
            const uint64_t set = FIRST_KEY + (uint64_t)(k / SERVES), key = FIRST_KEY + (uint64_t)k;
            if (k == first || k % SERVES == 0) make_items(&s, set);
            const setting how = draw_brief_setting(&s, key, set, kv_types[(k / SERVES + model) % 4]);
            shuffle(&d, &how, key);
        }
        free(text);
        print_message("%s: %d shuffles, %lld steps of up to %d at once, %lld answers, %lld tokens found computed, %lld "
                      "preemptions, %lld stop texts, %lld tokens thought, %lld of %lld proposed kept\n",
                      e->folder, end - first, (long long)d.steps, d.most, (long long)d.answers, (long long)d.hits,
                      (long long)d.preemptions, (long long)d.stops, (long long)d.thought, (long long)d.accepted,
                      (long long)d.proposed);
        if (first > 0 && end - first < SERVES) continue; /* a small piece need not have had all */
        expect_deeds(&d, 20);
        assert_true(d.stops > 5 || !e->tokenizer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(L1_of_files)};
    return cmocka_run_group_tests(tests, open_files, close_files);
}
