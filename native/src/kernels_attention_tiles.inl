// Attention over KV in bf16 on AMX tiles. A tile product takes 32 dimensions of 16 keys, or 32 keys' values in 16
// dimensions, as they are stored, times 16 queries: heads of rows, in the order of the call. Queries and weights are
// rounded to bf16; sums are fp32.
//
// For each tile of 64 keys, which begin at multiples of 64 in absolute positions: scores begin with minus the query's
// maximum and grow by 32 dimensions after another; sums of weights and of weighted values grow by the tile's first and
// second 32 keys. A query's row of a product depends on nothing but that row, and keys that it does not see have a
// weight of zero, which changes no sum but in the sign of a zero: the end gives all zeros one. So its bits are the same
// whatever shares the call. Zero times what is no number would change them, though: values that a query may not see are
// copied and made zero first (find_values, add_values_apart).
#define STOKER_ATTENDS_TILES  // to kernels_attention.inl

namespace stoker::STOKER_ISA {

// kFetch: fetches the next tile's keys as well.
template <bool kFetch>
static void score_unit(const AttendArgs& a, const TileWorking& w, const TileUnit& unit) {
  const ptrdiff_t query_bytes = ptrdiff_t{2} * a.head_size;
  const uint8_t* queries = w.queries + unit.first * query_bytes;
  const auto stride = static_cast<ptrdiff_t>(a.block_stride);
  for (int d = 0; d < a.head_size; d += 64) {
    const bool both = d + 32 < a.head_size;
    load_tile<kFirstRows>(queries + 2 * d, query_bytes);
    if (both) load_tile<kSecondRows>(queries + 2 * d + 64, query_bytes);
    for_blocks(unit, [&](auto block) {
      constexpr int kScores = decltype(block)::value;
      if constexpr (kFetch) fetch_lines(a.keys + unit.next[kScores] * stride + 32 * d, both ? 32 : 16, 64);
      const uint8_t* keys = a.keys + unit.blocks[kScores] * stride + 32 * d;
      if (d == 0) load_tile<kScores>(w.bases + ptrdiff_t{unit.first} * 16, 64);
      load_tile<kFirstStored>(keys, 64);
      multiply_bfloat_tiles<kScores, kFirstRows, kFirstStored>();
      if (!both) return;
      load_tile<kSecondStored>(keys + 1024, 64);
      multiply_bfloat_tiles<kScores, kSecondRows, kSecondStored>();
    });
  }
  for_blocks(unit, [&](auto block) { store_tile<decltype(block)::value>(w.scores + 16 * block.value, kScoreBytes); });
}

// Makes `maximum` what a query's weights are relative to from now on.
__attribute__((noinline, cold)) static void raise_maximum(const AttendArgs& a, const TileWorking& w, int query,
                                                          float maximum) {
  if (a.maximum[query] != -__builtin_inff()) {
    const F32 factor = exp(splat((a.maximum[query] - maximum) * kLn2));
    float* totals = w.totals + ptrdiff_t{query} * a.head_size;
    for (int d = 0; d < a.head_size; d += 16) store(totals + d, mul(load(totals + d), factor));
    store(w.sums + 16 * query, mul(load(w.sums + 16 * query), factor));
  }
  a.maximum[query] = maximum;
  store(w.bases + 16 * query, splat(score_base(a, query)));
}

STOKER_INLINE void store_tile_weights(const F32* scores, const Mask* seen, uint8_t* out) {
  for (int v = 0; v < kTileBlocks; v += 2) {
    const F32 low = _mm512_maskz_mov_ps(seen[v], exp2_roughly(scores[v]));
    const F32 high = _mm512_maskz_mov_ps(seen[v + 1], exp2_roughly(scores[v + 1]));
    _mm512_storeu_si512(out + 32 * v, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

// Weights of kN queries that see all keys and have a maximum already.
template <int kN>
STOKER_INLINE void weigh_whole(const AttendArgs& a, const TileWorking& w, int query, const float* from, uint8_t* out) {
  constexpr Mask kAll[kTileBlocks] = {0xffff, 0xffff, 0xffff, 0xffff};
  F32 scores[kN][kTileBlocks];
  uint32_t raised = 0;  // not the highest of all queries: what is no number in one would hide the others'
  for (int q = 0; q < kN; ++q) {
    for (int v = 0; v < kTileBlocks; ++v) scores[q][v] = load(from + q * kTileTokens + 16 * v);
    const F32 highest = max(max(scores[q][0], scores[q][1]), max(scores[q][2], scores[q][3]));
    raised |= mask_bits(greater(highest, splat(kPairSlack)));
  }
  if (__builtin_expect(raised != 0, 0)) {
    for (int q = 0; q < kN; ++q) settle_scores<kTileBlocks>(a, w, query + q, kAll, kPairSlack, scores[q]);
  }
  for (int q = 0; q < kN; ++q) store_tile_weights(scores[q], kAll, out + q * kWeightBytes);
}

static void weigh_unit(const AttendArgs& a, const TileWorking& w, const TileUnit& unit) {
  const int n = unit.end - unit.first;
  const F32 maxima = _mm512_mask_loadu_ps(zero(), first_lanes(n), a.maximum + unit.first);
  int i = 0;
  if (unit.whole && a.softcap == 0.0f && !mask_bits(greater(splat(-3.4e38f), maxima))) {
    for (; i + 4 <= n; i += 4) {
      weigh_whole<4>(a, w, unit.first + i, w.scores + i * kTileTokens, w.weights + i * kWeightBytes);
    }
    for (; i < n; ++i) {
      weigh_whole<1>(a, w, unit.first + i, w.scores + i * kTileTokens, w.weights + i * kWeightBytes);
    }
  }
  for (; i < n; ++i) {
    const Sight sight = sight_of(a, (unit.first + i) / a.group, unit.begin);
    Mask seen[kTileBlocks];
    F32 of_query[kTileBlocks];
    for (int v = 0; v < kTileBlocks; ++v) {
      seen[v] = sight.lanes(v);
      of_query[v] = load(w.scores + i * kTileTokens + 16 * v);
    }
    settle_scores<kTileBlocks>(a, w, unit.first + i, seen, kPairSlack, of_query);
    store_tile_weights(of_query, seen, w.weights + i * kWeightBytes);
  }
}

// The weights of the unit's halves into the tiles of rows.
static void load_weights(const TileWorking& w, const TileUnit& unit) {
  if (unit.first_half() == 0) load_tile<kFirstRows>(w.weights, kWeightBytes);
  if (unit.end_half() == kHalves) load_tile<kSecondRows>(w.weights + 2 * kHalfTokens, kWeightBytes);
}

// Adds the products of loaded weights and `stored` rows, `stride` bytes apart, to a tile of `sums`.
template <int kSums>
STOKER_INLINE void add_halves(const TileUnit& unit, const Halves& stored, ptrdiff_t at, ptrdiff_t stride, float* sums,
                              ptrdiff_t sums_stride) {
  load_tile<kSums>(sums, sums_stride);
  if (unit.first_half() == 0) {
    load_tile<kFirstStored>(stored[0] + at, stride);
    multiply_bfloat_tiles<kSums, kFirstRows, kFirstStored>();
  }
  if (unit.end_half() == kHalves) {
    load_tile<kSecondStored>(stored[1] + at, stride);
    multiply_bfloat_tiles<kSums, kSecondRows, kSecondStored>();
  }
  store_tile<kSums>(sums, sums_stride);
}

// totals += weights * values. kFetch: fetches the next tile's values as well.
template <bool kFetch>
static void add_values(const AttendArgs& a, const TileUnit& unit, const Halves& halves, float* totals) {
  const ptrdiff_t stride = ptrdiff_t{4} * a.head_size;
  for (int d = 0; d < a.head_size; d += 32) {
    for_tiles<2>([&](auto tile) {
      const int at = 4 * d + 64 * tile.value;
      if constexpr (kFetch) fetch_values(a, unit.next, at);
      if (d % 64 == 0) {
        add_halves<decltype(tile)::value>(unit, halves, at, stride, totals + d + 16 * tile.value, stride);
      } else {
        add_halves<2 + decltype(tile)::value>(unit, halves, at, stride, totals + d + 16 * tile.value, stride);
      }
    });
  }
}

// The same sums, of each row by itself with only the values that it sees.
__attribute__((noinline, cold)) static void add_values_apart(const AttendArgs& a, const TileWorking& w,
                                                             const TileUnit& unit, float* totals) {
  const size_t row_bytes = static_cast<size_t>(a.head_size) * sizeof(float);
  for (int row = unit.first_row; row <= unit.last_row; ++row) {
    Halves halves;
    find_values(a, w, unit, row, row, halves);
    std::memcpy(w.apart, totals, static_cast<size_t>(unit.end - unit.first) * row_bytes);
    add_values<false>(a, unit, halves, w.apart);
    for (int i = unit.first; i < unit.end; ++i) {
      const ptrdiff_t at = ptrdiff_t{i - unit.first} * a.head_size;
      if (i / a.group == row) std::memcpy(totals + at, w.apart + at, row_bytes);
    }
  }
}

static void add_unit(const AttendArgs& a, const TileWorking& w, const TileUnit& unit) {
  float* totals = w.totals + ptrdiff_t{unit.first} * a.head_size;
  load_weights(w, unit);
  // The sum of what the values are multiplied by, whatever it was rounded to.
  add_halves<kFirstSum>(unit, {w.ones, w.ones}, 0, 64, w.sums + ptrdiff_t{unit.first} * 16, 64);
  Halves halves;
  if (!find_values(a, w, unit, unit.first_row, unit.last_row, halves)) return add_values_apart(a, w, unit, totals);
  unit.next == nullptr ? add_values<false>(a, unit, halves, totals) : add_values<true>(a, unit, halves, totals);
}

static void begin_tiles(const AttendArgs& a, const TileWorking& w) {
  const int n_queries = a.n_rows * a.group;
  std::memset(w.sums, 0, static_cast<size_t>(w.apart - w.sums) * sizeof(float));
  for (int at = 0; at < kHalfTokens / 2 * 64; at += 64) _mm512_storeu_si512(w.ones + at, _mm512_set1_epi16(0x3f80));
  round_queries(a, w.queries);
  for (int i = 0; i < n_queries; ++i) a.maximum[i] = -__builtin_inff();
}

static void end_tiles(const AttendArgs& a, const TileWorking& w) {
  for (int i = 0; i < a.n_rows * a.group; ++i) {
    a.maximum[i] *= kLn2;
    a.sum[i] = w.sums[16 * i];
    const ptrdiff_t at = ptrdiff_t{i} * a.head_size;
    for (int d = 0; d < a.head_size; d += 16) store(a.accumulator + at + d, add(load(w.totals + at + d), zero()));
  }
}

// A unit's scores are computed before the sums of the one before it, whose weights are still on their way to memory.
static void attend_tiles(const AttendArgs& a) {
  const TileWorking w(a);
  const int n_queries = a.n_rows * a.group;
  const KeyRange keys = keys_of(a);
  const size_t part_bytes = kv_part_bytes(KvType::bf16, a.head_size);
  begin_tiles(a, w);
  configure_attention_tiles(n_queries);
  TileUnit before{};
  bool any_before = false;
  for (int begin = keys.begin; begin < keys.end; begin += kTileTokens) {
    const int32_t* next = next_blocks<true>(a, begin, keys.end, part_bytes);
    for (int first = 0; first < n_queries; first += kTileQueries) {
      const TileUnit unit = unit_of(a, begin, first, next);
      if (unit.first_row > unit.last_row) continue;
      if (any_before) weigh_unit(a, w, before);
      next == nullptr ? score_unit<false>(a, w, unit) : score_unit<true>(a, w, unit);
      if (any_before) add_unit(a, w, before);
      before = unit;
      any_before = true;
    }
  }
  if (any_before) {
    weigh_unit(a, w, before);
    add_unit(a, w, before);
  }
  release_tiles();
  end_tiles(a, w);
}

}  // namespace stoker::STOKER_ISA
