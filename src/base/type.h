/* type.h — the types of stored numbers: names, and how many bytes so many elements take.
 *
 * A quantised type keeps blocks of elements together, with the scales that they share; a row of a tensor holds whole
 * blocks. Names and layouts are those of ggml (https://github.com/ggml-org/ggml, docs/gguf.md); of the rest, those of
 * safetensors. */
#ifndef TL_BASE_TYPE_H
#define TL_BASE_TYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum tl_type {
    TL_F32,
    TL_F16,
    TL_BF16,
    TL_F64,
    TL_I64,
    TL_I32,
    TL_I16,
    TL_I8,
    TL_U8,
    TL_BOOL,
    TL_F8_E4M3, /* finite, as torch.float8_e4m3fn */
    TL_F8_E5M2,
    TL_Q4_0,
    TL_Q4_1,
    TL_Q5_0,
    TL_Q5_1,
    TL_Q8_0,
    TL_Q2_K,
    TL_Q3_K,
    TL_Q4_K,
    TL_Q5_K,
    TL_Q6_K,
    TL_IQ4_NL,
    TL_IQ4_XS,
    TL_TYPES
} tl_type;

const char *tl__type_name(tl_type type); /* "F32", "F8_E4M3", "Q4_K", … */
/* TL_TYPES: no type is called so. */
tl_type tl__type_named(const char *name);
int tl__type_block(tl_type type);    /* elements of a block: 1, 32 or 256 */
size_t tl__type_bytes(tl_type type); /* bytes of a block */
bool tl__type_quantised(tl_type type);
/* Bytes of n elements; −1 where they are not whole blocks or the bytes would overflow. */
int64_t tl__type_size(tl_type type, int64_t n);

#endif
