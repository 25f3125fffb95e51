/* server.c — listening, threads, and an orderly end.
 *
 * Threads: libmicrohttpd's few, which read requests and write answers; the runner's, which computes; the watch's; and
 * the caller's, which waits for signals. Only the runner's waits for nothing but work.
 *
 * An end in order: nothing new is begun; what runs has drain_seconds (a second signal: none), then is cancelled; when
 * no connection is suspended any more libmicrohttpd stops, which closes what is still being written; the runner last.
 */
#include "serve/server.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "base/clock.h"
#include "base/log.h"
#include "serve/server_parts.h"

enum { HTTP_THREADS = 4, HEADER_BYTES = 32 * 1024, BACKLOG = 511 };

/* ---- listening ---- */

/* A socket file that nobody listens on any more is in the way of the next server. */
static void remove_stale(const char *path, const struct sockaddr_un *at) {
    struct stat s;
    if (lstat(path, &s) || !S_ISSOCK(s.st_mode)) return;
    const int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (probe < 0) return;
    if (connect(probe, (const struct sockaddr *)at, sizeof *at) && errno == ECONNREFUSED) unlink(path);
    close(probe);
}

static int listen_unix(tl_server *s, int *out, tl_error *err) {
    const char *path = s->options->unix_path;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof at.sun_path)
        return tl__fail(err, TL_EINVALID, "the path of --unix has %zu bytes; a socket's has %zu at most", strlen(path),
                        sizeof at.sun_path - 1);
    strcpy(at.sun_path, path);
    remove_stale(path, &at);
    const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const mode_t before = umask(0177); /* for this user alone */
    const bool failed = fd < 0 || bind(fd, (const struct sockaddr *)&at, sizeof at) || listen(fd, BACKLOG);
    umask(before);
    *out = fd;
    snprintf(s->origin, sizeof s->origin, "localhost");
    if (!failed) return 0;
    tl__fail_errno(err, "%s cannot be listened on", path);
    if (fd >= 0) close(fd);
    return err->status;
}

static void note_origin(tl_server *s, int fd) {
    struct sockaddr_storage at;
    socklen_t n = sizeof at;
    char host[NI_MAXHOST], port[NI_MAXSERV];
    if (getsockname(fd, (struct sockaddr *)&at, &n) ||
        getnameinfo((struct sockaddr *)&at, n, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV))
        return;
    snprintf(s->origin, sizeof s->origin, strchr(host, ':') ? "[%.45s]:%s" : "%.45s:%s", host, port);
}

static int listen_tcp(tl_server *s, int *out, tl_error *err) {
    const tl_serve_options *o = s->options;
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
    struct addrinfo *found = NULL;
    char port[16];
    const int one = 1;
    snprintf(port, sizeof port, "%d", o->port);
    const int failed = getaddrinfo(o->host, port, &hints, &found);
    if (failed)
        return tl__fail(err, TL_EINVALID, "--host '%s' is no address of this machine: %s", o->host,
                        gai_strerror(failed));
    int fd = -1;
    for (const struct addrinfo *a = found; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC | SOCK_NONBLOCK, a->ai_protocol);
        if (fd < 0) continue;
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, a->ai_addr, a->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0) break;
        const int why = errno;
        close(fd);
        errno = why;
        fd = -1;
    }
    if (fd < 0)
        tl__fail_errno(err, "%s:%d cannot be listened on; choose another --port (0: a free one) or --host", o->host,
                       o->port);
    freeaddrinfo(found);
    *out = fd;
    if (fd < 0) return err->status;
    note_origin(s, fd);
    return 0;
}

/* ---- opening ---- */

static void on_changed(void *user) {
    tl_server *s = user;
    eventfd_write(s->event, 1);
}

/* A client has gone: what it waits for is cancelled. */
static void on_left(void *user, uint64_t number) {
    tl_server *s = user;
    pthread_mutex_lock(&s->door);
    for (tl_exchange *x = s->first; x; x = x->next)
        for (int i = 0; x->number == number && x->job && i < x->job->n_parts; i++)
            tl__batcher_cancel(s->runner.batcher, x->job->part[i].request);
    pthread_mutex_unlock(&s->door);
}

static void no_log(void *user, const char *format, va_list args) {
    char line[512];
    (void)user;
    vsnprintf(line, sizeof line, format, args);
    line[strcspn(line, "\n")] = 0;
    tl__log_line(TL_LOG_DEBUG, "http: %s", line);
}

/* MHD_OPTION_LISTEN_SOCKET closes the socket with the daemon. */
static int start_daemon(tl_server *s, int fd, tl_error *err) {
    const tl_serve_options *o = s->options;
    s->daemon = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG, 0, NULL,
                                 NULL, tl__exchange_handle, s, MHD_OPTION_EXTERNAL_LOGGER, no_log, NULL,
                                 MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_NOTIFY_COMPLETED, tl__exchange_done, s,
                                 MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADER_BYTES, MHD_OPTION_CONNECTION_LIMIT,
                                 (unsigned)o->connections, MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)o->idle_seconds,
                                 MHD_OPTION_THREAD_POOL_SIZE, (unsigned)HTTP_THREADS, MHD_OPTION_END);
    if (s->daemon) return 0;
    close(fd);
    return tl__fail(err, TL_ENOMEM, "the system has no room for a server of %d connections; lower --connections",
                    o->connections);
}

