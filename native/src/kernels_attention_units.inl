// What attention on AMX tiles (kernels_attention_tiles.inl) works on: tile registers, working memory, units of 16
// queries and 64 keys, and where the values of a unit's keys are.

namespace stoker::STOKER_ISA {

constexpr int kTileQueries = 16;
constexpr int kTileBlocks = kTileTokens / kBlockTokens;
constexpr int kHalfTokens = 32;  // keys of one product with values
constexpr int kHalves = kTileTokens / kHalfTokens;
constexpr ptrdiff_t kWeightBytes = 2 * kTileTokens;
constexpr ptrdiff_t kScoreBytes = 4 * kTileTokens;

// Which tile registers hold what. Sums: scores of the four blocks of keys, or weighted sums of 64 dimensions. A product
// waits for the one before it if both have their operand in the same register, so there are two of each.
enum AttentionTile { kFirstSum, kFirstRows = 4, kFirstStored = 5, kSecondStored, kSecondRows };

static void configure_attention_tiles(int n_queries) {
  const auto rows = static_cast<uint8_t>(n_queries < kTileQueries ? n_queries : kTileQueries);
  TileConfig config;
  for (int tile = 0; tile < 8; ++tile) {
    config.rows[tile] = tile == kFirstStored || tile == kSecondStored ? 16 : rows;
    config.row_bytes[tile] = 64;
  }
  configure_tiles(config);
}

// Queries of a call, as many as its tiles have rows.
STOKER_INLINE ptrdiff_t padded_queries(const AttendArgs& a) {
  const ptrdiff_t n = ptrdiff_t{a.n_rows} * a.group;
  return n < kTileQueries ? n : (n + kTileQueries - 1) / kTileQueries * kTileQueries;
}

// Working memory of a call. What is behind the last query may be any numbers.
struct TileWorking {
  float* sums;       // [n][16] of weights, all columns alike
  float* bases;      // [n][16] what scores begin with, all columns alike
  float* totals;     // [n][head_size] weighted sums
  float* apart;      // [16][head_size] the same of a row by itself
  float* scores;     // [16][kTileTokens]
  uint8_t* weights;  // [16][kTileTokens] bf16
  uint8_t* ones;     // values that make a sum of weights
  uint8_t* queries;  // [n][head_size] bf16
  uint8_t* values;   // [kTileTokens / 2][head_size][2] copies of a tile's

  explicit TileWorking(const AttendArgs& a) {
    const ptrdiff_t n = padded_queries(a);
    sums = reinterpret_cast<float*>((reinterpret_cast<uintptr_t>(a.scratch) + 63) / 64 * 64);
    bases = sums + n * 16;
    totals = bases + n * 16;
    apart = totals + n * a.head_size;
    scores = apart + ptrdiff_t{kTileQueries} * a.head_size;
    weights = reinterpret_cast<uint8_t*>(scores + kTileQueries * kTileTokens);
    ones = weights + kTileQueries * kWeightBytes;
    queries = ones + kHalfTokens / 2 * 64;
    values = queries + n * 2 * a.head_size;
  }
};

// Queries [first, end) of one tile of them and blocks [first_block, end_block) of one tile of keys.
struct TileUnit {
  int begin;  // position of the first key
  int first, end;
  int first_row, last_row;  // that see some of the keys; none does if the first is the larger
  int first_block, end_block;
  const int32_t* blocks;  // the tile's
  bool whole;             // all queries see all 64 keys
  const int32_t* next;    // blocks of the next tile, to be fetched meanwhile, or null

