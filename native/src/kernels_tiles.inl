// Matrix products on AMX tiles: a group of 32 inputs at a time, for up to 16 rows and the 16 outputs of a column block.
//
// A tile product gives the group's integer sums, which are exact; what follows is the vector kernels' own arithmetic in
// their order. So both give the same bits, and few rows are left to the vectors. What follows is also what takes the
// time: while tiles are in use, the processor has one pipe for vectors of 64 bytes instead of two.
#include "tiles.h"

namespace stoker::STOKER_ISA {

constexpr int kTileRows = 16;
constexpr int kPanelGroups = 32;  // groups that are made ready at once for all rows, in the first cache level

constexpr int kLeastRows = 13;     // fewer rows in all are done sooner by vectors
constexpr int kLeastTileRows = 8;  // into which more are cut

// Sums of four groups, so that products, which take long, overlap; rows and codes of two.
enum Tile { kSums = 0, kRows = 4, kCodes = 6 };

// Groups of a column block as tiles want them: codes [quad][16 outputs][4 inputs], 512 bytes each.
struct Panel {
  int n_groups;
  bool first;           // of its column block
  const uint8_t* next;  // the groups after it, as they are stored
  ptrdiff_t group_size;
  const uint8_t* codes;
  ptrdiff_t codes_stride;  // between groups
  GroupWeights weights[kPanelGroups];
  alignas(64) uint8_t unpacked[kPanelGroups * 512];
};

STOKER_INLINE void store_bytes(uint8_t* p, I32 a) { _mm512_store_si512(p, a); }

static void prepare_u4(const uint8_t* group, Panel& panel) {
  panel.codes = panel.unpacked;
  panel.codes_stride = 512;
  for (int g = 0; g < panel.n_groups; ++g, group += kU4GroupSize) {
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

static void prepare_u8(const uint8_t* group, Panel& panel) {
  panel.codes = group;
  panel.codes_stride = kU8GroupSize;
  for (int g = 0; g < panel.n_groups; ++g, group += kU8GroupSize) {
    prefetch_group<kU8GroupSize>(group);
    I32 code_sums = zero_int();
    for (int v = 0; v < 8; ++v) code_sums = add_codes(code_sums, load_bytes(group + 64 * v));
    panel.weights[g] = group_weights(group + 512, code_sums);
  }
}

static void prepare(bool four_bits, const uint8_t* group, Panel& panel) {
  panel.group_size = four_bits ? kU4GroupSize : kU8GroupSize;
  panel.next = group + panel.n_groups * panel.group_size;
  if (four_bits) {
    prepare_u4(group, panel);
  } else {
    prepare_u8(group, panel);
  }
}

// A tile of rows, from the panel's first group on.
struct TileInput {
  const int8_t* codes;    // rows are `k` apart
  const GroupMeta* meta;  // rows are `n_groups` apart
  ptrdiff_t k;
  ptrdiff_t n_groups;
  Ahead* ahead;
};

// A panel's work on a tile of rows, in steps that overlap: group kAt of four in turn has its own tile of sums, of two
// its own memory for them.
struct TileWork {
  const Panel& panel;
  const TileInput& input;
  bool fetch;     // what the next panel is made of, meanwhile
  uint8_t* dots;  // 2 * kDotsBytes
};
constexpr ptrdiff_t kDotsBytes = kTileRows * kLanes * sizeof(int32_t);

template <int kAt>
STOKER_INLINE void multiply_group(const TileWork& work, int g) {
  constexpr int kSumsAt = kSums + kAt % 4, kRowsAt = kRows + kAt % 2, kCodesAt = kCodes + kAt % 2;
  if (g >= work.panel.n_groups) return;
  zero_tile<kSumsAt>();
  load_tile<kRowsAt>(work.input.codes + ptrdiff_t{g} * kGroup, work.input.k);
  load_tile<kCodesAt>(work.panel.codes + g * work.panel.codes_stride, 64);
  multiply_tiles<kSumsAt, kRowsAt, kCodesAt>();
}

template <int kAt>
STOKER_INLINE void keep_group(const TileWork& work, int g) {
  if (g < work.panel.n_groups) store_tile<kSums + kAt % 4>(work.dots + kAt % 2 * kDotsBytes, 4 * kLanes);
}

template <int kAt, int kN>
STOKER_INLINE void add_group_of_rows(const TileWork& work, int g, F32 (&sums)[kN]) {
  const GroupWeights weights = work.panel.weights[g];
  const uint8_t* dots = work.dots + kAt % 2 * kDotsBytes;
  const GroupMeta* meta = work.input.meta + g;
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r, meta += work.input.n_groups) {
    sums[r] = add_group(sums[r], load_bytes(dots + 4 * kLanes * r), *meta, weights);
  }
}

// A panel is made ready at once, so its memory had better be near by then. Beyond the matrix it is a hint that nobody
// takes.
STOKER_INLINE void fetch_next(const Panel& panel, int g) {
  const uint8_t* group = panel.next + g * panel.group_size;
  for (ptrdiff_t line = 0; line < panel.group_size; line += 64) __builtin_prefetch(group + line, 0, 2);
}

// While the vectors add one group, the next one's sums are stored and those of the two after it computed.
template <int kAt, int kN>
STOKER_INLINE void step(const TileWork& work, int g, F32 (&sums)[kN]) {
  if (g >= work.panel.n_groups) return;
  multiply_group<kAt + 3>(work, g + 3);
  keep_group<kAt + 1>(work, g + 1);
  if (work.fetch) fetch_next(work.panel, g);
  fetch_ahead(work.input.ahead);
  add_group_of_rows<kAt, kN>(work, g, sums);
}

// Adds the panel to kN rows of `out`, `stride` floats apart; a column block's first panel sets them.
template <int kN>
static void multiply_tile(const Panel& panel, const TileInput& input, bool fetch, float* out, ptrdiff_t stride) {
  alignas(64) uint8_t dots[2 * kDotsBytes];
  const TileWork work{panel, input, fetch, dots};
  F32 sums[kN];
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) sums[r] = panel.first ? zero() : load(out + r * stride);
  multiply_group<0>(work, 0);
  multiply_group<1>(work, 1);
  multiply_group<2>(work, 2);
  keep_group<0>(work, 0);
  for (int g = 0; g < panel.n_groups; g += 4) {
    step<0, kN>(work, g, sums);
    step<1, kN>(work, g + 1, sums);
    step<2, kN>(work, g + 2, sums);
    step<3, kN>(work, g + 3, sums);
  }
#pragma GCC unroll 16
  for (int r = 0; r < kN; ++r) store(out + r * stride, sums[r]);
}

// n_rows is in [kLeastTileRows, kN].
template <int kN = kTileRows>
static void multiply_rows(int n_rows, const Panel& panel, const TileInput& input, bool fetch, float* out,
                          ptrdiff_t stride) {
  if constexpr (kN > kLeastTileRows) {
    if (n_rows < kN) return multiply_rows<kN - 1>(n_rows, panel, input, fetch, out, stride);
  }
  multiply_tile<kN>(panel, input, fetch, out, stride);
}

// How rows are cut into tiles: as evenly as can be. Later tiles have the odd row, so that those of one row less may
// read one too many.
struct Cut {
  explicit Cut(int n_rows)
      : n_tiles((n_rows + kTileRows - 1) / kTileRows), least(n_rows / n_tiles), n_least(n_tiles - n_rows % n_tiles) {}
  int rows(int tile) const { return tile < n_least ? least : least + 1; }
  int most() const { return rows(n_tiles - 1); }

