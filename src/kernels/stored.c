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

/* A group of one output, taken out of its block: q of 32 elements as eight words of four bytes, and its scales. */
typedef struct group {
    uint32_t word[8]; /* q, all bits */
    uint16_t half_d, half_o;
    uint8_t d[2], o; /* bytes, or both nibbles in d */
} group;

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

/* Sixteen bytes: the low nibbles are elements 0 … 15, the high ones 16 … 31. */
static void take_halves(group *g, const uint8_t *qs) {
    for (int i = 0; i < 4; i++) {
        const uint32_t x = read32(qs + 4 * i);
        g->word[i] = x & NIBBLES, g->word[i + 4] = x >> 4 & NIBBLES;
    }
}
/* Thirty-two bytes: bits `shift` and up of each, under the mask, go to bits `to` and up of its element. */
static void take_bits(group *g, const uint8_t *qs, int shift, uint32_t mask, int to) {
    for (int i = 0; i < 8; i++) g->word[i] |= (read32(qs + 4 * i) >> shift & mask) << to;
}
/* Bit i of 32 is element i's fifth. */
static void take_fifth(group *g, const uint8_t *qh) {
    const uint32_t bits = read32(qh);
    for (int i = 0; i < 8; i++) g->word[i] |= ((bits >> 4 * i & 15) * 0x00204081u & ONES) << 4;
}
/* Scale i of eight six-bit ones and as many minima, in twelve bytes. */
static void take_six_bits(group *g, const uint8_t *s, int i) {
    if (i < 4) g->d[0] = s[i] & 63, g->o = s[i + 4] & 63;
    else {
        g->d[0] = (uint8_t)((s[i + 4] & 15) | (s[i - 4] >> 6 << 4));
        g->o = (uint8_t)((s[i + 4] >> 4) | (s[i] >> 6 << 4));
    }
}

/* What packs is made anew for each type, in which all that depends on it is constant: a model's opening waits for it. */
#define FOR_A_TYPE static inline __attribute__((always_inline))

