// Matrix products on AMX tiles: a group of 32 inputs at a time, for 16 rows and the 16 outputs of a column block.
//
// A tile product gives the group's integer sums, which are exact; what follows is the vector kernels' own arithmetic in
// their order. So both give the same bits, and the rows that fill no tile are left to the vectors.
#include "tiles.h"

namespace stoker::STOKER_ISA {

constexpr int kTileRows = 16;
constexpr int kPanelGroups = 32;  // groups that are made ready at once for all rows, in the first cache level

enum Tile { kSums, kRows, kCodes };

// Groups of a column block as tiles want them: codes [quad][16 outputs][4 inputs], 512 bytes each.
struct Panel {
  const uint8_t* codes;
  ptrdiff_t codes_stride;  // between groups
  GroupWeights weights[kPanelGroups];
  alignas(64) uint8_t unpacked[kPanelGroups * 512];
};

STOKER_INLINE void store_bytes(uint8_t* p, I32 a) { _mm512_store_si512(p, a); }

static void prepare_u4(const uint8_t* group, int n_groups, Panel& panel) {
  panel.codes = panel.unpacked;
  panel.codes_stride = 512;
  for (int g = 0; g < n_groups; ++g, group += kU4GroupSize) {
    prefetch_group<kU4GroupSize>(group);
    I32 byte_sums = zero_int();
    for (int v = 0; v < 4; ++v) {
      const I32 bytes = load_bytes(group + 64 * v);
      const I32 low = low_nibbles(bytes);
      const I32 high = high_nibbles(bytes);
      store_bytes(panel.unpacked + 512 * g + 128 * v, low);
      store_bytes(panel.unpacked + 512 * g + 128 * v + 64, high);
      byte_sums = add_bytes(byte_sums, add_bytes(low, high));
    }
    panel.weights[g] = group_weights(group + 256, add_codes(zero_int(), byte_sums));
  }
}

static void prepare_u8(const uint8_t* group, int n_groups, Panel& panel) {
  panel.codes = group;
  panel.codes_stride = kU8GroupSize;
  for (int g = 0; g < n_groups; ++g, group += kU8GroupSize) {
    prefetch_group<kU8GroupSize>(group);
    I32 code_sums = zero_int();
    for (int v = 0; v < 8; ++v) code_sums = add_codes(code_sums, load_bytes(group + 64 * v));
    panel.weights[g] = group_weights(group + 512, code_sums);
  }
}

// 16 rows' activations from the panel's first group on.
struct TileInput {
  const int8_t* codes;    // rows are `k` apart
  const GroupMeta* meta;  // rows are `n_groups` apart
  ptrdiff_t k;
  ptrdiff_t n_groups;
};

// Adds the panel to 16 rows of `out`, `stride` floats apart; the first panel sets them.
static void multiply_tile(const Panel& panel, int n_panel_groups, bool first, const TileInput& input, float* out,
                          ptrdiff_t stride) {
  alignas(64) int32_t dots[2][kTileRows * kLanes];
  constexpr ptrdiff_t kDotsBytes = kLanes * sizeof(int32_t);
  const auto multiply = [&](int g) {
    zero_tile<kSums>();
    load_tile<kRows>(input.codes + ptrdiff_t{g} * kGroup, input.k);
    load_tile<kCodes>(panel.codes + g * panel.codes_stride, 64);
    multiply_tiles<kSums, kRows, kCodes>();
    store_tile<kSums>(dots[g % 2], kDotsBytes);
  };
  F32 sums[kTileRows];
  for (int r = 0; r < kTileRows; ++r) sums[r] = first ? zero() : load(out + r * stride);
  multiply(0);
  for (int g = 0; g < n_panel_groups; ++g) {
    if (g + 1 < n_panel_groups) multiply(g + 1);  // ahead of the vectors, which would wait for it
    const GroupWeights weights = panel.weights[g];
    const auto* of_group = reinterpret_cast<const uint8_t*>(dots[g % 2]);
    const GroupMeta* meta = input.meta + g;
    for (int r = 0; r < kTileRows; ++r, meta += input.n_groups) {
      sums[r] = add_group(sums[r], load_bytes(of_group + kDotsBytes * r), *meta, weights);
    }
  }
  for (int r = 0; r < kTileRows; ++r) store(out + r * stride, sums[r]);
}

static void multiply_block_tiles(const PackedMatrix& matrix, const uint8_t* block, const Activations& input, int row,
                                 int n_rows, float* out, ptrdiff_t stride) {
  const int n_groups = matrix.k / kGroup;
  const bool four_bits = matrix.type == WeightType::u4;
  Panel panel;
  for (int group = 0; group < n_groups; group += kPanelGroups) {
    const int n_panel = n_groups - group < kPanelGroups ? n_groups - group : kPanelGroups;
    if (four_bits) {
      prepare_u4(block + ptrdiff_t{group} * kU4GroupSize, n_panel, panel);
    } else {
      prepare_u8(block + ptrdiff_t{group} * kU8GroupSize, n_panel, panel);
    }
    for (int r = 0; r < n_rows; r += kTileRows) {
      const TileInput rows{input.codes + static_cast<ptrdiff_t>(row + r) * matrix.k + group * kGroup,
                           input.meta + static_cast<ptrdiff_t>(row + r) * n_groups + group, matrix.k, n_groups};
      multiply_tile(panel, n_panel, group == 0, rows, out + r * stride, stride);
    }
  }
}

static void configure_all_tiles() {
  TileConfig config;
  config.rows[kSums] = config.rows[kRows] = kTileRows;
  config.rows[kCodes] = kGroup / 4;
  config.row_bytes[kSums] = config.row_bytes[kCodes] = 64;
  config.row_bytes[kRows] = kGroup;
  configure_tiles(config);
}

static void matmul(const PackedMatrix& matrix, const Activations& input, int row_begin, int row_end, int block_begin,
                   int block_end, float* out, ptrdiff_t stride) {
  const int n_rows = row_end - row_begin;
  const bool codes = matrix.type == WeightType::u4 || matrix.type == WeightType::u8;
  const int n_tiled = codes ? n_rows / kTileRows * kTileRows : 0;
  if (n_tiled > 0) configure_all_tiles();
  for (int b = block_begin; b < block_end; ++b) {
    const uint8_t* block = matrix.memory.as<uint8_t>() + static_cast<size_t>(b) * matrix.block_size;
    float* column = out + (b - block_begin) * kLanes;
    if (n_tiled > 0) multiply_block_tiles(matrix, block, input, row_begin, n_tiled, column, stride);
    multiply_block(matrix, block, input, row_begin + n_tiled, n_rows - n_tiled, column + n_tiled * stride, stride);
  }
  if (n_tiled > 0) release_tiles();  // the state is large: threads switch faster without it
}

}  // namespace stoker::STOKER_ISA
