/* Chat templates: each construct as jinja2 renders it (tests/vectors/templates.json, made by
 * tools/make_template_vectors.py), the marks of what came from the conversation, errors, bounds, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include "base/json.h"
#include "io/file.h"
#include "text/template.h"

static json_t *read_json(const char *path) {
    char *bytes;
    size_t n;
    tl_error err = {0};
    assert_int_equal(tl__file_slurp(&bytes, &n, path, 16 << 20, &err), 0);
    json_t *root = tl__json_parse(bytes, n, path, &err);
    assert_non_null(root);
    free(bytes);
    return root;
}

/* Renders source; the text (free it) or NULL and the error. */
static char *render(const char *source, const json_t *conversation, const tl_template_limits *limits, tl_error *err) {
    tl_template *t;
    tl_rendering out;
    *err = (tl_error){0};
    if (tl__template_compile(&t, source, strlen(source), "t", err)) return NULL;
    tl__template_render(t, conversation, NULL, limits, &out, err);
    tl__template_free(t);
    free(out.data);
    return out.text;
}

/* ---- against jinja2 ---- */

static void constructs(void **state) {
    (void)state;
    json_t *root = read_json(TL_SOURCE_DIR "/tests/vectors/templates.json");
    const json_t *variables = json_object_get(root, "variables"), *cases = json_object_get(root, "cases");
    int wrong = 0;
    assert_true(json_array_size(cases) > 1000);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *source = json_string_value(json_array_get(one, 0)), *wanted = json_string_value(json_array_get(one, 1));
        tl_error err;
        char *got = render(source, variables, NULL, &err);
        bool fine = wanted ? got && strcmp(got, wanted) == 0 : !got && err.status < 0 && err.text[0];
        if (!fine && wrong++ < 400)
            print_message("template: %s\n  jinja2: %s\n  here:   %s\n", source, wanted ? wanted : "(an error)", got ? got : err.text);
        free(got);
    }
    json_decref(root);
    assert_int_equal(wrong, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
