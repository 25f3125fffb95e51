/* stored.c — packing: from the blocks of a quantised type to panels of sixteen outputs, and one group back out.
 *
 * Block layouts and what their numbers mean are ggml's (https://github.com/ggml-org/ggml, ggml-common.h and
 * ggml-quants.c). Packing moves bits and rounds nothing; a panel takes the bytes of the stored type, or up to 4 % more
 * where six-bit scales become bytes. */
#include "kernels/stored.h"

#include <assert.h>
#include <math.h>
#include <string.h>
#include "base/blocks.h"

const tl_form tl__forms[TL_TYPES] = {
#define FORM(type, low, high, zero, sub, d, o, looked_up) [TL_##type] = {low, high, zero, sub, d, o, looked_up},
    TL_FORMS(FORM)
#undef FORM
};

const int8_t tl__iq4_values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

enum { LANES = 4 }; /* outputs that are packed side by side: four words of four rows are turned in registers */
typedef uint32_t lanes __attribute__((vector_size(4 * LANES)));

/* A group of four outputs, taken out of their blocks: q of 32 elements as eight words of four bytes, and what is kept of
 * it in lines of its own. */
typedef struct quants {
    lanes word[8]; /* low bits */
    lanes high[2]; /* lines */
} quants;

/* A group's scales, of one output. */
typedef struct group_scale {
    uint16_t half_d, half_o;
    uint8_t d[2], o; /* bytes, or both nibbles in d */
} group_scale;

static uint32_t read32(const uint8_t *p) {
    uint32_t x;
    memcpy(&x, p, 4);
    return x;
}
static uint16_t read16(const uint8_t *p) {
    uint16_t x;
    memcpy(&x, p, 2);
    return x;
}

enum { NIBBLES = 0x0f0f0f0f, PAIRS = 0x03030303, ONES = 0x01010101 };

/* What packs is made anew for each type, in which all that depends on it is constant: a model's opening waits for it. */
#define FOR_A_TYPE static inline __attribute__((always_inline))

#if defined(__clang__)
#define PICK(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define PICK(x, y, ...) __builtin_shuffle(x, y, (lanes){__VA_ARGS__})
#endif

/* Word w of each output, from the sixteen bytes at `at` of each block. */
FOR_A_TYPE void read_words(lanes w[4], const uint8_t *const b[LANES], int at) {
    lanes x[LANES];
    for (int l = 0; l < LANES; l++) memcpy(&x[l], b[l] + at, sizeof x[l]);
    const lanes low01 = PICK(x[0], x[1], 0, 4, 1, 5), low23 = PICK(x[2], x[3], 0, 4, 1, 5);
    const lanes high01 = PICK(x[0], x[1], 2, 6, 3, 7), high23 = PICK(x[2], x[3], 2, 6, 3, 7);
    w[0] = PICK(low01, low23, 0, 1, 4, 5), w[1] = PICK(low01, low23, 2, 3, 6, 7);
    w[2] = PICK(high01, high23, 0, 1, 4, 5), w[3] = PICK(high01, high23, 2, 3, 6, 7);
}
/* Sixteen bytes: the low nibbles are elements 0 … 15, the high ones 16 … 31. */
FOR_A_TYPE void take_halves(quants *q, const uint8_t *const b[LANES], int at) {
    lanes w[4];
    read_words(w, b, at);
    for (int i = 0; i < 4; i++) q->word[i] = w[i] & NIBBLES, q->word[i + 4] = w[i] >> 4 & NIBBLES;
}
/* Thirty-two bytes: bits `shift` and up of each, under the mask, are its element's low ones. */
FOR_A_TYPE void take_low(quants *q, const uint8_t *const b[LANES], int at, int shift, uint32_t mask) {
    read_words(q->word, b, at), read_words(q->word + 4, b, at + 16);
    for (int i = 0; i < 8; i++) q->word[i] = q->word[i] >> shift & mask;
}
/* Thirty-two bytes: bit `shift` of each, or two bits, are its element's high ones. */
FOR_A_TYPE void take_high(quants *q, const uint8_t *const b[LANES], int at, int shift, int bits) {
    lanes w[8];
    read_words(w, b, at), read_words(w + 4, b, at + 16);
    for (int i = 0; i < 8; i++)
        if (bits == 1) q->high[0] |= (w[i] >> shift & ONES) << i;
        else q->high[i % 2] |= (w[i] >> shift & PAIRS) << (i / 2 * 2);
}
/* Bits whose place has bit a set and bit b not, against those with b and not a: the mask is the latter's. */
FOR_A_TYPE lanes exchange(lanes x, int a, int b, uint32_t mask) {
    const lanes t = (x ^ x >> ((1 << a) - (1 << b))) & mask;
    return x ^ t ^ t << ((1 << a) - (1 << b));
}
/* Bit 4·word + byte of 32 is an element's fifth, which the line has at 8·byte + word: of a place's five bits, the lower
 * two become the upper ones. */
