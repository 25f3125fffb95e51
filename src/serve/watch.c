/* watch.c — one epoll set beside libmicrohttpd's own. */
#include "serve/watch.h"

#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void *run(void *user) {
    tl_watch *w = user;
    struct epoll_event event[64];
    for (;;) {
        const int n = epoll_wait(w->epoll, event, 64, -1);
        if (n < 0 && errno != EINTR) return NULL;
        for (int i = 0; i < n; i++) {
            if (event[i].data.u64 == 0) return NULL;
            w->left(w->user, event[i].data.u64);
        }
    }
}

int tl__watch_open(tl_watch *w, void (*left)(void *user, uint64_t number), void *user, tl_error *err) {
    struct epoll_event stop = {.events = EPOLLIN};
    *w = (tl_watch){.left = left, .user = user, .epoll = epoll_create1(EPOLL_CLOEXEC)};
    w->stop = eventfd(0, EFD_CLOEXEC);
    int failed = w->epoll < 0 || w->stop < 0 || epoll_ctl(w->epoll, EPOLL_CTL_ADD, w->stop, &stop);
    if (failed) tl__fail_errno(err, "clients cannot be watched");
    else if (pthread_create(&w->thread, NULL, run, w) != 0)
        failed = tl__fail(err, TL_ENOMEM, "the system has no room for a thread");
    if (!failed) return 0;
    if (w->epoll >= 0) close(w->epoll);
    if (w->stop >= 0) close(w->stop);
    return err->status;
}

void tl__watch_close(tl_watch *w) {
    eventfd_write(w->stop, 1);
    pthread_join(w->thread, NULL);
    close(w->epoll);
    close(w->stop);
}

/* Edge-triggered and once: a client leaves no more than once, and its bytes are none of ours. */
void tl__watch_add(tl_watch *w, int socket, uint64_t number) {
    struct epoll_event e = {.events = EPOLLRDHUP | EPOLLET | EPOLLONESHOT, .data.u64 = number};
    if (socket >= 0) epoll_ctl(w->epoll, EPOLL_CTL_ADD, socket, &e);
}

void tl__watch_remove(tl_watch *w, int socket) {
    if (socket >= 0) epoll_ctl(w->epoll, EPOLL_CTL_DEL, socket, NULL);
}
