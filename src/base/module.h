/* module.h — where the program's modules are: what is loaded only where it is wanted, so that the program is not linked with it. */
#ifndef TL_BASE_MODULE_H
#define TL_BASE_MODULE_H

#include <stdbool.h>
#include <stddef.h>

/* Beside the program (a build folder) or in ../lib/trilith (installed). False: in neither, and out is the former place. */
bool tl__module_path(char *out, size_t size, const char *name);

#endif