FOR_A_TYPE void take_fifth(quants *q, const uint8_t *const b[LANES], int at) {
    lanes x;
    for (int l = 0; l < LANES; l++) x[l] = read32(b[l] + at);
    x = exchange(x, 4, 1, 0x0000cccc), x = exchange(x, 3, 0, 0x00aa00aa);
    q->high[0] = exchange(exchange(x, 2, 1, 0x0c0c0c0c), 1, 0, 0x22222222);
}

/* Group i of the blocks at b. */
FOR_A_TYPE void take_quants(quants *q, tl_type type, const uint8_t *const b[LANES], int i) {
    memset(q, 0, sizeof *q);
    switch (type) {
    case TL_Q8_0: /* d, 32 int8 */
        take_low(q, b, 2, 0, UINT32_MAX);
        for (int w = 0; w < 8; w++) q->word[w] ^= 0x80808080u;
        return;
    case TL_Q4_0: /* d, 16 bytes */
    case TL_IQ4_NL:
        take_halves(q, b, 2);
        return;
    case TL_Q4_1: /* d, m, 16 bytes */
        take_halves(q, b, 4);
        return;
    case TL_Q5_0: /* d, 32 bits, 16 bytes */
        take_halves(q, b, 6);
        take_fifth(q, b, 2);
        return;
    case TL_Q5_1: /* d, m, 32 bits, 16 bytes */
        take_halves(q, b, 8);
        take_fifth(q, b, 4);
        return;
    case TL_Q2_K: /* 16 bytes of scales, 64 of quants, d, dmin */
        take_low(q, b, 16 + i / 4 * 32, i % 4 * 2, PAIRS);
        return;
    case TL_Q3_K: /* 32 bytes of high bits, 64 of quants, 12 of scales, d */
        take_low(q, b, 32 + i / 4 * 32, i % 4 * 2, PAIRS);
        take_high(q, b, 0, i, 1);
        return;
    case TL_Q4_K: /* d, dmin, 12 bytes of scales, 128 of quants */
        take_low(q, b, 16 + i / 2 * 32, i % 2 * 4, NIBBLES);
        return;
    case TL_Q5_K: /* d, dmin, 12 bytes of scales, 32 of high bits, 128 of quants */
        take_low(q, b, 48 + i / 2 * 32, i % 2 * 4, NIBBLES);
        take_high(q, b, 16, i, 1);
        return;
    case TL_Q6_K: /* 128 bytes of low bits, 64 of high, 16 scales, d */
        take_low(q, b, i / 4 * 64 + i % 2 * 32, i % 4 / 2 * 4, NIBBLES);
        take_high(q, b, 128 + i / 4 * 32, i % 4 * 2, 2);
        return;
    case TL_IQ4_XS: /* d, two high bits of eight scales, their low nibbles, 128 bytes */
        take_halves(q, b, 8 + 16 * i);
        return;
    default:
        assert(!"a quantised type");
    }
}

/* Scale i of eight six-bit ones and as many minima, in twelve bytes. */
FOR_A_TYPE void take_six_bits(group_scale *s, const uint8_t *at, int i) {
    if (i < 4) s->d[0] = at[i] & 63, s->o = at[i + 4] & 63;
    else {
        s->d[0] = (uint8_t)((at[i + 4] & 15) | (at[i - 4] >> 6 << 4));
        s->o = (uint8_t)((at[i + 4] >> 4) | (at[i] >> 6 << 4));
    }
}

FOR_A_TYPE void take_scales(group_scale *s, tl_type type, const uint8_t *b, int i) {
    memset(s, 0, sizeof *s);
    switch (type) {
    case TL_Q8_0:
    case TL_Q4_0:
    case TL_Q5_0:
    case TL_IQ4_NL:
        s->half_d = read16(b);
        return;
    case TL_Q4_1:
    case TL_Q5_1:
        s->half_d = read16(b), s->half_o = read16(b + 2);
        return;
    case TL_Q2_K:
        s->d[0] = b[2 * i], s->d[1] = b[2 * i + 1];
        return;
    case TL_Q3_K:
        for (int h = 0; h < 2; h++) {
            const uint8_t *six = b + 96;
            const int at = 2 * i + h, low = six[at % 8] >> (at / 8 * 4) & 15,
                      high = six[8 + at % 4] >> (at / 4 * 2) & 3;
            s->d[h] = (uint8_t)((low | high << 4) - 32);
        }
        return;
    case TL_Q4_K:
    case TL_Q5_K:
        take_six_bits(s, b + 4, i);
        return;
    case TL_Q6_K:
        s->d[0] = b[192 + 2 * i], s->d[1] = b[192 + 2 * i + 1];
        return;
    case TL_IQ4_XS: {
        const int low = b[4 + i / 2] >> (i % 2 * 4) & 15, high = read16(b + 2) >> (2 * i) & 3;
        s->d[0] = (uint8_t)((low | high << 4) - 32);
        return;
    }
    default:
        assert(!"a quantised type");
    }
}

