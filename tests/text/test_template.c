/* Chat templates: each construct as jinja2 renders it (tests/vectors/templates.json, made by
 * tools/make_template_vectors.py), the marks of what came from the conversation, errors, bounds, threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdio.h>
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
        const char *source = json_string_value(json_array_get(one, 0)),
                   *wanted = json_string_value(json_array_get(one, 1));
        tl_error err;
        char *got = render(source, variables, NULL, &err);
        bool fine = wanted ? got && strcmp(got, wanted) == 0 : !got && err.status < 0 && err.text[0];
        if (!fine && wrong++ < 400)
            print_message("template: %s\n  jinja2: %s\n  here:   %s\n", source, wanted ? wanted : "(an error)",
                          got ? got : err.text);
        free(got);
    }
    json_decref(root);
    assert_int_equal(wrong, 0);
}

/* Whole templates, of our own, with every conversation. */
static void chats(void **state) {
    (void)state;
    json_t *root = read_json(TL_SOURCE_DIR "/tests/vectors/chat/texts.json");
    const json_t *cases = json_object_get(root, "cases");
    int wrong = 0;
    assert_true(json_array_size(cases) > 80);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *one = json_array_get(cases, i);
        const char *name = json_string_value(json_array_get(one, 0)),
                   *label = json_string_value(json_array_get(one, 1));
        const char *wanted = json_string_value(json_array_get(one, 3));
        char path[512], *source;
        size_t n;
        tl_error err = {0};
        tl_template *t;
        tl_rendering got;
        snprintf(path, sizeof path, TL_SOURCE_DIR "/tests/vectors/chat/%s.jinja", name);
        assert_int_equal(tl__file_slurp(&source, &n, path, 1 << 20, &err), 0);
        assert_int_equal(tl__template_compile(&t, source, n, name, &err), 0);
        tl__template_render(
            t, json_object_get(json_object_get(root, "conversations"), label),
            json_array_get(json_object_get(root, "settings"), (size_t)json_integer_value(json_array_get(one, 2))), NULL,
            &got, &err);
        if (wanted ? !got.text || strcmp(got.text, wanted) != 0 : got.text != NULL) {
            wrong++;
            print_message("%s, %s\n  jinja2: %s\n  here:   %s\n", name, label, wanted ? wanted : "(an error)",
                          got.text ? got.text : err.text);
        }
        tl__rendering_free(&got);
        tl__template_free(t);
        free(source);
    }
    json_decref(root);
    assert_int_equal(wrong, 0);
}

/* ---- marks ---- */

static void marked(const char *source, const char *text, const char *marks) {
    json_t *conversation =
        json_pack("{s:[{s:s, s:s}], s:s}", "messages", "role", "user", "content", " <b>x\\y\n ", "x", "ab");
    json_t *settings = json_pack("{s:s}", "bos_token", "<s>");
    tl_template *t;
    tl_rendering r;
    tl_error err = {0};
    assert_int_equal(tl__template_compile(&t, source, strlen(source), "t", &err), 0);
    assert_int_equal(tl__template_render(t, conversation, settings, NULL, &r, &err), 0);
    assert_string_equal(r.text, text);
    char got[64] = {0};
    assert_true(r.n < sizeof got);
    for (size_t i = 0; i < r.n; i++) got[i] = r.data && r.data[i] ? '1' : '.';
    assert_string_equal(got, marks);
    tl__rendering_free(&r);
    tl__template_free(t);
    json_decref(conversation);
    json_decref(settings);
}

static void marks(void **state) {
    (void)state;
    marked("{{ bos_token }}<u>{{ x }}</u>", "<s><u>ab</u>", "......11....");
    marked("{{ '<|' + messages[0].role + '|>' }}", "<|user|>", "........"); /* a plain role builds tokens */
    marked("[{{ messages[0].content | trim }}]", "[<b>x\\y]", ".111111.");
    marked("{{ x[::-1] ~ '-' ~ x.upper() ~ x.replace('a', 'z') }}", "ba-ABzb", "11.11.1"); /* 'z' is the template's */
    marked("{{ messages[0].content | tojson }}", "\" <b>x\\\\y\\n \"", ".11111111111.");
    marked("{{ '%s|%3s' | format(x, x) }}{{ '{}{:>3}'.format(x, x) }}", "ab| abab ab", "11..1111.11");
    marked("{{ [x, 'c'] }}{{ x | e }}{{ (x, ) | join(',') }}", "['ab', 'c']abab", "..11.......1111");
    marked("{% set y %}q{{ x }}{% endset %}{{ y * 2 }}{{ y.split('b') }}", "qabqab['qa', '']", ".11.11...1......");
}

/* ---- errors and bounds ---- */

static void says(const char *source, const char *sentence) {
    tl_error err;
    json_t *conversation = json_pack("{s:[{s:s}], s:s, s:{s:i}}", "messages", "role", "user", "s", "text", "d", "a", 1);
    char *got = render(source, conversation, NULL, &err);
    if (got || !strstr(err.text, sentence)) print_message("%s: %s\n", source, got ? got : err.text);
    assert_null(got);
    assert_non_null(strstr(err.text, sentence));
    json_decref(conversation);
}

