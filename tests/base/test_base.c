/* What everything stands on: sentences of errors, nearest names, the arena, the log, the clock, the version. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include "base/arena.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "sanitized.h"

static void sentences(void **state) {
    (void)state;
    tl_error err;
    assert_int_equal(tl__fail(&err, TL_EINVALID, "%s is %d", "lr", 7), TL_EINVALID);
    assert_int_equal(err.status, TL_EINVALID);
    assert_string_equal(err.text, "lr is 7");
    assert_int_equal(tl__error_prefix(&err, "run.yaml, line %d", 3), TL_EINVALID);
    assert_string_equal(err.text, "run.yaml, line 3: lr is 7");
    assert_int_equal(tl__fail(NULL, TL_EIO, "nobody asks"), TL_EIO);
    static const int codes[][2] = {
        {ENOSPC, TL_ENOSPACE}, {EDQUOT, TL_ENOSPACE}, {ENOENT, TL_ENOTFOUND}, {EACCES, TL_EIO}};
    for (int i = 0; i < 4; i++) {
        errno = codes[i][0];
        assert_int_equal(tl__fail_errno(&err, "cannot open x"), codes[i][1]);
        assert_non_null(strstr(err.text, "cannot open x: "));
        assert_non_null(strstr(err.text, strerror(codes[i][0])));
        errno = codes[i][0];
        assert_int_equal(tl__fail_errno(NULL, "cannot open x"), codes[i][1]);
    }
    tl__fail(&err, TL_EIO, "a%cb%cc\n", 27, 127); /* no control byte reaches a terminal */
    assert_string_equal(err.text, "a?b?c?");
    char long_text[3000];
    for (int cut = 0; cut < 4; cut++) { /* cut within "é€" at every byte: what is left is whole characters */
        memset(long_text, 'x', sizeof long_text);
        strcpy(long_text + sizeof err.text - 1 - cut, "€");
        tl__fail(&err, TL_EIO, "%s%s", long_text, "more");
        size_t n = strlen(err.text);
        assert_true(n < sizeof err.text && n >= sizeof err.text - 5);
        assert_true(err.text[n - 1] == 'x' || (cut == 3 && !strcmp(err.text + n - 3, "€")));
        tl__error_prefix(&err, "%s", long_text);
        assert_true(strlen(err.text) < sizeof err.text);
    }
}

static void nearest_names(void **state) {
    (void)state;
    const char *const names[] = {"steps", "learning_rate", "batch", "seq", "lr"};
    assert_string_equal(tl__nearest_name("lerning_rate", names, 5), "learning_rate");
    assert_string_equal(tl__nearest_name("step", names, 5), "steps");
    assert_string_equal(tl__nearest_name("abtch", names, 5), "batch"); /* a swap is one edit */
    assert_string_equal(tl__nearest_name("seq", names, 5), "seq");
    assert_string_equal(tl__nearest_name("rl", names, 5), "lr");
    assert_null(tl__nearest_name("zebra", names, 5));
    assert_null(tl__nearest_name("", names, 5));
    assert_null(tl__nearest_name("x", names, 0));
    char word[5000];
    memset(word, 'a', sizeof word);
    word[sizeof word - 1] = 0;
    assert_null(tl__nearest_name(word, names, 5));
}

static size_t place(tl_arena *arena, void *at[4]) {
    at[0] = TL_TAKE(arena, char, 1);
    at[1] = TL_TAKE(arena, double, 1000);
    at[2] = TL_TAKE(arena, float, 0);
    at[3] = TL_TAKE(arena, char, 3 << 20);
    return arena->used_bytes;
}

static void arenas(void **state) {
    (void)state;
    void *at[4];
    tl_arena dry = tl__arena_dry(), arena;
    size_t need = place(&dry, at);
    assert_int_equal(need, 64 + 8000 + (3 << 20));
    for (int i = 0; i < 4; i++) assert_null(at[i]);
    tl_error err;
    const size_t sizes[] = {need, need + 1, (size_t)5 << 20, ((size_t)64 << 20) + 1};
    for (int s = 0; s < 4; s++) {
        assert_int_equal(tl__arena_open(&arena, sizes[s], &err), 0);
        assert_true(arena.size_bytes >= sizes[s] && arena.size_bytes < sizes[s] + 4096);
        assert_int_equal(place(&arena, at), need);
        for (int i = 0; i < 4; i++) assert_int_equal((uintptr_t)at[i] % 64, 0);
        assert_true((char *)at[1] >= (char *)at[0] + 64 && (char *)at[3] >= (char *)at[1] + 8000);
        for (size_t i = 0; i < arena.size_bytes; i++) assert_int_equal(arena.base[i], 0);
        memset(arena.base, 1, arena.size_bytes);
        tl__arena_close(&arena);
        assert_null(arena.base);
        tl__arena_close(&arena);
    }
    assert_int_equal(tl__arena_open(&arena, 0, &err), 0);
    tl__arena_close(&arena);
    assert_int_equal(tl__arena_open(&arena, SIZE_MAX, &err), TL_ENOMEM);
    assert_int_equal(tl__arena_open(&arena, (size_t)1 << 60, &err), TL_ENOMEM);
    assert_null(arena.base);
}

