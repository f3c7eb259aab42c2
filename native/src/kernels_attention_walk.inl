// How attention over KV as it is stored walks through a piece. kernels_attention_pairs.inl and
// kernels_attention_codes.inl do what is left: scores, weights and weighted sums.
//
// A piece of keys is walked in tiles of 64, which begin at multiples of 64 in absolute positions. A query (one head of
// one row) takes part in those vectors of 16 keys of a tile that hold a key which its row sees. Its position and the
// window decide that, so its arithmetic is the same whatever rows share the call.
//
// Scores are in powers of two: the queries come with log2(e) in them. The maximum that a query's weights are relative
// to is lazy: it moves only when a score exceeds it by more than `slack`, so that most tiles need no maximum over
// lanes and no rescaling.

namespace stoker::STOKER_ISA {

constexpr int kQueries = 4;      // that share loads of keys and values
constexpr int kQueryBatch = 48;  // whose weights for a tile are computed before their sums of values
constexpr int kFewQueries = 16;  // so few do not outlast the memory's delay: the next tile is fetched meanwhile
constexpr float kLog2E = 1.44269504f, kLn2 = 0.693147181f;
constexpr float kPairSlack = 8.0f;  // of weights in bf16: below 2^8 they are as precise as elsewhere
static_assert(kQueryBatch % kQueries == 0);

// The keys [first, end) of a tile that a row sees.
struct Sight {
  int first, end;

  bool any() const { return first < end; }
  bool whole() const { return first % 16 == 0 && end % 16 == 0; }
  Mask lanes(int vector) const { return before(end, vector) & ~before(first, vector); }

 private:
  static Mask before(int key, int vector) {
    const int n = key - 16 * vector;
    return n >= 16 ? 0xffff : n <= 0 ? 0 : static_cast<Mask>((1u << n) - 1);
  }
};

STOKER_INLINE Sight sight_of(const AttendArgs& a, int row, int begin) {
  const int position = a.first_position + row;
  const int first = first_seen(position, a.window) - begin;
  const int end = position + 1 - begin;
  return {first > 0 ? first : 0, end < kTileTokens ? end : kTileTokens};
}

// Queries [first, end) that see keys of vectors [first_vector, end_vector) of the tile that begins at `begin`.
struct Run {
  int begin;
  int first, end;
  int first_vector, end_vector;
  const int32_t* blocks;  // the tile's
  bool whole;             // all of them see all keys of these vectors
  const int32_t* next;    // blocks of the next tile, to be fetched meanwhile, or null

  int n_vectors() const { return end_vector - first_vector; }
};

// Working memory of a call, by query.
struct Working {
  uint8_t* queries;  // [n][2 * head_size] as the products want them
  float* sums;       // [n][16] of weights, not yet summed over the lanes
  float* others;     // [n][16]
  float* numbers;    // [n][3]
  uint8_t* weights;  // [kQueryBatch][2 * kTileTokens] as the products want them

