/* arch_parts.h — what the files that read and write config.json share: asking for a field, refusing one, and the doors
 * between the record (arch.c), the families (arch_families.c) and RoPE's parameters (arch_rope.c). */
#ifndef TL_MODEL_ARCH_PARTS_H
#define TL_MODEL_ARCH_PARTS_H

#include "model/arch.h"

enum { TL_MOST_WIDTH = 1 << 20, TL_MOST_VOCAB = 1 << 24, TL_MOST_POSITIONS = 1 << 24 };

/* Everything of a config.json but its vocabulary, tokens and initialisation, for the family that arch names. */
int tl__family_parse(tl_arch *arch, const json_t *config, const char *where, tl_error *err);
void tl__family_write(json_t *config, const tl_arch *arch);

/* RoPE's fields, in the form of today (rope_parameters) and that of old files (rope_theta, rope_scaling). default_theta:
 * where the file gives none. local_default: > 0 where sliding layers have a table of their own (Gemma 3). */
int tl__rope_parse(tl_arch *arch, const json_t *config, double default_theta, double local_default, const char *where,
                   tl_error *err);
void tl__rope_write(json_t *config, const tl_arch *arch);

/* An integer in [least, most]; a fallback below least makes it required. */
int tl__arch_int(const json_t *config, const char *key, int64_t least, int64_t most, int64_t fallback, int *out,
                 const char *where, tl_error *err);
/* A field that is only supported with one value, or one of a list that mean the same. */
int tl__arch_require_bool(const json_t *config, const char *key, bool wanted, const char *where, tl_error *err);
int tl__arch_require_string(const json_t *config, const char *key, const char *fallback, const char *const *wanted,
                            const char *where, tl_error *err);
bool tl__arch_listed(const char *const *keys, const char *key);
/* The shortest decimal that gives the same f32 back: fields are read as doubles and kept as f32. */
json_t *tl__arch_real(float x);

#endif