/* RssAnon in bytes. */
static size_t resident(void) {
    char line[256];
    size_t kb = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "RssAnon:", 8)) kb = strtoul(line + 8, NULL, 10);
    if (f) fclose(f);
    return kb << 10;
}

/* Law L4: an arena becomes resident by its size and no more, huge pages or not. The margin is what this process itself
 * may touch meanwhile. */
static void resident_is_the_size(void **state) {
    (void)state;
    if (SANITIZED) skip(); /* shadow memory counts too */
    size_t size = ((size_t)37 << 20) + 12345, before = resident();
    if (!before) skip();
    tl_arena arena;
    assert_int_equal(tl__arena_open(&arena, size, NULL), 0);
    memset(tl__arena_take(&arena, size, 1), 1, size);
    size_t grown = resident() - before;
    assert_true(grown >= size && grown < size + (1 << 20));
    tl__arena_close(&arena);
}

/* How a child that calls `body` ends. */
static int signal_of(void (*body)(void)) {
    pid_t child = fork();
    if (child == 0) {
        struct rlimit none = {0, 0};
        setrlimit(RLIMIT_CORE, &none);
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        body();
        _exit(0);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}
static void take_too_much(void) {
    tl_arena arena;
    tl__arena_open(&arena, 4096, NULL);
    tl__arena_take(&arena, 4096 + 1, 1);
}
static void take_overflow(void) {
    tl_arena arena = tl__arena_dry();
    tl__arena_take(&arena, SIZE_MAX / 2, 4);
}
static void take_all(void) {
    tl_arena arena;
    tl__arena_open(&arena, 4096, NULL);
    tl__arena_take(&arena, 1024, 4);
}
static void own_bugs_assert(void **state) {
    (void)state;
    assert_int_equal(signal_of(take_too_much), SIGABRT);
    assert_int_equal(signal_of(take_overflow), SIGABRT);
    assert_int_equal(signal_of(take_all), 0);
}

static void count_hook(void *user) {
    ++*(int *)user;
}

/* What `level` (of TRILITH_LOG) lets through of four lines, into out[]. */
static void log_lines(const char *level, char *out, size_t size) {
    int fds[2];
    assert_int_equal(pipe(fds), 0);
    pid_t child = fork(); /* the level is read once a process */
    if (child == 0) {
        dup2(fds[1], STDERR_FILENO);
        setenv("TRILITH_LOG", level, 1);
        int calls = 0;
        tl__log_hooks(count_hook, count_hook, &calls);
        tl__log_line(TL_LOG_DEBUG, "one");
        tl__info("two %d\t%c[2J", 2, 27);
        tl__warn("three");
        tl__log_hooks(NULL, NULL, NULL);
        tl__log_line(TL_LOG_ERROR, "calls %d", calls);
        _exit(0);
    }
    close(fds[1]);
    size_t used = 0;
    for (ssize_t got; (got = read(fds[0], out + used, size - 1 - used)) > 0;) used += (size_t)got;
    out[used] = 0;
    close(fds[0]);
    waitpid(child, NULL, 0);
}

static void logging(void **state) {
    (void)state;
    char text[1000];
    log_lines("", text, sizeof text);
    assert_string_equal(text, "two 2\t?[2J\nwarning: three\nerror: calls 4\n");
    log_lines("debug", text, sizeof text);
    assert_string_equal(text, "debug: one\ntwo 2\t?[2J\nwarning: three\nerror: calls 6\n");
    log_lines("error", text, sizeof text);
    assert_string_equal(text, "error: calls 0\n");
    log_lines("loud", text, sizeof text);
    assert_non_null(strstr(text, "TRILITH_LOG must be"));
    assert_non_null(strstr(text, "two 2"));
}

static void clock_and_version(void **state) {
    (void)state;
    char date[32], small[4];
    int64_t a = tl__now_ns(), b = tl__now_ns();
    assert_true(a > 0 && b >= a);
    tl__utc_iso8601(date, sizeof date);
    assert_int_equal(strlen(date), 20);
    assert_true(date[4] == '-' && date[10] == 'T' && date[19] == 'Z');
    tl__utc_iso8601(small, sizeof small);
    assert_string_equal(small, "");
    assert_string_equal(tl_version(), "0.1.0");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sentences),
        cmocka_unit_test(nearest_names),
        cmocka_unit_test(arenas),
        cmocka_unit_test(resident_is_the_size),
        cmocka_unit_test(own_bugs_assert),
        cmocka_unit_test(logging),
        cmocka_unit_test(clock_and_version),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
