/* hosts.c — owns which hosts a launcher may still use.
 *
 * Promises: a user's hostfile is read and never written; what is left of one lies in a file without a name, which the
 * launcher finds under /proc/self/fd and which is gone with the last process that has it open. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* memfd_create */
#endif
#include "cli/hosts.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "io/file.h"

enum { MOST_HOSTFILE_BYTES = 16 << 20 };

/* ---- names ---- */

static bool is_address(const char *name) {
    return strchr(name, ':') || name[strspn(name, "0123456789.")] == 0;
}

bool tl__host_is(const char *a, const char *b) {
    size_t n = 0;
    while (a[n] && tolower((unsigned char)a[n]) == tolower((unsigned char)b[n])) n++;
    if (a[n] == b[n]) return true;
    bool within = n > 0 && ((!a[n] && b[n] == '.') || (!b[n] && a[n] == '.'));
    return within && !is_address(a) && !is_address(b);
}

static bool is_gone(const tl_hosts *h, const char *name) {
    for (int i = 0; i < h->gone.n; i++)
        if (h->gone.list[i] && tl__host_is(h->gone.list[i], name)) return true;
    return false;
}

/* A host of so many slots was named; whether it stays. */
static bool keep(tl_hosts *h, const char *name, int64_t slots) {
    bool stays = !is_gone(h, name);
    h->slots += slots;
    if (stays) h->left += slots;
    return stays;
}

/* ---- lists ---- */

static int64_t number_from(const char *text) {
    long n = strtol(text, NULL, 10);
    return n >= 1 && n <= 1 << 20 ? n : 1;
}

/* "user@node7 slots = 8 # comment": its name, "" where the line names none, and its slots (1). */
static int64_t read_line(char *name, size_t size, const char *line, size_t length) {
    char text[1024];
    snprintf(text, sizeof text, "%.*s", (int)(length < sizeof text ? length : sizeof text - 1), line);
    text[strcspn(text, "#")] = 0;
    const char *from = text + strspn(text, " \t\r"), *slots = strstr(from, " slots");
    size_t n = strcspn(from, " \t\r");
    const char *at = memchr(from, '@', n);
    if (at) n -= (size_t)(at + 1 - from), from = at + 1;
    snprintf(name, size, "%.*s", (int)n, from);
    if (!slots) return 1;
    slots += strspn(slots + 6, " \t=") + 6;
    return number_from(slots);
}

void tl__hosts_keep_lines(tl_hosts *h, char *text) {
    char name[256], *out = text;
    int64_t named = 0, kept = 0;
    for (char *line = text; *line;) {
        size_t n = strcspn(line, "\n");
        size_t whole = n + (line[n] == '\n');
        int64_t slots = read_line(name, sizeof name, line, n);
        bool stays = !*name || keep(h, name, slots);
        named += *name != 0, kept += *name && stays;
        if (stays) memmove(out, line, whole), out += whole;
        line += whole;
    }
    *out = 0;
    h->none |= named > 0 && kept == 0;
}

/* "node7:8,node9", each as often as it has slots where it says no number. */
void tl__hosts_keep_names(tl_hosts *h, char *list) {
    char name[256], *out = list;
    int64_t named = 0, kept = 0;
    for (char *item = list; *item;) {
        size_t n = strcspn(item, ","), whole = n + (item[n] == ',');
        size_t length = n;
        while (length > 0 && isdigit((unsigned char)item[length - 1])) length--;
        bool counted = length > 1 && length < n && strcspn(item, ":") == length - 1; /* and no IPv6 address */
        snprintf(name, sizeof name, "%.*s", (int)(counted ? length - 1 : n), item);
        if (++named && keep(h, name, counted ? number_from(item + length) : 1)) {
            if (kept++) *out++ = ',';
            memmove(out, item, n), out += n;
        }
        item += whole;
    }
    *out = 0;
    h->none |= named > 0 && kept == 0;
}

/* ---- words ---- */

static bool is_option(const char *word, const char *const *names) {
    for (; *names; names++)
        if (strcmp(word, *names) == 0) return true;
    return false;
}

static bool names_file(const char *word) {
    static const char *const names[] = {
        "--hostfile", "-hostfile", "--machinefile", "-machinefile", "--default-hostfile", "-default-hostfile", NULL};
    return is_option(word, names);
}

static bool names_list(const char *word) {
    static const char *const names[] = {"--host", "-host", "-H", NULL};
    return is_option(word, names);
}

/* What is left of a hostfile, as a path for the launcher; the user's own where all are left. */
static void add_file(tl_arguments *a, tl_hosts *h, const char *path) {
    char *text, left[64];
    size_t size;
    if (tl__file_slurp(&text, &size, path, MOST_HOSTFILE_BYTES, NULL)) {
        tl__arguments_add(a, path, NULL);
        return;
    }
    tl__hosts_keep_lines(h, text);
    size_t n = strlen(text);
    int fd = n < size && h->files < TL_HOST_FILES ? memfd_create("hosts", 0) : -1;
    bool written = fd >= 0 && write(fd, text, n) == (ssize_t)n;
    snprintf(left, sizeof left, "/proc/self/fd/%d", fd);
    tl__arguments_add(a, written ? left : path, NULL);
    if (fd >= 0) h->file[h->files++] = fd;
    free(text);
}

static void close_files(tl_hosts *h) {
    while (h->files > 0) close(h->file[--h->files]);
}

int tl__hosts_launcher(tl_arguments *a, tl_hosts *h, const char *launcher, tl_error *err) {
    char *words = strdup(launcher), *rest = NULL;
    const char *before = "";
    int first = a->n;
    close_files(h);
    h->slots = h->left = 0, h->none = false;
    for (char *word = words ? strtok_r(words, " ", &rest) : NULL; word; word = strtok_r(NULL, " ", &rest)) {
        if (names_list(before)) tl__hosts_keep_names(h, word);
        if (names_file(before)) add_file(a, h, word);
        else tl__arguments_add(a, word, NULL);
        before = word;
    }
    free(words);
    if (!words) a->failed = true;
    if (a->n > first || a->failed) return 0;
    return tl__fail(err, TL_EINVALID, "--launcher names no program; leave it out, or give one such as mpirun");
}

bool tl__hosts_drop(tl_hosts *h, const char *launcher, const char *name) {
    tl_arguments unused = {0};
    if (is_gone(h, name)) return false;
    tl__hosts_launcher(&unused, h, launcher, NULL);
    int64_t before = h->left;
    tl__arguments_add(&h->gone, name, NULL);
    tl__hosts_launcher(&unused, h, launcher, NULL);
    tl__arguments_free(&unused);
    return h->left < before;
}

void tl__hosts_close(tl_hosts *h) {
    close_files(h);
    tl__arguments_free(&h->gone);
}
