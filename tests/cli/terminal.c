/* terminal.c — runs a program in a terminal of its own and types into it, as tests/cli/check_chat.sh asks:
 *
 *     terminal PROGRAM ARGUMENT… <SCRIPT
 *
 * A line of the script is `await TEXT` (until the terminal has shown TEXT after what was awaited before), `hear` (until
 * it has shown anything more), `type TEXT`, `interrupt` (SIGINT, without what a terminal does at ^C: it discards what was
 * last written, maybe what is awaited) or `end` (until the program ends). \r, \n, ^C and ^D in a TEXT are single
 * characters. Everything that was written goes to standard output, then how it ended, as "[exit 0]" or "[signal 2]".
 * Exit status 0 when the script was gone through, each line within 30 seconds. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 30000, MOST = 1 << 20 };

static char said[MOST];
static size_t n_said, awaited;

static int64_t now_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

/* Reads what is there within ms; false at the end. */
static bool listen_for(int terminal, int ms) {
    struct pollfd p = {.fd = terminal, .events = POLLIN};
    if (poll(&p, 1, ms) <= 0) return true;
    ssize_t n = read(terminal, said + n_said, MOST - 1 - n_said);
    if (n <= 0) return n < 0 && errno == EINTR; /* EIO: nobody holds the other end */
    fwrite(said + n_said, 1, (size_t)n, stdout);
    n_said += (size_t)n;
    return true;
}

static bool await(int terminal, const char *text, size_t n) {
    for (int64_t end = now_ms() + PATIENCE_MS; now_ms() < end;) {
        const char *found = memmem(said + awaited, n_said - awaited, text, n);
        if (found) return awaited = (size_t)(found - said) + n, true;
        if (!listen_for(terminal, 100)) return false;
    }
    return false;
}

static bool hear(int terminal) {
    for (int64_t end = now_ms() + PATIENCE_MS; now_ms() < end && n_said == awaited;)
        if (!listen_for(terminal, 100)) return false;
    return n_said > awaited;
}

/* In place; returns its length. */
static size_t plain(char *text) {
    static const struct { char spelled[3], key; } keys[] = {{"\\n", '\n'}, {"\\r", '\r'}, {"^C", 3}, {"^D", 4}};
    size_t n = 0;
    for (const char *c = text; *c; c++) {
        text[n] = *c;
        for (size_t k = 0; k < sizeof keys / sizeof *keys; k++)
            if (c[0] == keys[k].spelled[0] && c[1] == keys[k].spelled[1]) {
                text[n] = keys[k].key, c++;
                break;
            }
        n++;
    }
    return n;
}

static int start(pid_t *child, char **command) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) || unlockpt(terminal)) return -1;
    int own = open(ptsname(terminal), O_RDWR | O_NOCTTY); /* before anyone reads: a terminal with no other end has ended */
    if (own < 0) return -1;
    *child = fork();
    if (*child) return close(own), *child < 0 ? -1 : terminal;
    setsid();
    ioctl(own, TIOCSCTTY, 0); /* the new session's own */
    for (int fd = 0; fd < 3; fd++) dup2(own, fd);
    if (own > 2) close(own);
    execv(command[0], command);
    _exit(127);
}

int main(int argc, char **argv) {
    char line[1024];
    pid_t child = 0;
    int how = 0, failed = 0;
    if (argc < 2) return fprintf(stderr, "terminal: a program is missing\n"), 2;
    int terminal = start(&child, argv + 1);
    if (terminal < 0) return perror("terminal"), 2;
    while (!failed && fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        char shown[sizeof line];
        memcpy(shown, line, sizeof line);
        const bool awaits = strncmp(line, "await ", 6) == 0, types = strncmp(line, "type ", 5) == 0;
        char *text = line + (awaits ? 6 : 5);
        const size_t n = awaits || types ? plain(text) : 0;
        const bool good = awaits                       ? await(terminal, text, n)
                          : types                      ? write(terminal, text, n) == (ssize_t)n
                          : strcmp(shown, "hear") == 0      ? hear(terminal)
                          : strcmp(shown, "interrupt") == 0 ? kill(child, SIGINT) == 0
                                                            : strcmp(shown, "end") == 0;
        if (!good) fprintf(stderr, "terminal: in vain: %s\n", shown), failed = 1;
    }
    const int64_t end = now_ms() + (failed ? 0 : PATIENCE_MS);
    pid_t gone = 0;
    while (!gone && now_ms() < end) {
        listen_for(terminal, 20);
        gone = waitpid(child, &how, WNOHANG);
    }
    if (!gone) {
        fprintf(stderr, "terminal: the program goes on\n");
        kill(child, SIGKILL);
        waitpid(child, &how, 0);
        failed = 1;
    }
    while (n_said < MOST - 1 && listen_for(terminal, 20)) {
        struct pollfd p = {.fd = terminal, .events = POLLIN};
        if (poll(&p, 1, 0) <= 0) break;
    }
    printf("\n[%s %d]\n", WIFSIGNALED(how) ? "signal" : "exit", WIFSIGNALED(how) ? WTERMSIG(how) : WEXITSTATUS(how));
    return failed;
}
