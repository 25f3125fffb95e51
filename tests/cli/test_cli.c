/* test_cli.c — the option table's contract: how values are read, who wins, and that settings written as YAML read back
 * the same. The sentences that a user sees are checked in check_usage.sh, through the program. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include "cli/cli.c"
#include "cli/cli_help.c"
#include "cli/cli_yaml.c"
#include "cli/mapped.c"

typedef struct settings {
    bool json, stop, dry;
    int64_t batch, seed;
    double lr;
    const char *out, *prompt, *config;
    tl_list data;
    int schedule;
} settings;

static const char *const schedules[] = {"cosine", "linear", "wsd", NULL};

static const tl_option options[] = {
    TL_HEADING("Data"),
    {"data", TL_LIST(settings, data)},
    {"out", TL_STRING(settings, out), .initial = "run"},
    {"prompt", TL_STRING(settings, prompt)},
    TL_HEADING("Numbers"),
    {"batch-size", TL_INT(settings, batch), .initial = "8", .least = 1, .most = 1e12},
    {"seed", TL_INT(settings, seed)},
    {"lr", TL_REAL(settings, lr), .initial = "1e-3", .least = 0, .most = 1},
    {"schedule", TL_CHOICE(settings, schedule), .choices = schedules, .initial = "linear"},
    {"stop", TL_FLAG(settings, stop), .initial = "true"},
    {"dry", TL_FLAG(settings, dry)},
    {"json", TL_FLAG(settings, json), .not_in_yaml = true},
    {"config", TL_CONFIG(settings, config)},
    {0}};

/* What the command saw in its last run: strings are copied out, since they go with the invocation. */
static struct {
    int runs;
    settings s;
    char out[256], prompt[256], data[8][256], operand[2][64], *yaml;
    tl_source lr_source, batch_source;
    int n_operands;
} seen;

static int run(tl_cli *cli) {
    const settings *s = cli->values;
    seen.runs++;
    seen.s = *s;
    snprintf(seen.out, sizeof seen.out, "%s", s->out ? s->out : "(none)");
    snprintf(seen.prompt, sizeof seen.prompt, "%s", s->prompt ? s->prompt : "(none)");
    for (int i = 0; i < s->data.n && i < 8; i++) snprintf(seen.data[i], sizeof seen.data[i], "%s", s->data.values[i]);
    seen.n_operands = cli->operands.n;
    for (int i = 0; i < cli->operands.n; i++)
        snprintf(seen.operand[i], sizeof seen.operand[i], "%s", cli->operands.values[i]);
    seen.lr_source = tl__cli_source(cli, "lr");
    seen.batch_source = tl__cli_source(cli, "batch-size");
    free(seen.yaml);
    seen.yaml = tl__cli_yaml_text(cli);
    return 0;
}

static const tl_command command = {.name = "go",
                                   .summary = "",
                                   .usage = "",
                                   .options = options,
                                   .values_bytes = sizeof(settings),
                                   .operand = "WORD",
                                   .most_operands = 2,
                                   .run = run};

/* Run with up to 16 words; returns the exit code. Refusals speak on standard error, which is quietened here. */
static int go(const char *first, ...) {
    static const tl_command *const commands[] = {&command};
    char *argv[20] = {"trilith", "go"};
    int argc = 2;
    va_list args;
    va_start(args, first);
    for (const char *a = first; a && argc < 18; a = va_arg(args, const char *)) argv[argc++] = (char *)(uintptr_t)a;
    va_end(args);
    int before = seen.runs;
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    FILE *quiet = freopen("/dev/null", "w", stderr);
    int code = tl__cli_main(argc, argv, commands, 1);
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    assert_non_null(quiet);
    assert_int_equal(seen.runs - before, code == 0); /* a refused call never runs */
    return code;
}

static const char *write_file(const char *text) {
    static char path[] = "/tmp/trilith-test-cli-XXXXXX";
    if (strstr(path, "XXXXXX")) close(mkstemp(path));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
    return path;
}

static int remove_file(void **state) {
    unlink(write_file(""));
    free(seen.yaml);
    return 0;
}

