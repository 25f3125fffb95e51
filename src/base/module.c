/* module.c — finds modules by where the program itself lies. */
#include "base/module.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

bool tl__module_path(char *out, size_t size, const char *name) {
    static const char *const folders[] = {"", "../lib/trilith/"};
    char program[4096];
    const ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    program[n > 0 ? n : 0] = 0;
    char *slash = strrchr(program, '/');
    if (slash) slash[1] = 0;
    for (int i = 0; i < 2; i++) {
        const int length = snprintf(out, size, "%s%s%s", program, folders[i], name);
        if (length > 0 && (size_t)length < size && !access(out, R_OK)) return true;
    }
    snprintf(out, size, "%s%s", program, name);
    return false;
}
