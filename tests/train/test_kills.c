/* test_kills.c — law L3 for a whole process: 20 times (8 where a sanitizer watches) kill -9 at random, some inside a checkpoint's
 * write, each time resumed with other threads and another micro-batch; the last checkpoint's weights equal an
 * uninterrupted run's byte for byte. How fast the machine is decides how many runs the kills are spread over. */
#include <dirent.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "io/file.h"
#include "sanitized.h"

enum { KILLS = SANITIZED ? 8 : 20, INSIDE = SANITIZED ? 2 : 5, MOST_TRIES = 200 };

#define STEPS "200"

static char folder[256];

static void in_folder(char out[512], const char *name) {
    snprintf(out, 512, "%s/%s", folder, name);
}

/* English-like text that no one wrote: words of a fixed list in Philox order. */
static void write_text(const char *path) {
    static const char *const words[] = {"the", "stone", "stands", "and",   "a",    "third", "lies",  "across",
                                        "it",  "while", "wind",   "moves", "over", "grass", "slowly"};
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (uint64_t i = 0; i < 30000; i++)
        fprintf(f, "%s%s", words[tl__philox(1, TL_RNG_TEST, 0, i).v[0] % 15], i % 12 == 11 ? ".\n" : " ");
    fclose(f);
}

/* Start a run; extra are further arguments. */
static pid_t start(const char *out, const char *micro_batch, const char *threads, const char *extra) {
    char data[512];
    in_folder(data, "text.txt");
    pid_t child = fork();
    assert_true(child >= 0);
    if (child > 0) return child;
    int null = open("/dev/null", O_WRONLY);
    dup2(null, STDOUT_FILENO);
    execl(TL_BUILD_DIR "/trilith", "trilith", "train", "--data", data, "--out", out, "--model", "tiny", "--tokenizer",
          "bytes", "--steps", STEPS, "--batch", "8", "--seq", "64", "--micro-batch", micro_batch, "--threads", threads,
          "--checkpoint-every", "4", "--val-samples", "2", "--quiet", extra, NULL);
    _exit(127);
}

static int wait_for(pid_t child) {
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static bool writing(const char *checkpoints) {
    DIR *dir = opendir(checkpoints);
    bool found = false;
    if (!dir) return false;
    for (struct dirent *e; !found && (e = readdir(dir));) found = strncmp(e->d_name, ".step-", 6) == 0;
    closedir(dir);
    return found;
}

static void pause_us(int64_t us) {
    struct timespec t = {us / 1000000, us % 1000000 * 1000};
    nanosleep(&t, NULL);
}

static int64_t last_step(const char *out) {
    char path[512], link[256];
    snprintf(path, sizeof path, "%s/checkpoints/latest", out);
    ssize_t n = readlink(path, link, sizeof link - 1);
    if (n < 6) return 0;
    link[n] = 0;
    return atoll(link + 5);
}

static void assert_same_weights(const char *a, const char *b) {
    char path[1024];
    char *x, *y;
    size_t nx, ny;
    snprintf(path, sizeof path, "%s/checkpoints/latest/model.safetensors", a);
    assert_int_equal(tl__file_slurp(&x, &nx, path, 1 << 30, NULL), 0);
    snprintf(path, sizeof path, "%s/checkpoints/latest/model.safetensors", b);
    assert_int_equal(tl__file_slurp(&y, &ny, path, 1 << 30, NULL), 0);
    assert_int_equal(nx, ny);
    assert_memory_equal(x, y, nx);
    free(x), free(y);
}

/* Not yet ended; what has ended can still be waited for. */
static bool running(pid_t child) {
    siginfo_t info = {0};
    assert_int_equal(waitid(P_PID, (id_t)child, &info, WEXITED | WNOHANG | WNOWAIT), 0);
    return info.si_pid == 0;
}

/* At its last step, with an uninterrupted run's weights, and with nothing left of what the kills cut. */
static void assert_finished(const char *run, const char *whole) {
    char checkpoints[600];
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", run);
    assert_int_equal(last_step(run), atoll(STEPS));
    assert_same_weights(whole, run);
    assert_false(writing(checkpoints));
}

static void test_L3_kill_9(void **state) {
    char whole[512], killed[512], checkpoints[600], text[512];
    (void)state;
    in_folder(text, "text.txt"), in_folder(whole, "whole"), in_folder(killed, "killed");
    snprintf(checkpoints, sizeof checkpoints, "%s/checkpoints", killed);
    write_text(text);
    assert_int_equal(wait_for(start(whole, "8", "2", "--no-resume")), 0);
    assert_int_equal(last_step(whole), atoll(STEPS));

    static const char *const micro[] = {"8", "4"}, *const threads[] = {"1", "2", "3"};
    int kills = 0, inside = 0;
    for (int attempt = 0; attempt < MOST_TRIES && (kills < KILLS || inside < INSIDE); attempt++) {
        uint32_t random = tl__philox(5, TL_RNG_TEST, 0, (uint64_t)attempt).v[0];
        bool aim = attempt % 2 == 0; /* at the next write that begins; else anywhere */
        int64_t before = last_step(killed), deadline = tl__now_ns() + (int64_t)(random % 200000) * 1000;
        pid_t child = start(killed, micro[attempt % 2], threads[attempt % 3], "--resume");
        bool over = false, swept = false;
        while (!over && running(child)) {
            /* Anywhere, but only once a checkpoint has been added, so that the run always advances. */
            swept = swept || !writing(checkpoints); /* what the kill before left does not count as this one's */
            over = aim ? swept && writing(checkpoints) : last_step(killed) > before && tl__now_ns() > deadline;
            if (!over) pause_us(20);
        }
        if (aim && attempt % 4) pause_us(random % 1500);
        (void)kill(child, SIGKILL);
        int status = wait_for(child);
        if (status == 0) { /* it was at its end before the kill: another run is killed from here on */
            assert_finished(killed, whole);
            assert_int_equal(tl__folder_remove(killed, NULL), 0);
            continue;
        }
        assert_int_equal(status, -SIGKILL);
        bool cut = writing(checkpoints);
        inside += cut;
        kills++;
        print_message("kill %2d: the latest checkpoint is step %3lld, %s\n", kills, (long long)last_step(killed),
                      cut ? "inside a write" : "between writes");
    }
    assert_true(kills >= KILLS);
    assert_true(inside >= INSIDE);
    assert_int_equal(wait_for(start(killed, "4", "2", "--resume")), 0);
    assert_finished(killed, whole);
}

/* A scheduler's warning: a checkpoint, one sentence, status 0 — and the rest of the run as if nothing had been. */
static void test_SIGTERM_and_SIGUSR1_checkpoint_and_end(void **state) {
    static const int signals[] = {SIGTERM, SIGUSR1};
    char whole[512], asked[512];
    (void)state;
    in_folder(whole, "whole"), in_folder(asked, "asked");
    for (int i = 0; i < 2; i++) {
        int64_t before = last_step(asked);
        pid_t child = start(asked, "8", "2", "--resume");
        while (last_step(asked) == before && running(child)) pause_us(100);
        assert_int_equal(kill(child, signals[i]), 0);
        assert_int_equal(wait_for(child), 0);
        assert_true(last_step(asked) > before && last_step(asked) < atoll(STEPS));
    }
    assert_int_equal(wait_for(start(asked, "8", "2", "--resume")), 0);
    assert_same_weights(whole, asked);
}

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/trilith-kills-XXXXXX");
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state) {
    (void)state;
    return tl__folder_remove(folder, NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_L3_kill_9),
                                       cmocka_unit_test(test_SIGTERM_and_SIGUSR1_checkpoint_and_end)};
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