static void defaults_stand(void **state) {
    assert_int_equal(go(NULL), 0);
    assert_int_equal(seen.s.batch, 8);
    assert_true(seen.s.lr == 1e-3 && seen.s.stop && !seen.s.dry && !seen.s.json);
    assert_int_equal(seen.s.schedule, 1);
    assert_int_equal(seen.s.data.n, 0);
    assert_string_equal(seen.out, "run");
    assert_string_equal(seen.prompt, "(none)");
    assert_int_equal(seen.lr_source, TL_FROM_DEFAULT);
}

static void numbers_are_read_exactly(void **state) {
    static const struct {
        const char *text;
        int64_t value;
    } good[] = {{"1", 1},
                {"64k", 64000},
                {"64K", 64000},
                {"1.5M", 1500000},
                {"2G", 2000000000},
                {"2B", 2000000000},
                {"1T", 1000000000000},
                {"1e3", 1000},
                {"+7", 7},
                {"0.001M", 1000},
                {"999999999999", 999999999999}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(go("--batch-size", good[i].text, NULL), 0);
        assert_int_equal(seen.s.batch, good[i].value);
    }
    static const char *const bad[] = {"",     " 1",  "1 ",  "0",     "-1",    "1.5", "1kk", "k",
                                      "0x10", "nan", "inf", "1e400", "1_000", "1e",  "--",  "1000000000001"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char arg[64];
        snprintf(arg, sizeof arg, "--batch-size=%s", bad[i]);
        assert_int_equal(go(arg, NULL), 2);
    }
    assert_int_equal(go("--seed", "-5", NULL), 0); /* a value may begin with a dash */
    assert_int_equal(seen.s.seed, -5);
    assert_int_equal(go("--seed", "9223372036854775807", NULL), 0);
    assert_true(seen.s.seed == INT64_MAX);
    assert_int_equal(go("--seed", "-9223372036854775808", NULL), 0);
    assert_true(seen.s.seed == INT64_MIN);
    assert_int_equal(go("--seed", "9223372036854775808", NULL), 2);
    assert_int_equal(go("--lr", "2.5e-4", NULL), 0);
    assert_true(seen.s.lr == 2.5e-4);
}

static void spellings_are_alike(void **state) {
    assert_int_equal(go("--batch_size=3", "--no-stop", "--dry", "--schedule", "wsd", NULL), 0);
    assert_true(seen.s.batch == 3 && !seen.s.stop && seen.s.dry && seen.s.schedule == 2);
    assert_int_equal(go("--stop=false", "--dry=yes", "--batch-size", "4", "--batch-size", "5", NULL), 0);
    assert_true(seen.s.batch == 5 && !seen.s.stop && seen.s.dry);
    assert_int_equal(go("--no-lr", NULL), 2);
    assert_int_equal(go("--no-stop=true", NULL), 2);
    assert_int_equal(go("--batc", "3", NULL), 2);
    assert_int_equal(go("--schedule", "cos", NULL), 2);
    assert_int_equal(go("-x", NULL), 2);
    assert_int_equal(go("--Data", "x", NULL), 2);
}

static void values_that_look_like_options(void **state) {
    assert_int_equal(go("--prompt", "--- cut here", NULL), 0);
    assert_string_equal(seen.prompt, "--- cut here");
    assert_int_equal(go("--prompt=--dry", NULL), 0);
    assert_string_equal(seen.prompt, "--dry");
    assert_false(seen.s.dry);
    assert_int_equal(go("--prompt", "", NULL), 0);
    assert_string_equal(seen.prompt, "");
    assert_int_equal(go("--prompt", "--dry", NULL), 2);
    assert_int_equal(go("--prompt", NULL), 2);
    assert_int_equal(go("a", "--dry", "b", NULL), 0);
    assert_int_equal(seen.n_operands, 2);
    assert_int_equal(go("--dry", "--", "--prompt", NULL), 0);
    assert_string_equal(seen.operand[0], "--prompt");
    assert_int_equal(go("a", "b", "c", NULL), 2);
}

static void lists_go_on_and_grow(void **state) {
    assert_int_equal(go("--data", "a", "b", "--dry", "--data", "c", "--data=d", NULL), 0);
    assert_int_equal(seen.s.data.n, 4);
    for (int i = 0; i < 4; i++) assert_int_equal(seen.data[i][0], 'a' + i);
    assert_int_equal(go("--data", "--dry", NULL), 2);
}