  int first_half() const { return first_block / 2; }
  int end_half() const { return (end_block + 1) / 2; }
};

static TileUnit unit_of(const AttendArgs& a, int begin, int first, const int32_t* next) {
  const int n_queries = a.n_rows * a.group;
  const int end = first + kTileQueries < n_queries ? first + kTileQueries : n_queries;
  int row = first / a.group, last = (end - 1) / a.group;
  const bool whole = sight_of(a, last, begin).first == 0 && sight_of(a, row, begin).end == kTileTokens;
  while (row <= last && !sight_of(a, row, begin).any()) ++row;
  while (last > row && !sight_of(a, last, begin).any()) --last;
  const int first_block = row > last ? 0 : sight_of(a, row, begin).first / kBlockTokens;
  const int end_block = row > last ? 0 : (sight_of(a, last, begin).end + kBlockTokens - 1) / kBlockTokens;
  return {begin, first, end, row, last, first_block, end_block, a.block_table + begin / kBlockTokens, whole, next};
}

// Calls work(Count of tile) for the tiles [0, kTiles).
template <int kTiles, class Work>
STOKER_INLINE void for_tiles(Work&& work) {
  work(Count<0>{});
  work(Count<1>{});
  if constexpr (kTiles > 2) {
    work(Count<2>{});
    work(Count<3>{});
  }
}

STOKER_INLINE void fetch_lines(const uint8_t* lines, int n_lines, ptrdiff_t stride) {
  for (int i = 0; i < n_lines; ++i) fetch(lines + i * stride);
}

// Lines of a tile's values, one for each pair of keys.
STOKER_INLINE void fetch_values(const AttendArgs& a, const int32_t* blocks, int at) {
  for (int b = 0; b < kTileBlocks; ++b) {
    const uint8_t* values = a.values + static_cast<size_t>(blocks[b]) * a.block_stride;
    fetch_lines(values + at, kBlockTokens / 2, ptrdiff_t{4} * a.head_size);
  }
}

// Calls work(Count of tile) for the unit's blocks of keys.
template <class Work>
STOKER_INLINE void for_blocks(const TileUnit& unit, Work&& work) {
  for_tiles<kTileBlocks>([&](auto block) {
    if (block.value >= unit.first_block && block.value < unit.end_block) work(block);
  });
}

// Where the values of each 32 keys are: pairs of keys, [16][head_size][2].
using Halves = const uint8_t* [kHalves];

// Copies values, with zeros for keys that `seen` has no bit for. Returns whether all numbers are finite then.
static bool copy_values(const uint8_t* from, int head_size, uint32_t seen, uint8_t* to) {
  const __m512i exponent = _mm512_set1_epi16(0x7f80);
  __mmask32 infinite = 0;
  for (int pair = 0; pair < kBlockTokens / 2; ++pair) {
    const __m512i mask = pair_mask(seen, pair);
    for (int at = 0; at < 4 * head_size; at += 64, from += 64, to += 64) {
      const __m512i values = _mm512_and_si512(_mm512_loadu_si512(from), mask);
      infinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(values, exponent), exponent);
      _mm512_storeu_si512(to, values);
    }
  }
  return infinite == 0;
}

// Finds the values that rows `first` to `last` of the unit see: as they are stored if the blocks of a half stand side
// by side and all rows see them whole; else copies, with zeros for keys that no row sees. Returns whether all numbers
// that were copied are finite.
static bool find_values(const AttendArgs& a, const TileWorking& w, const TileUnit& unit, int first, int last,
                        Halves& halves) {
  const Sight of_first = sight_of(a, first, unit.begin), of_last = sight_of(a, last, unit.begin);
  const Sight any{of_first.first, of_last.end};
  const size_t part_bytes = kv_part_bytes(KvType::bf16, a.head_size);
  bool finite = true;
  for (int half = unit.first_half(); half < unit.end_half(); ++half) {
    const int32_t* blocks = unit.blocks + 2 * half;
    const bool whole = of_last.first <= kHalfTokens * half && of_first.end >= kHalfTokens * (half + 1);
    if (whole && blocks[1] == blocks[0] + 1 && a.block_stride == part_bytes) {
      halves[half] = a.values + static_cast<size_t>(blocks[0]) * part_bytes;
      continue;
    }
    uint8_t* copy = w.values + static_cast<size_t>(2 * half) * part_bytes;
    halves[half] = copy;
    for (int b = 2 * half; b < 2 * half + 2; ++b, copy += part_bytes) {
      const uint32_t seen = any.lanes(b);
      if (seen == 0) {
        std::memset(copy, 0, part_bytes);  // there may be no such block
      } else {
        const uint8_t* values = a.values + static_cast<size_t>(unit.blocks[b]) * a.block_stride;
        finite = copy_values(values, a.head_size, seen, copy) && finite;
      }
    }
  }
  return finite;
}

}  // namespace stoker::STOKER_ISA