/* A super-block's d, and dmin where there is one. */
FOR_A_TYPE void take_super(uint16_t out[2], tl_type type, const uint8_t *b) {
    const uint8_t *at = b + (type == TL_Q2_K ? 80 : type == TL_Q3_K ? 108 : type == TL_Q6_K ? 208 : 0);
    out[0] = read16(at);
    out[1] = type == TL_Q2_K || type == TL_Q4_K || type == TL_Q5_K ? read16(at + 2) : 0;
}

size_t tl__packed_bytes(tl_type type, int N, int K) {
    if (!tl__type_quantised(type)) return 0;
    assert(N >= 0 && K >= 0 && K % tl__type_block(type) == 0);
    return (size_t)(((int64_t)N + 15) / 16 * tl_panel_bytes(&tl__forms[type], K));
}

/* q's words to outputs n … n + 3's places in the group's lines. */
FOR_A_TYPE void put_words(uint8_t *lines, const tl_form *f, int n, const quants *q) {
    lanes line[10] = {0};
    if (f->low == 8)
        for (int w = 0; w < 8; w++) line[w] = q->word[w];
    else if (f->low == 4)
        for (int w = 0; w < 8; w++) line[w % 4] |= q->word[w] << (w / 4 * 4);
    else
        for (int w = 0; w < 8; w++) line[w % 2] |= q->word[w] << (w / 2 * 2);
    for (int i = 0; i < f->high; i++) line[f->low + i] = q->high[i];
    for (int i = 0; i < f->low + f->high; i++) memcpy(lines + 64 * i + 4 * n, &line[i], sizeof line[i]);
}

FOR_A_TYPE void put_scales(uint8_t *at, const tl_form *f, int n, const group_scale *s) {
    if (f->d == TL_D_HALF) {
        memcpy(at + 2 * n, &s->half_d, 2);
        if (f->o == TL_O_HALF) memcpy(at + 32 + 2 * n, &s->half_o, 2);
        return;
    }
    const int halves = TL_GROUP / f->sub;
    for (int h = 0; h < halves; h++) at[16 * h + n] = s->d[h];
    if (f->o == TL_O_BYTE) at[16 * halves + n] = s->o;
}

/* Rows of K elements as outputs n … n + 3 of a panel, of which there are `have`; the others' are those of zeros. */
FOR_A_TYPE void pack_four(uint8_t *panel, tl_type type, const tl_form *f, int K, int n, const uint8_t *rows, int have) {
    static const uint8_t zeros[TL_SUPER] = {0}; /* a block of any type is smaller */
    const int groups = K / TL_GROUP, per_block = f->d == TL_D_HALF ? 1 : TL_SUPER / TL_GROUP;
    const int64_t block_bytes = (int64_t)tl__type_bytes(type), row_bytes = groups / per_block * block_bytes;
    uint8_t *at = panel + groups * tl_quants_bytes(f), *supers = at + groups * tl_scales_bytes(f);
    const uint8_t *b[LANES];
    for (int l = 0; l < LANES; l++) b[l] = l < have ? rows + l * row_bytes : zeros;
    for (int block = 0; block < groups / per_block; block++) {
        _Pragma("GCC unroll 8") for (int i = 0; i < per_block; i++) {
            quants q;
            take_quants(&q, type, b, i);
            put_words(panel, f, n, &q);
            for (int l = 0; l < LANES; l++) {
                group_scale s;
                take_scales(&s, type, b[l], i);
                put_scales(at, f, n + l, &s);
            }
            panel += tl_quants_bytes(f), at += tl_scales_bytes(f);
        }
        for (int l = 0; l < LANES && tl_supers_bytes(f); l++) {
            uint16_t super[2];
            take_super(super, type, b[l]);
            memcpy(supers + 2 * (n + l), &super[0], 2);
            if (f->o != TL_O_NONE) memcpy(supers + 32 + 2 * (n + l), &super[1], 2);
        }
        supers += tl_supers_bytes(f);
        for (int l = 0; l < LANES; l++) b[l] += l < have ? block_bytes : 0;
    }
}