  int n_tiles, least, n_least;
};

static void multiply_block_tiles(const PackedMatrix& matrix, const uint8_t* block, const Activations& input, int row,
                                 const Cut& cut, float* out, ptrdiff_t stride) {
  const int n_groups = matrix.k / kGroup;
  Panel panel;
  panel.next = block;
  for (int group = 0; group < n_groups; group += kPanelGroups) {
    panel.n_groups = n_groups - group < kPanelGroups ? n_groups - group : kPanelGroups;
    panel.first = group == 0;
    prepare(matrix.type == WeightType::u4, panel.next, panel);
    for (int tile = 0, r = 0; tile < cut.n_tiles; r += cut.rows(tile++)) {
      const TileInput rows{input.codes + static_cast<ptrdiff_t>(row + r) * matrix.k + group * kGroup,
                           input.meta + static_cast<ptrdiff_t>(row + r) * n_groups + group, matrix.k, n_groups,
                           input.ahead};
      multiply_rows(cut.rows(tile), panel, rows, tile == 0, out + r * stride, stride);
    }
  }
}

static void configure_for(int n_rows) {
  TileConfig config;
  for (int i = 0; i < 4; ++i) {
    config.rows[kSums + i] = static_cast<uint8_t>(n_rows);
    config.row_bytes[kSums + i] = 64;
  }
  for (int i = 0; i < 2; ++i) {
    config.rows[kRows + i] = static_cast<uint8_t>(n_rows);
    config.row_bytes[kRows + i] = kGroup;
    config.rows[kCodes + i] = kGroup / 4;
    config.row_bytes[kCodes + i] = 64;
  }
  configure_tiles(config);
}

static void matmul(const PackedMatrix& matrix, const Activations& input, int row_begin, int row_end, int block_begin,
                   int block_end, float* out, ptrdiff_t stride) {
  const int n_rows = row_end - row_begin;
  const bool codes = matrix.type == WeightType::u4 || matrix.type == WeightType::u8;
  const auto block = [&](int b) { return matrix.memory.as<uint8_t>() + static_cast<size_t>(b) * matrix.block_size; };
  if (!codes || n_rows < kLeastRows) {
    for (int b = block_begin; b < block_end; ++b, out += kLanes) {
      multiply_block(matrix, block(b), input, row_begin, n_rows, out, stride);
    }
    return;
  }
  const Cut cut(n_rows);
  configure_for(cut.most());
  for (int b = block_begin; b < block_end; ++b, out += kLanes) {
    multiply_block_tiles(matrix, block(b), input, row_begin, cut, out, stride);
  }
  release_tiles();  // the state is large: threads switch faster without it
}

}  // namespace stoker::STOKER_ISA
