/* type.c — the table of types. */
#include "base/type.h"

#include <string.h>

static const struct {
    const char *name;
    uint16_t block, bytes;
} types[TL_TYPES] = {
    [TL_F32] = {"F32", 1, 4},       [TL_F16] = {"F16", 1, 2},         [TL_BF16] = {"BF16", 1, 2},
    [TL_F64] = {"F64", 1, 8},       [TL_I64] = {"I64", 1, 8},         [TL_I32] = {"I32", 1, 4},
    [TL_I16] = {"I16", 1, 2},       [TL_I8] = {"I8", 1, 1},           [TL_U8] = {"U8", 1, 1},
    [TL_BOOL] = {"BOOL", 1, 1},     [TL_F8_E4M3] = {"F8_E4M3", 1, 1}, [TL_F8_E5M2] = {"F8_E5M2", 1, 1},
    [TL_Q4_0] = {"Q4_0", 32, 18},   [TL_Q4_1] = {"Q4_1", 32, 20},     [TL_Q5_0] = {"Q5_0", 32, 22},
    [TL_Q5_1] = {"Q5_1", 32, 24},   [TL_Q8_0] = {"Q8_0", 32, 34},     [TL_Q2_K] = {"Q2_K", 256, 84},
    [TL_Q3_K] = {"Q3_K", 256, 110}, [TL_Q4_K] = {"Q4_K", 256, 144},   [TL_Q5_K] = {"Q5_K", 256, 176},
    [TL_Q6_K] = {"Q6_K", 256, 210}, [TL_IQ4_NL] = {"IQ4_NL", 32, 18}, [TL_IQ4_XS] = {"IQ4_XS", 256, 136},
};

const char *tl__type_name(tl_type type) {
    return types[type].name;
}

tl_type tl__type_named(const char *name) {
    int type = 0;
    while (type < TL_TYPES && strcmp(types[type].name, name) != 0) type++;
    return (tl_type)type;
}

int tl__type_block(tl_type type) {
    return types[type].block;
}

size_t tl__type_bytes(tl_type type) {
    return types[type].bytes;
}

bool tl__type_quantised(tl_type type) {
    return types[type].block > 1;
}

int64_t tl__type_size(tl_type type, int64_t n) {
    const int64_t block = types[type].block, bytes = types[type].bytes;
    if (n < 0 || n % block != 0 || n / block > INT64_MAX / bytes) return -1;
    return n / block * bytes;
}