  explicit Working(const AttendArgs& a) {
    const ptrdiff_t n = ptrdiff_t{a.n_rows} * a.group;
    sums = a.scratch;
    others = sums + 16 * n;
    weights = reinterpret_cast<uint8_t*>(others + 16 * n);
    queries = weights + kQueryBatch * 2 * kTileTokens;
    numbers = reinterpret_cast<float*>(queries + n * 2 * a.head_size);
  }
};

STOKER_INLINE const float* query_of(const AttendArgs& a, int query) {
  return a.queries + query / a.group * a.query_stride + query % a.group * a.head_size;
}

// Calls work(run) for the tile's queries, as many at once as see the same vectors.
template <class Work>
STOKER_INLINE void for_runs(const AttendArgs& a, int begin, const int32_t* next, Work&& work) {
  Run run{begin, 0, 0, 0, 0, a.block_table + begin / kBlockTokens, true, next};
  for (int row = 0; row < a.n_rows; ++row) {
    const Sight sight = sight_of(a, row, begin);
    if (!sight.any()) continue;
    const int first_vector = sight.first / 16, end_vector = (sight.end + 15) / 16;
    if (run.end != row * a.group || run.first_vector != first_vector || run.end_vector != end_vector) {
      if (run.first < run.end) work(run);
      run.first = row * a.group;
      run.first_vector = first_vector;
      run.end_vector = end_vector;
      run.whole = true;
    }
    run.whole = run.whole && sight.whole();
    run.end = (row + 1) * a.group;
  }
  if (run.first < run.end) work(run);
}

// Into the second cache level: fetches into the first one would hold the buffers that its misses need.
STOKER_INLINE void fetch(const uint8_t* line) { __builtin_prefetch(line, 0, 2); }

STOKER_INLINE void fetch_parts(const AttendArgs& a, const int32_t* blocks, int n_blocks, size_t part_bytes) {
  for (int b = 0; b < n_blocks; ++b) {
    const size_t at = static_cast<size_t>(blocks[b]) * a.block_stride;
    for (size_t line = 0; line < part_bytes; line += 64) fetch(a.keys + at + line);
    for (size_t line = 0; line < part_bytes; line += 64) fetch(a.values + at + line);
  }
}

// The first query whose row sees keys of the piece, unless the window hides them.
STOKER_INLINE int first_query(const AttendArgs& a) {
  return a.key_begin > a.first_position ? (a.key_begin - a.first_position) * a.group : 0;
}

// Where the tiles begin that hold a key which some row sees.
struct KeyRange {
  int begin, end;
};

STOKER_INLINE KeyRange keys_of(const AttendArgs& a) {
  const int last = a.first_position + a.n_rows;
  const int first = first_seen(a.first_position, a.window) / kTileTokens * kTileTokens;
  return {a.key_begin > first ? a.key_begin : first, a.key_end < last ? a.key_end : last};
}

// The blocks of the next tile if queries are few, to be fetched beside the work on the tile at `begin`; null where that
// reads too little for it or the next tile is the last, which is fetched at once.
template <bool kFetches>
STOKER_INLINE const int32_t* next_blocks(const AttendArgs& a, int begin, int end, size_t part_bytes) {
  const int next = begin + kTileTokens;
  if (a.n_rows * a.group > kFewQueries || next >= end) return nullptr;
  const int32_t* blocks = a.block_table + next / kBlockTokens;
  const bool whole = sight_of(a, a.n_rows - 1, begin).first == 0 && sight_of(a, 0, begin).end == kTileTokens;
  if (kFetches && whole && next + kTileTokens <= end) return blocks;
  fetch_parts(a, blocks, ((end < next + kTileTokens ? end : next + kTileTokens) - next + 15) / 16, part_bytes);
  return nullptr;
}

// Walks through the piece. `work` does a run of queries. kFetches: and fetches the blocks of `run.next` beside it.
template <bool kFetches, class Work>
STOKER_INLINE void walk(const AttendArgs& a, const Working& w, size_t part_bytes, Work&& work) {
  const int n_queries = a.n_rows * a.group;
  for (int i = first_query(a); i < n_queries; ++i) {
    a.maximum[i] = -__builtin_inff();
    store(w.sums + 16 * i, zero());
    store(w.others + 16 * i, zero());
    for (int d = 0; d < a.head_size; d += 16) store(a.accumulator + ptrdiff_t{i} * a.head_size + d, zero());
  }
  const KeyRange keys = keys_of(a);
  for (int begin = keys.begin; begin < keys.end; begin += kTileTokens) {
    const int32_t* next = next_blocks<kFetches>(a, begin, keys.end, part_bytes);
    for_runs(a, begin, next, [&](Run run) {
      const int end_query = run.end;
      for (; run.first < end_query; run.first += kQueryBatch) {
        run.end = end_query < run.first + kQueryBatch ? end_query : run.first + kQueryBatch;
        work(run);
      }
    });
  }
  for (int i = first_query(a); i < n_queries; ++i) {
    a.maximum[i] *= kLn2;
    a.sum[i] = sum_lanes(load(w.sums + 16 * i));
  }
}

// Makes `maximum` what a query's weights are relative to from now on.
__attribute__((noinline, cold)) static void raise_maximum(const AttendArgs& a, const Working& w, int query,
                                                          float maximum) {
  const F32 factor = exp(splat((a.maximum[query] - maximum) * kLn2));
  float* sums = a.accumulator + ptrdiff_t{query} * a.head_size;
  for (int d = 0; d < a.head_size; d += 16) store(sums + d, mul(load(sums + d), factor));
  store(w.sums + 16 * query, mul(load(w.sums + 16 * query), factor));
  store(w.others + 16 * query, mul(load(w.others + 16 * query), factor));
  a.maximum[query] = maximum;
}

// 2^x with a relative error below 2^-13; 0 where that is below the floats.
STOKER_INLINE F32 exp2_roughly(F32 x) {
  const F32 r = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF);  // what is above the next lower whole number
  F32 p = splat(7.80245231e-02f);
  p = fma(p, r, splat(2.26067168e-01f));
  p = fma(p, r, splat(6.95833529e-01f));
  p = fma(p, r, splat(9.99925220e-01f));
  return _mm512_scalef_ps(p, x);
}