static void errors(void **state) {
    (void)state;
    says("a\n  {{ s | urlize }}", "t, line 2, column 10: the filter 'urlize' is not supported");
    says("{% include 'x' %}", "t, line 1, column 4: the block 'include' is not supported in chat templates");
    says("\n\n{{ é.x + ", "t, line 3, column 1: the expression that begins here has no end");
    says("{{ s.encode() }}", "column 5: the attribute 'encode' of a value of type str is not supported");
    says("{{ x.y }}", "'x' is undefined");
    says("{{ d.b.c }}", "'dict object' has no attribute 'b'");
    says("{{ messages.append(1) }}", "a template must not change a list");
    says("{{ 9223372036854775807 + 1 }}", "an integer beyond 64 bits is not supported");
    says("{% for x in s %}", "the block 'for' that begins here is not closed by 'endfor'");
    says("{{ s | nope }}", "there is no filter called 'nope'");
    says("{{ s is nope }}", "there is no test called 'nope'");
    tl_error err;
    assert_null(render("{{ raise_exception('Only \"user\" may begin') }}", NULL, NULL, &err));
    assert_string_equal(err.text, "Only \"user\" may begin");
    static const char *const silent[] = {"{{ raise_exception('') }}", "{{ raise_exception('\\0 lost') }}", "{{ raise_exception(nobody) }}"};
    for (int i = 0; i < 3; i++) {
        assert_null(render(silent[i], NULL, NULL, &err));
        assert_non_null(strstr(err.text, "raise_exception without a sentence"));
    }
    tl_template *t;
    assert_int_equal(tl__template_compile(&t, "a\xff", 2, "t", &err), TL_EFORMAT);
    assert_int_equal(tl__template_compile(&t, "a\0b", 3, "t", &err), TL_EFORMAT);
}

static void bounds(void **state) {
    (void)state;
    static const tl_template_limits small = {.steps = 100000, .memory_bytes = 1 << 20};
    static const char *const endless[] = {
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% set n = namespace(s='ab') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
        "{{ 'ab' * 99999999999 }}",
        "{{ [1] * 99999999999 }}",
        "{{ 'x'.center(99999999999) }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{% set n = namespace(a=[], b=[]) %}{% for i in range(60) %}{% set n.a = [n.a, n.a] %}{% set n.b = [n.b, n.b] "
        "%}{% endfor %}{{ n.a == n.b }}",
        "{% set n = namespace(a=()) %}{% for i in range(60) %}{% set n.a = (n.a, n.a) %}{% endfor %}{{ {n.a: 1} }}",
        "{% set n = namespace(a=[]) %}{% for i in range(999) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a }}",
        "{% set n = namespace(a=[]) %}{% for i in range(999) %}{% set n.a = [n.a] %}{% endfor %}{{ n.a | tojson }}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ '%99999999s' % 1 }}",
        "{{ '{:99999999}'.format(1) }}"};
    for (size_t i = 0; i < sizeof endless / sizeof *endless; i++) {
        tl_error err;
        char *got = render(endless[i], NULL, &small, &err);
        if (got) print_message("%s gave a text\n", endless[i]);
        assert_null(got);
        assert_true(err.status < 0 && err.text[0]);
    }
    char deep[3001];
    static const char openers[] = "([{-";
    for (int i = 0; i < 4; i++) {
        memset(deep, openers[i], 3000);
        memcpy(deep, "{{ ", 3);
        deep[3000] = 0;
        tl_error err;
        assert_null(render(deep, NULL, NULL, &err));
        assert_int_equal(err.status, TL_EFORMAT);
    }
}

/* ---- one template, several threads ---- */

static void *render_often(void *template) {
    json_t *conversation = json_pack("{s:[{s:s, s:s}]}", "messages", "role", "user", "content", "héllo");
    for (int i = 0; i < 200; i++) {
        tl_rendering r;
        if (tl__template_render(template, conversation, NULL, NULL, &r, NULL) || strcmp(r.text, "1HÉLLO;'h'"))
            return template;
        tl__rendering_free(&r);
    }
    json_decref(conversation);
    return NULL;
}

static void threads(void **state) {
    (void)state;
    static const char source[] =
        "{% macro m(x) %}{{ x | upper }};{% endmacro %}{% for m2 in messages %}{{ loop.index }}{{ m(m2.content) }}{{ "
        "[m2.content[0]] | join | list | map('string') | list | first | tojson | replace('\"', \"'\") }}{% endfor %}";
    tl_template *t;
    tl_error err = {0};
    pthread_t thread[4];
    assert_int_equal(tl__template_compile(&t, source, strlen(source), "t", &err), 0);
    for (int i = 0; i < 4; i++) pthread_create(&thread[i], NULL, render_often, t);
    for (int i = 0; i < 4; i++) {
        void *wrong;
        pthread_join(thread[i], &wrong);
        assert_null(wrong);
    }
    tl__template_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(constructs), cmocka_unit_test(chats),  cmocka_unit_test(marks),
        cmocka_unit_test(errors),     cmocka_unit_test(bounds), cmocka_unit_test(threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