static void the_command_line_wins_over_yaml_over_defaults(void **state) {
    const char *path = write_file(
        "# a run\nlr: 0.5\nbatch_size: 16k\ndata: [x, y]\nstop: off\nschedule: cosine\nprompt: \"a: b\\n\"\n");
    assert_int_equal(go("--lr", "0.25", "--config", path, "--data", "z", NULL), 0);
    assert_true(seen.s.lr == 0.25 && seen.s.batch == 16000 && !seen.s.stop && seen.s.schedule == 0);
    assert_int_equal(seen.s.data.n, 1);
    assert_string_equal(seen.data[0], "z");
    assert_string_equal(seen.prompt, "a: b\n");
    assert_string_equal(seen.out, "run");
    assert_int_equal(seen.lr_source, TL_FROM_COMMAND_LINE);
    assert_int_equal(seen.batch_source, TL_FROM_YAML);
    assert_int_equal(go("--config", path, NULL), 0);
    assert_int_equal(seen.s.data.n, 2);
    static const char *const bad[] = {
        "learning-rate: 1\n", "lr: [0.1, 0.2]\n", "lr: fast\n", "json: true\n", "config: x\n", "lr\n",
        "lr: 0.1\nlr: 0.2\n", "a:\n  b: 1\n",     "- lr\n",     "lr: {\n",      "Data: x\n"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_int_equal(go("--config", write_file(bad[i]), NULL), 2);
    assert_int_equal(go("--config", "/nonexistent/run.yaml", NULL), 2);
    assert_int_equal(go("--config", "/", NULL), 2);
    assert_int_equal(go("--config", write_file(""), NULL), 0);
}

static void settings_written_read_back_the_same(void **state) {
    static const char *const texts[] = {"plain",    "true", "a b", "",     "- x", "#",  "\"q\" \\ \t\n",
                                        "größe: 1", "{a}",  "~",   "0x1F", "'",   "*a", "&b",
                                        "!c",       "%d"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        char prompt[300], data[300];
        snprintf(prompt, sizeof prompt, "--prompt=%s", texts[i]);
        snprintf(data, sizeof data, "--data=%s", texts[i]);
        assert_int_equal(go(prompt, data, "--data", "second", "--lr", "0.1234567890123456789", "--seed",
                            "9007199254740993", "--no-stop", "--dry", "--schedule", "wsd", NULL),
                         0);
        double lr = seen.s.lr;
        char *before = strdup(seen.yaml);
        assert_int_equal(go("--config", write_file(before), NULL), 0);
        assert_string_equal(seen.prompt, texts[i]);
        assert_string_equal(seen.data[0], texts[i]);
        assert_int_equal(seen.s.data.n, 2);
        assert_true(seen.s.lr == lr && seen.s.seed == 9007199254740993 && !seen.s.stop && seen.s.dry &&
                    seen.s.schedule == 2);
        assert_string_equal(seen.yaml, before);
        free(before);
    }
}

static void a_status_says_whether_to_try_again(void **state) {
    static const struct {
        int status, code;
    } known[] = {{TL_ESTOPPED, 0}, {TL_ENOMEM, 1},    {TL_ENONFINITE, 1}, {TL_EINVALID, 2},  {TL_ENOSPACE, 2},
                 {TL_EDAMAGED, 2}, {TL_ENOTFOUND, 2}, {TL_ECOMM, 75},     {TL_EDIVERGED, 76}};
    tl_cli cli = {.name = "trilith go"};
    fflush(stderr);
    int saved = dup(STDERR_FILENO);
    assert_non_null(freopen("/dev/null", "w", stderr));
    int codes[sizeof known / sizeof *known];
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        tl_error err = {.status = known[i].status, .text = "why"};
        codes[i] = tl__cli_fail(&cli, &err);
    }
    fflush(stderr);
    dup2(saved, STDERR_FILENO);
    close(saved);
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) assert_int_equal(codes[i], known[i].code);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_stand),
        cmocka_unit_test(numbers_are_read_exactly),
        cmocka_unit_test(spellings_are_alike),
        cmocka_unit_test(values_that_look_like_options),
        cmocka_unit_test(lists_go_on_and_grow),
        cmocka_unit_test(the_command_line_wins_over_yaml_over_defaults),
        cmocka_unit_test(settings_written_read_back_the_same),
        cmocka_unit_test(a_status_says_whether_to_try_again),
    };
    return cmocka_run_group_tests(tests, NULL, remove_file);
}
