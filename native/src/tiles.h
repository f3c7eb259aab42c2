// AMX tiles as inline assembly. The compiler's own intrinsics do not say which memory they read, so GCC 12 drops or
// moves the stores that fill it (seen with the tile configuration); these say "memory".
#pragma once
#include <cstddef>
#include <cstdint>

namespace stoker::STOKER_ISA {

// Palette 1: eight tiles of up to 16 rows of 64 bytes.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

#if !defined(STOKER_EMULATED_TILES)  // as tests do

STOKER_INLINE void configure_tiles(const TileConfig& config) {
  asm volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
STOKER_INLINE void release_tiles() { asm volatile("tilerelease" : : : "memory"); }

template <int kTile>
STOKER_INLINE void zero_tile() {
  asm volatile("tilezero %%tmm%c0" : : "i"(kTile) : "memory");
}

// Rows are `stride` bytes apart.
template <int kTile>
STOKER_INLINE void load_tile(const void* base, ptrdiff_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(base), "r"(stride), "i"(kTile) : "memory");
}

template <int kTile>
STOKER_INLINE void store_tile(void* base, ptrdiff_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(base), "r"(stride), "i"(kTile) : "memory");
}

// sums[row][lane] += sum over quads and 4 bytes of (signed a[row][quad]) * (unsigned b[quad][lane]).
template <int kSums, int kA, int kB>
STOKER_INLINE void multiply_tiles() {
  asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB) : "memory");
}

// sums[row][lane] += even + odd, where these are sums over pairs of a[row][pair] * b[pair][lane] with the first and
// with the second bf16 of each: from zero on, by fused multiply-adds to nearest; subnormal operands and results are
// zero.
template <int kSums, int kA, int kB>
STOKER_INLINE void multiply_bfloat_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSums), "i"(kA), "i"(kB) : "memory");
}

#endif

}  // namespace stoker::STOKER_ISA
