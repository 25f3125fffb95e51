/* log.c — owns standard error: one line, one write, whole even when threads log at once. */
#include "base/log.h"

#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* guards everything below and the order of lines */
static struct {
    void (*before)(void *), (*after)(void *);
    void *user;
} hooks;
static int least = -1; /* level shown; −1: TRILITH_LOG not read yet */

static void put(const char *bytes, size_t n) {
    while (n) {
        ssize_t done = write(STDERR_FILENO, bytes, n);
        if (done <= 0) return; /* nobody is listening: a log line is never worth failing for */
        bytes += done, n -= (size_t)done;
    }
}

static void read_level(void) {
    static const char *const names[] = {"debug", "info", "warn", "error"};
    const char *want = getenv("TRILITH_LOG");
    least = TL_LOG_INFO;
    if (!want || !*want) return;
    for (int i = 0; i < 4; i++)
        if (!strcmp(want, names[i])) {
            least = i;
            return;
        }
    static const char complaint[] = "warning: TRILITH_LOG must be debug, info, warn or error; using info\n";
    put(complaint, sizeof complaint - 1);
}

void tl__log_line(tl_log_level level, const char *format, ...) {
    static const char *const prefix[] = {"debug: ", "", "warning: ", "error: "};
    pthread_mutex_lock(&lock);
    if (least < 0) read_level();
    if ((int)level >= least) {
        char line[4096];
        size_t used = (size_t)snprintf(line, sizeof line, "%s", prefix[level]);
        va_list args;
        va_start(args, format);
        int n = vsnprintf(line + used, sizeof line - used - 1, format, args);
        va_end(args);
        if (n > 0) used += (size_t)n < sizeof line - used - 1 ? (size_t)n : sizeof line - used - 2;
        for (size_t i = 0; i < used; i++) /* text from outside must not drive the terminal */
            if (((unsigned char)line[i] < 0x20 && line[i] != '\n' && line[i] != '\t') || line[i] == 0x7f) line[i] = '?';
        line[used++] = '\n';
        if (hooks.before) hooks.before(hooks.user);
        put(line, used);
        if (hooks.after) hooks.after(hooks.user);
    }
    pthread_mutex_unlock(&lock);
}

void tl__log_hooks(void (*before)(void *), void (*after)(void *), void *user) {
    pthread_mutex_lock(&lock);
    hooks.before = before, hooks.after = after, hooks.user = user;
    pthread_mutex_unlock(&lock);
}
