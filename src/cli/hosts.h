/* hosts.h — the hosts that a launcher's words name (mpirun's --hostfile FILE and --host LIST), less those that are gone. */
#ifndef TL_CLI_HOSTS_H
#define TL_CLI_HOSTS_H

#include "cli/child.h"

enum { TL_HOST_FILES = 4 };

typedef struct tl_hosts { /* {0}: all are there */
    tl_arguments gone;    /* their names */
    int64_t slots, left;  /* for ranks: on all hosts that the words name, and on those that are left; both 0: they name none */
    bool none;            /* a list has no host any more */
    int file[TL_HOST_FILES], files; /* what is left of each hostfile, open for the launcher to read */
} tl_hosts;

/* The launcher's words, apart by blanks, onto the end of `a`: lists of hosts without those that are gone. A hostfile is read anew each
 * time; one that cannot be read is the launcher's to complain of. Files stay open until the next call. */
int tl__hosts_launcher(tl_arguments *a, tl_hosts *hosts, const char *launcher, tl_error *err);
/* From here on without this host. Whether the words name it, and it was not gone before. */
bool tl__hosts_drop(tl_hosts *hosts, const char *launcher, const char *name);
void tl__hosts_close(tl_hosts *hosts);

/* ---- for tests ---- */

/* The same name, or one of them the other's without a domain: "node7" and "node7.cluster". */
bool tl__host_is(const char *a, const char *b);
/* A hostfile's text, or a list apart by commas, in place without the hosts that are gone; what is there is counted in slots and left. */
void tl__hosts_keep_lines(tl_hosts *hosts, char *text);
void tl__hosts_keep_names(tl_hosts *hosts, char *list);

#endif