/* Group i of the block at b. */
FOR_A_TYPE void take(group *g, tl_type type, const uint8_t *b, int i) {
    memset(g, 0, sizeof *g);
    switch (type) {
    case TL_Q8_0: /* d, 32 int8 */
        g->half_d = read16(b);
        for (int w = 0; w < 8; w++) g->word[w] = read32(b + 2 + 4 * w) ^ 0x80808080u;
        return;
    case TL_Q4_0: /* d, 16 bytes */
    case TL_IQ4_NL:
        g->half_d = read16(b);
        take_halves(g, b + 2);
        return;
    case TL_Q4_1: /* d, m, 16 bytes */
        g->half_d = read16(b), g->half_o = read16(b + 2);
        take_halves(g, b + 4);
        return;
    case TL_Q5_0: /* d, 32 bits, 16 bytes */
        g->half_d = read16(b);
        take_halves(g, b + 6);
        take_fifth(g, b + 2);
        return;
    case TL_Q5_1: /* d, m, 32 bits, 16 bytes */
        g->half_d = read16(b), g->half_o = read16(b + 2);
        take_halves(g, b + 8);
        take_fifth(g, b + 4);
        return;
    case TL_Q2_K: /* 16 bytes of scales, 64 of quants, d, dmin */
        take_bits(g, b + 16 + i / 4 * 32, i % 4 * 2, PAIRS, 0);
        g->d[0] = b[2 * i], g->d[1] = b[2 * i + 1];
        return;
    case TL_Q3_K: /* 32 bytes of high bits, 64 of quants, 12 of scales, d */
        take_bits(g, b + 32 + i / 4 * 32, i % 4 * 2, PAIRS, 0);
        take_bits(g, b, i, ONES, 2);
        for (int h = 0; h < 2; h++) {
            const uint8_t *s = b + 96;
            const int at = 2 * i + h, low = s[at % 8] >> (at / 8 * 4) & 15, high = s[8 + at % 4] >> (at / 4 * 2) & 3;
            g->d[h] = (uint8_t)((low | high << 4) - 32);
        }
        return;
    case TL_Q4_K: /* d, dmin, 12 bytes of scales, 128 of quants */
        take_bits(g, b + 16 + i / 2 * 32, i % 2 * 4, NIBBLES, 0);
        take_six_bits(g, b + 4, i);
        return;
    case TL_Q5_K: /* d, dmin, 12 bytes of scales, 32 of high bits, 128 of quants */
        take_bits(g, b + 48 + i / 2 * 32, i % 2 * 4, NIBBLES, 0);
        take_bits(g, b + 16, i, ONES, 4);
        take_six_bits(g, b + 4, i);
        return;
    case TL_Q6_K: /* 128 bytes of low bits, 64 of high, 16 scales, d */
        take_bits(g, b + i / 4 * 64 + i % 2 * 32, i % 4 / 2 * 4, NIBBLES, 0);
        take_bits(g, b + 128 + i / 4 * 32, i % 4 * 2, PAIRS, 4);
        g->d[0] = b[192 + 2 * i], g->d[1] = b[192 + 2 * i + 1];
        return;
    case TL_IQ4_XS: { /* d, two high bits of eight scales, their low nibbles, 128 bytes */
        const int low = b[4 + i / 2] >> (i % 2 * 4) & 15, high = read16(b + 2) >> (2 * i) & 3;
        take_halves(g, b + 8 + 16 * i);
        g->d[0] = (uint8_t)((low | high << 4) - 32);
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

/* q's words to output n's places in the group's lines. */
FOR_A_TYPE void put_words(uint8_t *lines, const tl_form *f, int n, const group *g) {
    uint32_t line[10] = {0};
    if (f->low == 8)
        for (int w = 0; w < 8; w++) line[w] = g->word[w];
    else if (f->low == 4)
        for (int w = 0; w < 8; w++) line[w % 4] |= (g->word[w] & NIBBLES) << (w / 4 * 4);
    else
        for (int w = 0; w < 8; w++) line[w % 2] |= (g->word[w] & PAIRS) << (w / 2 * 2);
    for (int w = 0; w < 8 && f->high; w++) {
        const uint32_t high = g->word[w] >> f->low;
        if (f->high == 1) line[f->low] |= (high & ONES) << w;
        else line[f->low + w % 2] |= (high & PAIRS) << (w / 2 * 2);
    }
    for (int i = 0; i < f->low + f->high; i++) memcpy(lines + 64 * i + 4 * n, &line[i], 4);
}

FOR_A_TYPE void put_scales(uint8_t *at, const tl_form *f, int n, const group *g) {
    if (f->d == TL_D_HALF) {
        memcpy(at + 2 * n, &g->half_d, 2);
        if (f->o == TL_O_HALF) memcpy(at + 32 + 2 * n, &g->half_o, 2);
        return;
    }
    const int halves = TL_GROUP / f->sub;
    for (int h = 0; h < halves; h++) at[16 * h + n] = g->d[h];
    if (f->o == TL_O_BYTE) at[16 * halves + n] = g->o;
}

/* A row of K elements as output j of a panel. */
FOR_A_TYPE void pack_row(uint8_t *panel, tl_type type, const tl_form *f, int K, int j, const uint8_t *row) {
    const int groups = K / TL_GROUP, per_block = f->d == TL_D_HALF ? 1 : TL_SUPER / TL_GROUP;
    const int64_t block_bytes = (int64_t)tl__type_bytes(type);
    uint8_t *scales = panel + groups * tl_quants_bytes(f), *supers = scales + groups * tl_scales_bytes(f);
    for (int block = 0; block < groups / per_block; block++, row += block_bytes) {
        for (int i = 0; i < per_block; i++) {
            const int at = block * per_block + i;
            group g;
            take(&g, type, row, i);
            put_words(panel + at * tl_quants_bytes(f), f, j, &g);
            put_scales(scales + at * tl_scales_bytes(f), f, j, &g);
        }
        if (tl_supers_bytes(f)) {
            uint16_t super[2];
            take_super(super, type, row);
            memcpy(supers + block * tl_supers_bytes(f) + 2 * j, &super[0], 2);
            if (f->o != TL_O_NONE) memcpy(supers + block * tl_supers_bytes(f) + 32 + 2 * j, &super[1], 2);
        }
    }
}

#define PACK_ROW(type, low, high, zero, sub, d, o, looked_up)                                                          \
    static void pack_row_##type(uint8_t *panel, int K, int j, const uint8_t *row) {                                    \
        static const tl_form form = {low, high, zero, sub, d, o, looked_up};                                           \
        pack_row(panel, TL_##type, &form, K, j, row);                                                                  \
    }
TL_FORMS(PACK_ROW)
#undef PACK_ROW

static void (*const pack_row_of[TL_TYPES])(uint8_t *panel, int K, int j, const uint8_t *row) = {
#define ROW_OF(type, low, high, zero, sub, d, o, looked_up) [TL_##type] = pack_row_##type,
    TL_FORMS(ROW_OF)
#undef ROW_OF
};

void tl__pack_rows(void *packed, tl_type type, int N, int K, int first, int n, const void *rows) {
    const tl_form *f = &tl__forms[type];
    assert(f->low && first % 16 == 0 && n >= 0 && first + n <= N && (n % 16 == 0 || first + n == N));
    const int64_t row_bytes = tl__type_size(type, K), panel_bytes = tl_panel_bytes(f, K);
    for (int p = 0; p * 16 < n; p++) {
        uint8_t *panel = (uint8_t *)packed + (first / 16 + p) * panel_bytes;
        if (n - p * 16 < 16) memset(panel, 0, (size_t)panel_bytes);
        for (int j = 0; j < 16 && p * 16 + j < n; j++)
            pack_row_of[type](panel, K, j, (const uint8_t *)rows + (p * 16 + j) * row_bytes);
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
