// The instructions of `tiles.h` in plain C++, for processors without AMX. What the processor would answer with a fault
// ends the program: a tile that is not configured, sizes that do not go together.
#pragma once
#include "support.h"
#include "tiles.h"

namespace stoker::STOKER_ISA {

struct TileState {
  bool configured = false;
  TileConfig config;
  uint8_t bytes[8][16][64];
};
static thread_local TileState tiles;

STOKER_INLINE void configure_tiles(const TileConfig& config) {
  CHECK(config.palette == 1);
  for (int i = 0; i < 8; ++i) CHECK(config.rows[i] <= 16 && config.row_bytes[i] <= 64);
  for (int i = 8; i < 16; ++i) CHECK(config.rows[i] == 0 && config.row_bytes[i] == 0);
  tiles.configured = true;
  tiles.config = config;
  std::memset(tiles.bytes, 0, sizeof tiles.bytes);
}
STOKER_INLINE void release_tiles() { tiles.configured = false; }

template <int kTile>
STOKER_INLINE void zero_tile() {
  CHECK(tiles.configured && tiles.config.rows[kTile] > 0);
  std::memset(tiles.bytes[kTile], 0, sizeof tiles.bytes[kTile]);
}

template <int kTile>
STOKER_INLINE void load_tile(const void* base, ptrdiff_t stride) {
  zero_tile<kTile>();
  for (int row = 0; row < tiles.config.rows[kTile]; ++row) {
    std::memcpy(tiles.bytes[kTile][row], static_cast<const uint8_t*>(base) + row * stride,
                tiles.config.row_bytes[kTile]);
  }
}

template <int kTile>
STOKER_INLINE void store_tile(void* base, ptrdiff_t stride) {
  CHECK(tiles.configured && tiles.config.rows[kTile] > 0);
  for (int row = 0; row < tiles.config.rows[kTile]; ++row) {
    std::memcpy(static_cast<uint8_t*>(base) + row * stride, tiles.bytes[kTile][row], tiles.config.row_bytes[kTile]);
  }
}

template <int kSums, int kA, int kB>
STOKER_INLINE void multiply_tiles() {
  const TileConfig& c = tiles.config;
  CHECK(tiles.configured && c.rows[kSums] == c.rows[kA] && c.row_bytes[kSums] == c.row_bytes[kB]);
  CHECK(c.row_bytes[kA] == 4 * c.rows[kB] && c.row_bytes[kSums] % 4 == 0);
  for (int row = 0; row < c.rows[kSums]; ++row) {
    for (int lane = 0; lane < c.row_bytes[kSums] / 4; ++lane) {
      int32_t sum;
      std::memcpy(&sum, &tiles.bytes[kSums][row][4 * lane], sizeof sum);
      for (int quad = 0; quad < c.rows[kB]; ++quad) {
        for (int i = 0; i < 4; ++i) {
          sum += int32_t{static_cast<int8_t>(tiles.bytes[kA][row][4 * quad + i])} *
                 int32_t{tiles.bytes[kB][quad][4 * lane + i]};
        }
      }
      std::memcpy(&tiles.bytes[kSums][row][4 * lane], &sum, sizeof sum);
    }
  }
}

// The float that a bf16 stands for; zero for a subnormal.
STOKER_INLINE float bfloat_operand(const uint8_t* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof bits);
  if ((bits & 0x7f80) == 0) bits &= 0x8000;
  return float_from_bfloat(bits);
}

// Fused, to nearest, subnormal results zero: as the processor does it in FloatMode, which the caller must have set.
template <int kSums, int kA, int kB>
STOKER_INLINE void multiply_bfloat_tiles() {
  const TileConfig& c = tiles.config;
  CHECK(tiles.configured && c.rows[kSums] == c.rows[kA] && c.row_bytes[kSums] == c.row_bytes[kB]);
  CHECK(c.row_bytes[kA] == 4 * c.rows[kB] && c.row_bytes[kSums] % 4 == 0);
  for (int row = 0; row < c.rows[kSums]; ++row) {
    for (int lane = 0; lane < c.row_bytes[kSums] / 4; ++lane) {
      float parts[2] = {};
      for (int pair = 0; pair < c.rows[kB]; ++pair) {
        for (int i = 0; i < 2; ++i) {
          const float a = bfloat_operand(&tiles.bytes[kA][row][4 * pair + 2 * i]);
          parts[i] = __builtin_fmaf(a, bfloat_operand(&tiles.bytes[kB][pair][4 * lane + 2 * i]), parts[i]);
        }
      }
      float sum;
      std::memcpy(&sum, &tiles.bytes[kSums][row][4 * lane], sizeof sum);
      sum += parts[0] + parts[1];
      std::memcpy(&tiles.bytes[kSums][row][4 * lane], &sum, sizeof sum);
    }
  }
}

}  // namespace stoker::STOKER_ISA
