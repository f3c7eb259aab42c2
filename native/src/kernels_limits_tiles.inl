// The products of tiles alone: two tiles of rows times two of weights, whole ones, into four of sums.

namespace stoker::STOKER_ISA {

template <bool kBfloat>
static double tile_loop(int n_rounds, float* out) {
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.rows[tile] = 16;
    config.row_bytes[tile] = 64;
  }
  alignas(64) uint8_t codes[16 * 64];
  alignas(64) int32_t sums[16 * kLanes];
  for (int i = 0; i < 16 * 64; ++i) codes[i] = static_cast<uint8_t>((i + (out[0] > 0)) % 16);
  configure_tiles(config);
  zero_tile<0>();
  zero_tile<1>();
  zero_tile<2>();
  zero_tile<3>();
  load_tile<4>(codes, 64);
  load_tile<5>(codes, 64);
  load_tile<6>(codes, 64);
  load_tile<7>(codes, 64);
  for (int round = 0; round < n_rounds; ++round) {
    if constexpr (kBfloat) {
      multiply_bfloat_tiles<0, 4, 6>();
      multiply_bfloat_tiles<1, 4, 7>();
      multiply_bfloat_tiles<2, 5, 6>();
      multiply_bfloat_tiles<3, 5, 7>();
    } else {
      multiply_tiles<0, 4, 6>();
      multiply_tiles<1, 4, 7>();
      multiply_tiles<2, 5, 6>();
      multiply_tiles<3, 5, 7>();
    }
  }
  store_tile<0>(sums, 64);
  release_tiles();
  store(out, mul(to_float(load_bytes(reinterpret_cast<const uint8_t*>(sums))), splat(0.0f)));
  return 2.0 * 16 * 16 * (kBfloat ? 32 : 64) * 4 * n_rounds;
}

static double dot_loop(int n_rounds, float* out) { return tile_loop<false>(n_rounds, out); }
static double bfloat_loop(int n_rounds, float* out) { return tile_loop<true>(n_rounds, out); }

}  // namespace stoker::STOKER_ISA
