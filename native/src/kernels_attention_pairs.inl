// Attention over KV in bf16 with AVX512_BF16: a product of pairs takes two dimensions of 16 keys, or two keys' values
// in 16 dimensions, as they are stored. Queries and weights are rounded to bf16; sums are fp32.
#define STOKER_ATTENDS_PAIRS  // to kernels_attention.inl

namespace stoker::STOKER_ISA {

STOKER_INLINE __m512bh load_pairs(const void* p) { return (__m512bh)_mm512_loadu_si512(p); }

STOKER_INLINE __m512bh splat_pair(const void* p) {
  int32_t pair;
  std::memcpy(&pair, p, sizeof pair);
  return (__m512bh)_mm512_set1_epi32(pair);
}

STOKER_INLINE F32 dot_pairs(F32 acc, __m512bh a, __m512bh b) { return _mm512_dpbf16_ps(acc, a, b); }

// The weights that scores of kVectors vectors of keys become, into the batch's row of query `i`.
template <int kVectors>
STOKER_INLINE void store_pair_weights(const AttendArgs& a, const Working& w, const Run& run, int i, const Mask* seen,
                                      F32* scores) {
  settle_scores<kVectors>(a, w, i, seen, kPairSlack, scores);
  const auto ones = (__m512bh)_mm512_set1_epi16(0x3f80);
  F32 weights[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    weights[v] = _mm512_maskz_mov_ps(seen[v], exp2_roughly(scores[v]));
  }
  uint8_t* out = w.weights + (i - run.first) * 2 * kTileTokens + 32 * run.first_vector;
  F32 sums = load(w.sums + 16 * i);
  int v = 0;
  for (; v + 2 <= kVectors; v += 2) {
    const __m512bh both = _mm512_cvtne2ps_pbh(weights[v + 1], weights[v]);
    _mm512_storeu_si512(out + 32 * v, (__m512i)both);
    sums = dot_pairs(sums, both, ones);
  }
  if (v < kVectors) {
    const __m512i one = _mm512_zextsi256_si512((__m256i)_mm512_cvtneps_pbh(weights[v]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * v), _mm512_castsi512_si256(one));
    sums = dot_pairs(sums, (__m512bh)one, ones);
  }
  store(w.sums + 16 * i, sums);
}

// Weights of kVectors vectors of keys for the queries [query, query + kN). kWhole: of a run that sees all of them.
// kFetch: fetches the next tile's keys as well.
template <int kN, int kVectors, bool kWhole, bool kFetch = false>
static void pair_weights(const AttendArgs& a, const Working& w, const Run& run, int query) {
  const uint8_t* keys[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    keys[v] = a.keys + static_cast<size_t>(run.blocks[run.first_vector + v]) * a.block_stride;
  }
  const uint8_t* next[kVectors];
  for (int v = 0; kFetch && v < kVectors; ++v) next[v] = a.keys + static_cast<size_t>(run.next[v]) * a.block_stride;
  const ptrdiff_t query_bytes = 2 * a.head_size;
  const uint8_t* queries = w.queries + query * query_bytes;
  F32 scores[kN][kVectors];
  for (int q = 0; q < kN; ++q) {
    for (int v = 0; v < kVectors; ++v) scores[q][v] = splat(score_base(a, query + q));
  }
  for (ptrdiff_t d = 0; d < query_bytes; d += 4) {
    __m512bh key[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      key[v] = load_pairs(keys[v] + 16 * d);
      if constexpr (kFetch) fetch(next[v] + 16 * d);
    }
    for (int q = 0; q < kN; ++q) {
      const __m512bh pair = splat_pair(queries + q * query_bytes + d);
      for (int v = 0; v < kVectors; ++v) scores[q][v] = dot_pairs(scores[q][v], key[v], pair);
    }
  }
  if constexpr (kWhole) {
    constexpr Mask kAll[4] = {0xffff, 0xffff, 0xffff, 0xffff};
#pragma GCC unroll 4
    for (int q = 0; q < kN; ++q) store_pair_weights<kVectors>(a, w, run, query + q, kAll, scores[q]);
    return;
  }
  for (int q = 0; q < kN; ++q) {
    const Sight sight = sight_of(a, (query + q) / a.group, run.begin);
    Mask seen[kVectors];
    for (int v = 0; v < kVectors; ++v) seen[v] = sight.lanes(run.first_vector + v);
    store_pair_weights<kVectors>(a, w, run, query + q, seen, scores[q]);
  }
}

STOKER_INLINE const uint8_t* value_pairs(const AttendArgs& a, const Run& run, int block, int d) {
  return a.values + static_cast<size_t>(run.blocks[block]) * a.block_stride + 4 * d;
}

// Blocks of a tile.
struct Blocks {
  int first, end;
};

// accumulator += weights * values for the queries [query, query + kN) and kVectors vectors of dimensions from `d` on.
// kFetch: fetches the next tile's values as well.
template <int kN, int kVectors, bool kFetch>
static void add_pairs(const AttendArgs& a, const Working& w, const Run& run, Blocks blocks, int query, int d) {
  float* accumulator = a.accumulator + ptrdiff_t{query} * a.head_size + d;
  F32 sums[kN][kVectors];
  for (int q = 0; q < kN; ++q) {
    for (int v = 0; v < kVectors; ++v) sums[q][v] = load(accumulator + q * a.head_size + 16 * v);
  }
  const ptrdiff_t pair_bytes = 4 * a.head_size;
  const uint8_t* weights = w.weights + (query - run.first) * 2 * kTileTokens + 32 * blocks.first;
  for (int b = blocks.first; b < blocks.end; ++b) {
    const uint8_t* values = value_pairs(a, run, b, d);
    const ptrdiff_t to_next =
        kFetch ? (ptrdiff_t{run.next[b]} - run.blocks[b]) * static_cast<ptrdiff_t>(a.block_stride) : 0;
    for (int pair = 0; pair < kBlockTokens / 2; ++pair, values += pair_bytes, weights += 4) {
      __m512bh value[kVectors];
      for (int v = 0; v < kVectors; ++v) {
        value[v] = load_pairs(values + 64 * v);
        if constexpr (kFetch) fetch(values + 64 * v + to_next);
      }
      for (int q = 0; q < kN; ++q) {
        const __m512bh weight = splat_pair(weights + q * 2 * kTileTokens);
        for (int v = 0; v < kVectors; ++v) sums[q][v] = dot_pairs(sums[q][v], value[v], weight);
      }
    }
  }
  for (int q = 0; q < kN; ++q) {
    for (int v = 0; v < kVectors; ++v) store(accumulator + q * a.head_size + 16 * v, sums[q][v]);
  }
}

// The same in the same order for one query, of which only the keys that it sees are touched: what lies beyond may be
// anything.
static void add_seen_pairs(const AttendArgs& a, const Working& w, const Run& run, Blocks blocks, int query) {
  float* accumulator = a.accumulator + ptrdiff_t{query} * a.head_size;
  const Sight sight = sight_of(a, query / a.group, run.begin);
  for (int b = blocks.first; b < blocks.end; ++b) {
    const uint8_t* weights = w.weights + (query - run.first) * 2 * kTileTokens + 32 * b;
    const uint32_t seen = sight.lanes(b);
    __m512i masks[kBlockTokens / 2];
    for (int pair = 0; pair < kBlockTokens / 2; ++pair) masks[pair] = pair_mask(seen, pair);
    for (int d = 0; d < a.head_size; d += 32) {
      const uint8_t* values = value_pairs(a, run, b, d);
      F32 first = load(accumulator + d), second = load(accumulator + d + 16);
      for (int pair = 0; pair < kBlockTokens / 2; ++pair, values += 4 * a.head_size) {
        const __m512bh weight = splat_pair(weights + 4 * pair);
        first = dot_pairs(first, (__m512bh)_mm512_and_si512(_mm512_loadu_si512(values), masks[pair]), weight);
        second = dot_pairs(second, (__m512bh)_mm512_and_si512(_mm512_loadu_si512(values + 64), masks[pair]), weight);
      }
      store(accumulator + d, first);
      store(accumulator + d + 16, second);
    }
  }
}

template <int kN, bool kWhole>
static void pair_weights_of(const AttendArgs& a, const Working& w, const Run& run, int query) {
  switch (run.n_vectors()) {
    case 1: return pair_weights<kN, 1, kWhole>(a, w, run, query);
    case 2: return pair_weights<kN, 2, kWhole>(a, w, run, query);
    case 3: return pair_weights<kN, 3, kWhole>(a, w, run, query);
    default: return pair_weights<kN, 4, kWhole>(a, w, run, query);
  }
}

template <int kN, bool kFetch>
static void pair_values(const AttendArgs& a, const Working& w, const Run& run, Blocks blocks, int query) {
  int d = 0;
  for (; d + 64 <= a.head_size; d += 64) add_pairs<kN, 4, kFetch>(a, w, run, blocks, query, d);
  if (d < a.head_size) add_pairs<kN, 2, kFetch>(a, w, run, blocks, query, d);
}

static void pair_values_of(const AttendArgs& a, const Working& w, const Run& run) {
  // The queries ascend: what the first and the last one see whole, all do.
  const int first = (sight_of(a, (run.end - 1) / a.group, run.begin).first + 15) / 16;
  const int end = sight_of(a, run.first / a.group, run.begin).end / 16;
  const Blocks whole = first < end ? Blocks{first, end} : Blocks{run.end_vector, run.end_vector};
  const auto add_seen = [&](Blocks blocks) {
    if (blocks.first >= blocks.end) return;
    for (int query = run.first; query < run.end; ++query) add_seen_pairs(a, w, run, blocks, query);
  };
  add_seen({run.first_vector, whole.first});
  if (whole.first < whole.end) {
    for_chunks(run, [&](auto n, int query) {
      if (run.next != nullptr && query == run.first) {
        pair_values<decltype(n)::value, true>(a, w, run, whole, query);
      } else {
        pair_values<decltype(n)::value, false>(a, w, run, whole, query);
      }
    });
  }
  add_seen({whole.end, run.end_vector});
}

static void attend_pairs(const AttendArgs& a) {
  const Working w(a);
  round_queries(a, w.queries);
  walk<true>(a, w, kv_part_bytes(KvType::bf16, a.head_size), [&](const Run& run) {
    if (run.whole) {
      for_chunks(run, [&](auto n, int query) {
        if (run.next != nullptr && query == run.first) {
          pair_weights<decltype(n)::value, kTileTokens / 16, true, true>(a, w, run, query);
        } else {
          pair_weights_of<decltype(n)::value, true>(a, w, run, query);
        }
      });
    } else {
      for_chunks(run, [&](auto n, int query) { pair_weights_of<decltype(n)::value, false>(a, w, run, query); });
    }
    pair_values_of(a, w, run);
  });
}

}  // namespace stoker::STOKER_ISA
