/* child.c — the command line of a child that is this program again, and the lines it says. */
#include "cli/child.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void tl__arguments_add(tl_arguments *a, const char *name, const char *value) {
    if (a->n + 2 > a->room) {
        int room = a->room ? 2 * a->room : 64;
        char **grown = realloc(a->list, (size_t)room * sizeof *grown);
        if (!grown) {
            a->failed = true;
            return;
        }
        a->list = grown, a->room = room;
    }
    size_t size = strlen(name) + (value ? strlen(value) : 0) + 4;
    char *text = malloc(size);
    if (!text) a->failed = true;
    else if (value) snprintf(text, size, "--%s=%s", name, value);
    else snprintf(text, size, "%s", name);
    a->list[a->n++] = text;
    a->list[a->n] = NULL;
}

void tl__arguments_add_option(tl_arguments *a, const tl_cli *cli, int i) {
    const tl_option *o = &cli->command->options[i];
    if (o->kind == TL_OPTION_LIST) {
        const tl_list *list = (const void *)((const char *)cli->values + o->offset);
        for (int k = 0; k < list->n; k++) tl__arguments_add(a, o->name, list->values[k]);
        return;
    }
    char *text = tl__cli_value_text(cli, i);
    if (!text) a->failed = true;
    tl__arguments_add(a, o->name, text ? text : "");
    free(text);
}

void tl__arguments_free(tl_arguments *a) {
    for (int i = 0; i < a->n; i++) free(a->list[i]);
    free(a->list);
    *a = (tl_arguments){0};
}

void tl__child_lines(int fd, void (*line)(void *user, const char *text), void *user) {
    char text[4096], chunk[4096];
    size_t used = 0;
    ssize_t n;
    while ((n = read(fd, chunk, sizeof chunk)) > 0 || (n < 0 && errno == EINTR))
        for (ssize_t i = 0; i < n; i++) {
            if (chunk[i] != '\n') {
                if (used + 1 < sizeof text) text[used++] = chunk[i];
                continue;
            }
            text[used] = 0, used = 0;
            line(user, text);
        }
    text[used] = 0;
    if (used) line(user, text);
}