__attribute__((noinline)) static F32 capped_score(F32 score, float cap) {
  return mul(soft_capped(score, cap), splat(kLog2E));
}

// What sums of products with keys begin with, so that they become scores relative to the query's maximum.
STOKER_INLINE float score_base(const AttendArgs& a, int query) {
  const float maximum = a.maximum[query];
  return a.softcap > 0.0f || maximum == -__builtin_inff() ? 0.0f : -maximum;
}

// Makes of such scores, of kVectors vectors of keys, those that count: capped and relative to the maximum, which is
// raised where a score of a key that the query sees exceeds it by more than `slack`.
template <int kVectors, class AnyWorking>
STOKER_INLINE void settle_scores(const AttendArgs& a, const AnyWorking& w, int query, const Mask* seen, float slack,
                                 F32* scores) {
  if (a.softcap > 0.0f) {
    const F32 maximum = splat(a.maximum[query] == -__builtin_inff() ? 0.0f : a.maximum[query]);
    for (int v = 0; v < kVectors; ++v) scores[v] = sub(capped_score(scores[v], a.softcap), maximum);
  }
  F32 highest = splat(-__builtin_inff());
  for (int v = 0; v < kVectors; ++v) highest = _mm512_mask_max_ps(highest, seen[v], highest, scores[v]);
  const bool first = a.maximum[query] == -__builtin_inff();
  if (mask_bits(greater(highest, splat(first ? -__builtin_inff() : slack))) != 0) {
    const float step = max_lanes(highest);
    raise_maximum(a, w, query, first ? step : a.maximum[query] + step);
    for (int v = 0; v < kVectors; ++v) scores[v] = sub(scores[v], splat(step));
  }
}

template <int kN>
struct Count {
  static constexpr int value = kN;
};

// Calls work(Count of queries, first of them) for at most kQueries of a run at a time.
template <class Work>
STOKER_INLINE void for_chunks(const Run& run, Work&& work) {
  int query = run.first;
  for (; query + kQueries <= run.end; query += kQueries) work(Count<kQueries>{}, query);
  switch (run.end - query) {
    case 1: return work(Count<1>{}, query);
    case 2: return work(Count<2>{}, query);
    case 3: return work(Count<3>{}, query);
    default: return;
  }
}

// What queries are multiplied by before their products with keys.
STOKER_INLINE float query_factor(const AttendArgs& a) { return a.softcap > 0.0f ? 1.0f : kLog2E; }

#if defined(__AVX512BF16__)

// The queries, times their factor, in bf16.
static void round_queries(const AttendArgs& a, uint8_t* out) {
  const F32 factor = splat(query_factor(a));
  auto* halves = reinterpret_cast<uint16_t*>(out);
  for (int row = 0; row < a.n_rows; ++row) {
    const float* queries = a.queries + row * a.query_stride;
    for (int i = 0; i < a.group * a.head_size; i += 16, halves += 16) {
      store_bfloat(halves, mul(load(queries + i), factor));
    }
  }
}

#endif

// Keeps those values of a pair of keys that `seen` has; it has a bit for each key of a block.
STOKER_INLINE __m512i pair_mask(uint32_t seen, int pair) {
  const uint32_t both = seen >> 2 * pair & 3;
  return _mm512_set1_epi32(static_cast<int>((both & 1) * 0xffffu | (both >> 1) * 0xffff0000u));
}

}  // namespace stoker::STOKER_ISA