static int open_server(tl_server *s, tl_error *err) {
    int fd = -1;
    TRY(tl__keys_open(&s->keys, s->options->keys, err));
    TRY(tl__runner_open(&s->runner, &s->options->runner, err));
    TRY(s->options->unix_path ? listen_unix(s, &fd, err) : listen_tcp(s, &fd, err));
    if (getrandom(&s->boot, sizeof s->boot, 0) != (ssize_t)sizeof s->boot) s->boot = (uint64_t)tl__now_ns();
    if (tl__watch_open(&s->watch, on_left, s, err)) {
        close(fd);
        return err->status;
    }
    s->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    TRY(start_daemon(s, fd, err));
    return tl__runner_start(&s->runner, on_changed, s, err);
}

/* ---- until it is told to end ---- */

/* Whether others than this machine's users can reach it. */
static bool is_open(const tl_server *s) {
    return !s->options->unix_path && strncmp(s->origin, "127.", 4) != 0 && strncmp(s->origin, "[::1]", 5) != 0;
}

static void say_ready(tl_server *s) {
    const tl_runner *r = &s->runner;
    tl_batcher_facts facts;
    tl__batcher_describe(r->batcher, &facts);
    tl__info("ready     %s in %.2f s: %d positions a sequence, %lld pages of %d tokens (%.0f MB)", r->name,
             (double)(r->ready_ns - r->begun_ns) * 1e-9, facts.positions, (long long)facts.pages, TL_KV_BLOCK,
             (double)(facts.pages * facts.page_bytes) * 1e-6);
    if (is_open(s) && s->keys.n == 0) tl__warn("whoever reaches %s may ask; --api-keys FILE asks for a key", s->origin);
}

/* Signals that have come, or 0 after wait_ms without one. */
static int wait_signal(tl_server *s, int signals, int wait_ms) {
    struct pollfd on[] = {{.fd = signals, .events = POLLIN}, {.fd = s->event, .events = POLLIN}};
    struct signalfd_siginfo info;
    eventfd_t ignored;
    if (poll(on, 2, wait_ms) <= 0) return 0;
    if (on[1].revents) eventfd_read(s->event, &ignored);
    return on[0].revents && read(signals, &info, sizeof info) == (ssize_t)sizeof info ? (int)info.ssi_signo : 0;
}

/* Requests that are open now. */
static int count_open(tl_server *s) {
    pthread_mutex_lock(&s->door);
    const int n = s->open;
    pthread_mutex_unlock(&s->door);
    return n;
}

static void cancel_all(tl_server *s) {
    pthread_mutex_lock(&s->door);
    s->closed = true;
    for (tl_exchange *x = s->first; x; x = x->next)
        for (int i = 0; x->job && i < x->job->n_parts; i++)
            tl__batcher_cancel(s->runner.batcher, x->job->part[i].request);
    pthread_mutex_unlock(&s->door);
}

static void drain(tl_server *s, int signals) {
    enum { LOOK_MS = 20, CUT_MS = 2000 };
    const int n = count_open(s);
    int64_t until = tl__now_ns() + s->options->drain_seconds * 1000000000LL;
    atomic_store(&s->draining, true);
    const MHD_socket fd = MHD_quiesce_daemon(s->daemon);
    if (fd != MHD_INVALID_SOCKET) close(fd);
    if (s->options->unix_path) unlink(s->options->unix_path);
    tl__info("draining  %d request%s open; a second signal cuts %s off", n, n == 1 ? "" : "s", n == 1 ? "it" : "them");
    while (count_open(s) > 0 && tl__now_ns() < until)
        if (wait_signal(s, signals, LOOK_MS)) break;
    cancel_all(s);
    /* What was cancelled ends in the next step, and its answer may still be written. */
    until = tl__now_ns() + CUT_MS * 1000000LL;
    while ((count_open(s) > 0 && tl__now_ns() < until) || atomic_load(&s->asleep) > 0) wait_signal(s, signals, LOOK_MS);
}

static int serve(tl_server *s, int signals, tl_error *err) {
    bool said = false;
    tl__info("listening %s%s", s->options->unix_path ? s->options->unix_path : "http://",
             s->options->unix_path ? "" : s->origin);
    for (;;) {
        const int state = atomic_load(&s->runner.state);
        if (state == TL_RUNNER_FAILED) {
            *err = s->runner.err;
            return err->status;
        }
        if (state == TL_RUNNER_READY && !said) {
            say_ready(s);
            said = true;
        }
        if (wait_signal(s, signals, -1)) break;
    }
    drain(s, signals);
    return 0;
}

static void close_server(tl_server *s) {
    if (s->daemon) MHD_stop_daemon(s->daemon);
    tl__runner_end(&s->runner);
    if (s->watch.thread) tl__watch_close(&s->watch);
    tl__job_yard_sweep(&s->yard);
    tl__runner_close(&s->runner);
    tl__keys_close(&s->keys);
    if (s->event >= 0) close(s->event);
    pthread_mutex_destroy(&s->door);
    pthread_mutex_destroy(&s->yard.lock);
}

int tl__serve(const tl_serve_options *options, tl_error *err) {
    tl_server s = {.options = options, .event = -1};
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    signal(SIGPIPE, SIG_IGN);
    pthread_sigmask(SIG_BLOCK, &set, &before);
    const int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    pthread_mutex_init(&s.door, NULL);
    pthread_mutex_init(&s.yard.lock, NULL);
    int status = signals < 0 ? tl__fail_errno(err, "signals cannot be waited for") : open_server(&s, err);
    if (!status) status = serve(&s, signals, err);
    close_server(&s);
    if (signals >= 0) close(signals);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return status;
}
