/* watch.h — clients that leave while they wait: libmicrohttpd does not look at a suspended connection. A thread waits
 * for the sockets of all that are being answered to be closed from the other end. */
#ifndef TL_SERVE_WATCH_H
#define TL_SERVE_WATCH_H

#include <pthread.h>
#include <stdint.h>
#include "base/error.h"

typedef struct tl_watch {
    int epoll, stop; /* stop: eventfd */
    pthread_t thread;
    void (*left)(void *user, uint64_t number);
    void *user;
} tl_watch;

/* left: on the watch's thread, once for each client that has left. */
int tl__watch_open(tl_watch *watch, void (*left)(void *user, uint64_t number), void *user, tl_error *err);
void tl__watch_close(tl_watch *watch);
/* number: not 0. A socket that cannot be watched is not: its client is missed when a write fails. */
void tl__watch_add(tl_watch *watch, int socket, uint64_t number);
/* Before the socket is closed. */
void tl__watch_remove(tl_watch *watch, int socket);

#endif
