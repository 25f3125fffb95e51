/* cpu/amx.h — AMX's tiles: what configures them, and lets them go. */
#ifndef TL_KERNELS_CPU_AMX_H
#define TL_KERNELS_CPU_AMX_H

#include <stdint.h>

/* ldtilecfg's 64 bytes (Intel SDM vol. 1, 18.3): begin as {.palette = 1}. */
typedef struct tile_config {
    _Alignas(64) uint8_t palette;
    uint8_t start, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;
_Static_assert(sizeof(tile_config) == 64, "ldtilecfg reads 64 bytes");

static inline void tiles_configure(const tile_config *config) {
    __asm__ volatile("ldtilecfg %0" ::"m"(*config));
}
static inline void tiles_close(void) {
    __asm__ volatile("tilerelease");
}

#endif
