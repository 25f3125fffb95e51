/* version.c — which Trilith this is; the number comes from CMakeLists.txt alone. */
#include "trilith.h"

const char *tl_version(void) {
    return TL_VERSION_STRING;
}
