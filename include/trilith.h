/* trilith.h — the public C API of Trilith: open a model, score and generate with it.
 *
 * Every call returns 0 or a negative tl_status and fills a tl_error (which may be NULL) with one sentence that names
 * the remedy. A failed call leaves its handle usable. Handles are not shared between threads without a lock. */
#ifndef TRILITH_H
#define TRILITH_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef enum tl_status {
    TL_OK = 0,
    TL_EINVALID = -1,     /* an argument or setting is wrong */
    TL_EIO = -2,          /* the operating system refused a read or write */
    TL_ENOSPACE = -3,     /* the disk is full */
    TL_ENOMEM = -4,       /* not enough memory */
    TL_EFORMAT = -5,      /* bytes from outside are not what they claim to be */
    TL_EUNSUPPORTED = -6, /* well formed, but this build or version cannot do it */
    TL_ENOTFOUND = -7,    /* no such file, tensor, key … */
    TL_EEXISTS = -8,      /* would write over something */
    TL_EDAMAGED = -9,     /* a hash or size does not match its record */
    TL_ENONFINITE = -10,  /* too many losses or gradients that are not finite */
    TL_ESTOPPED = -11,    /* asked to stop by a signal */
} tl_status;

typedef struct tl_error {
    int status;
    char text[1024];
} tl_error;

/* "0.1.0" */
const char *tl_version(void);

#ifdef __cplusplus
}
#endif
#endif
