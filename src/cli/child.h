/* child.h — this very program started again as a child process: its command line, made of settings, and what it says. */
#ifndef TL_CLI_CHILD_H
#define TL_CLI_CHILD_H

#include "cli/cli.h"

typedef struct tl_arguments { /* {0}: none. list[n] is NULL; `failed`: there was no memory for one of them */
    char **list;
    int n, room;
    bool failed;
} tl_arguments;

/* "--name=value", or name as it is where value is NULL. */
void tl__arguments_add(tl_arguments *a, const char *name, const char *value);
/* Option i of the command as it stands now; a list once for each of its values. */
void tl__arguments_add_option(tl_arguments *a, const tl_cli *cli, int i);
void tl__arguments_free(tl_arguments *a);

/* Call line(user, text) for each line that comes from fd until its end, cut at 4 kB; the last one needs no newline. */
void tl__child_lines(int fd, void (*line)(void *user, const char *text), void *user);

#endif