typedef void pack_fn(uint8_t *panel, int K, int n, const uint8_t *rows, int have);
#define PACK_FOUR(type, low, high, zero, sub, d, o, looked_up)                                                         \
    static void pack_four_##type(uint8_t *panel, int K, int n, const uint8_t *rows, int have) {                        \
        static const tl_form form = {low, high, zero, sub, d, o, looked_up};                                           \
        pack_four(panel, TL_##type, &form, K, n, rows, have);                                                          \
    }
TL_FORMS(PACK_FOUR)
#undef PACK_FOUR

static pack_fn *const pack_four_of[TL_TYPES] = {
#define FOUR_OF(type, low, high, zero, sub, d, o, looked_up) [TL_##type] = pack_four_##type,
    TL_FORMS(FOUR_OF)
#undef FOUR_OF
};

void tl__pack_rows(void *packed, tl_type type, int N, int K, int first, int n, const void *rows) {
    const tl_form *f = &tl__forms[type];
    assert(f->low && first % 16 == 0 && n >= 0 && first + n <= N && (n % 16 == 0 || first + n == N));
    const int64_t row_bytes = tl__type_size(type, K), panel_bytes = tl_panel_bytes(f, K);
    for (int row = 0; row < n; row += 16) {
        uint8_t *panel = (uint8_t *)packed + (first + row) / 16 * panel_bytes;
        for (int j = 0; j < 16; j += LANES)
            pack_four_of[type](panel, K, j, (const uint8_t *)rows + (row + j) * row_bytes, n - row - j);
    }
}

void tl__unpack_group(int16_t q[TL_GROUP], float d[2], float o[2], const tl_stored *w, int n, int i) {
    const tl_form *f = &tl__forms[w->type];
    const int groups = w->K / TL_GROUP, j = n % 16;
    const uint8_t *panel = (const uint8_t *)w->data + n / 16 * tl_panel_bytes(f, w->K);
    const uint8_t *lines = panel + i * tl_quants_bytes(f) + 4 * j;
    const uint8_t *scales = panel + groups * tl_quants_bytes(f) + i * tl_scales_bytes(f);
    const uint8_t *super = panel + groups * (tl_quants_bytes(f) + tl_scales_bytes(f)) +
                           i * TL_GROUP / TL_SUPER * tl_supers_bytes(f) + 2 * j;
    for (int k = 0; k < TL_GROUP; k++) {
        const int word = k / 4, b = k % 4;
        int x = f->low == 8   ? lines[64 * word + b]
                : f->low == 4 ? lines[64 * (word % 4) + b] >> (word / 4 * 4) & 15
                              : lines[64 * (word % 2) + b] >> (word / 2 * 2) & 3;
        if (f->high == 1) x |= (lines[64 * f->low + b] >> word & 1) << f->low;
        if (f->high == 2) x |= (lines[64 * (f->low + word % 2) + b] >> (word / 2 * 2) & 3) << f->low;
        q[k] = (int16_t)(f->looked_up ? tl__iq4_values[x] : x - f->zero);
    }
    const int halves = TL_GROUP / f->sub;
    for (int h = 0; h < 2; h++) {
        const uint8_t byte = scales[16 * (h % halves) + j];
        switch (f->d) {
        case TL_D_HALF:
            d[h] = tl__f16_to_f32(read16(scales + 2 * j));
            break;
        case TL_D_INT8:
            d[h] = tl__f16_to_f32(read16(super)) * (float)(int8_t)byte;
            break;
        default:
            d[h] = tl__f16_to_f32(read16(super)) * (float)(byte & 15);
        }
        switch (f->o) {
        case TL_O_NONE:
            o[h] = 0;
            break;
        case TL_O_HALF:
            o[h] = tl__f16_to_f32(read16(scales + 32 + 2 * j));
            break;
        case TL_O_BYTE:
            o[h] = -(tl__f16_to_f32(read16(super + 32)) * (float)scales[16 * halves + j]);
            break;
        default:
            o[h] = -(tl__f16_to_f32(read16(super + 32)) * (float)(byte >> 4));
        }
    }
}

void tl__embed_row(float *x, const tl_stored *E, int n, const float *p, float scale) {
    const int C = E->K;
    const tl_form *f = &tl__forms[E->type];
    if (!f->low) tl__widen(x, E->type, (const uint8_t *)E->data + n * tl__type_size(E->type, C), C);
    for (int i = 0; f->low && i < C / TL_GROUP; i++) {
        int16_t q[TL_GROUP];
        float d[2], o[2];
        tl__unpack_group(q, d, o, E, n, i);
        for (int k = 0; k < TL_GROUP; k++) {
            const float product = (float)q[k] * d[k / 16];
            x[i * TL_GROUP + k] = f->o == TL_O_NONE ? product : product + o[k / 16];
        }
    }
    for (int c = 0; c < C; c++) x[c] = p ? fmaf(x[c], scale, p[c]) : x[c] * scale;
}
