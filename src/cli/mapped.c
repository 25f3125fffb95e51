/* mapped.c — what the program does about files that it maps: lets a user not map them, and turns the fault of one that
 * was cut short while it was in use into a sentence and an exit status. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "io/file.h"

static char guarded_name[64];
static bool guarded_terminal; /* standard error is one, and may hold a progress line */

const char *const tl__dtype_names[] = {"auto", "bf16", "f32", NULL};
const char *const tl__device_names[] = {"cpu", "cuda", NULL};

void tl__cli_mmap(bool mmap) {
    if (!mmap) setenv("TRILITH_MMAP", "0", 1);
}

/* Only what POSIX allows in a handler; control characters of a path become '?', as in every error. */
static size_t add(char *line, size_t size, size_t used, const char *text) {
    for (; *text && used < size; text++) line[used++] = (unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text;
    return used;
}

static void on_sigbus(int number, siginfo_t *info, void *context) {
    static atomic_flag said = ATOMIC_FLAG_INIT;
    static char line[8192];
    const char *path = info->si_code > 0 ? tl__file_mapped_at(info->si_addr) : NULL;
    (void)context;
    if (!path) { /* no file's fault: end as without this handler */
        signal(number, SIG_DFL);
        raise(number);
        return;
    }
    if (atomic_flag_test_and_set(&said)) /* another thread is saying it */
        for (;;) pause();
    size_t used = 0, room = sizeof line - 1;
    if (guarded_terminal) line[used++] = '\n';
    used = add(line, room, used, guarded_name);
    used = add(line, room, used, ": ");
    used = add(line, room, used, path);
    used = add(line, room, used,
               " can no longer be read where it was mapped: it was cut short or changed while in use, or its disk "
               "failed; restore it and start again (--no-mmap reads such files into memory first)");
    line[used++] = '\n';
    for (size_t done = 0; done < used;) {
        ssize_t n = write(STDERR_FILENO, line + done, used - done);
        if (n < 0 && errno != EINTR) break;
        if (n > 0) done += (size_t)n;
    }
    _exit(TL_EXIT_USAGE);
}

void tl__cli_guard_mapped_files(const char *name) {
    struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO};
    strncpy(guarded_name, name, sizeof guarded_name - 1);
    guarded_terminal = isatty(STDERR_FILENO);
    sigaction(SIGBUS, &action, NULL);
}
