// Attention over paged KV with an online softmax.
//
// A piece of at most 512 keys is walked in tiles of 64. A tile's keys and values are widened to fp32 once into
// scratch (keys [head_size][64], values [64][head_size]) and used by every row and head of the call. Tiles and
// pieces begin at multiples of their size in absolute positions and a row takes part only in those where it sees keys,
// which its own position and the window decide, so a row's arithmetic is the same whatever rows share the call.

namespace stoker::STOKER_ISA {

constexpr int kWidenedVectors = kTileTokens / 16;
static_assert(kWidenedVectors % kPairVectors == 0);

// Widens the keys and values [first_key, n_keys) of the tile that begins at position `begin`, and the others of their
// blocks.
static void widen_tile(const AttendArgs& a, int begin, int first_key, int n_keys, float* keys, float* values) {
  for (int b = first_key / kBlockTokens; b * kBlockTokens < n_keys; ++b) {
    const auto block = static_cast<size_t>(a.block_table[begin / kBlockTokens + b]) * a.block_stride;
    widen_keys(a.keys + block, a.kv_type, a.head_size, keys + b * kBlockTokens);
    widen_values(a.values + block, a.kv_type, a.head_size, values + b * kBlockTokens * a.head_size);
  }
}

struct Pair {
  const float* query;
  float* maximum;
  float* sum;
  float* accumulator;
};

// Widened keys and values, and which of them the pairs at hand see.
struct KeyTile {
  const float* keys;
  const float* values;
  int head_size;
  float softcap;
  int first_key;
  int n_keys;  // exclusive

  bool whole() const { return first_key == 0 && n_keys == kTileTokens; }
};

// accumulator = accumulator * rescale + sum over keys of weight * value, for kVectors vectors of the head.
template <int kPairs, int kVectors>
STOKER_INLINE void accumulate(const Pair* pairs, const float (*weights)[kTileTokens], const float* rescale,
                              const KeyTile& tile, int offset) {
  F32 sums[kPairs][kVectors];
  for (int p = 0; p < kPairs; ++p) {
    for (int v = 0; v < kVectors; ++v) {
      sums[p][v] = mul(load(pairs[p].accumulator + offset + 16 * v), splat(rescale[p]));
    }
  }
  for (int key = tile.first_key; key < tile.n_keys; ++key) {
    F32 value[kVectors];
    for (int v = 0; v < kVectors; ++v) value[v] = load(tile.values + key * tile.head_size + offset + 16 * v);
    for (int p = 0; p < kPairs; ++p) {
      const F32 weight = splat(weights[p][key]);
      for (int v = 0; v < kVectors; ++v) sums[p][v] = fma(weight, value[v], sums[p][v]);
    }
  }
  for (int p = 0; p < kPairs; ++p) {
    for (int v = 0; v < kVectors; ++v) store(pairs[p].accumulator + offset + 16 * v, sums[p][v]);
  }
}

// Scores of a tile's keys from 16 * vector on, kPairVectors vectors of them.
template <int kPairs>
STOKER_INLINE void score(const Pair* pairs, const float* keys, int head_size, int vector,
                         F32 (*scores)[kWidenedVectors]) {
  F32 sums[kPairs][kPairVectors];
  for (int p = 0; p < kPairs; ++p) {
    for (int v = 0; v < kPairVectors; ++v) sums[p][v] = zero();
  }
  for (int d = 0; d < head_size; ++d) {
    F32 key[kPairVectors];
    for (int v = 0; v < kPairVectors; ++v) key[v] = load(keys + d * kTileTokens + 16 * (vector + v));
    for (int p = 0; p < kPairs; ++p) {
      const F32 query = splat(pairs[p].query[d]);
      for (int v = 0; v < kPairVectors; ++v) sums[p][v] = fma(query, key[v], sums[p][v]);
    }
  }
  for (int p = 0; p < kPairs; ++p) {
    for (int v = 0; v < kPairVectors; ++v) scores[p][vector + v] = sums[p][v];
  }
}

STOKER_INLINE int lanes_before(int key, int vector) {
  const int n = key - 16 * vector;
  return n < 0 ? 0 : n > 16 ? 16 : n;
}

// One tile for kPairs pairs that all see the same keys of it. The others may be unwritten memory: selected away, never
// multiplied.
template <int kPairs>
static void attend_tile(const Pair* pairs, const KeyTile& tile) {
  F32 scores[kPairs][kWidenedVectors];
  for (int v = 0; v < kWidenedVectors; v += kPairVectors) score<kPairs>(pairs, tile.keys, tile.head_size, v, scores);
  float weights[kPairs][kTileTokens];
  float rescale[kPairs];
  const F32 minus_infinity = splat(-__builtin_inff());
  const bool whole = tile.whole();
  for (int p = 0; p < kPairs; ++p) {
    if (tile.softcap > 0.0f) {
      for (int v = 0; v < kWidenedVectors; ++v) scores[p][v] = soft_capped(scores[p][v], tile.softcap);
    }
    if (!whole) {
      for (int v = 0; v < kWidenedVectors; ++v) {
        scores[p][v] = select(first_lanes(lanes_before(tile.n_keys, v)), scores[p][v], minus_infinity);
        scores[p][v] = select(first_lanes(lanes_before(tile.first_key, v)), minus_infinity, scores[p][v]);
      }
    }
    const F32 highest = max(max(scores[p][0], scores[p][1]), max(scores[p][2], scores[p][3]));
    const float old_maximum = *pairs[p].maximum;
    const float tile_maximum = max_lanes(highest);
    const float maximum = tile_maximum > old_maximum ? tile_maximum : old_maximum;
    F32 exponentials[kWidenedVectors];
    for (int v = 0; v < kWidenedVectors; ++v) {
      exponentials[v] = exp(sub(scores[p][v], splat(maximum)));
      if (!whole) exponentials[v] = select(greater(scores[p][v], minus_infinity), exponentials[v], zero());
      store(weights[p] + 16 * v, exponentials[v]);
    }
    rescale[p] = old_maximum == maximum ? 1.0f : exp_scalar(old_maximum - maximum);
    *pairs[p].maximum = maximum;
    *pairs[p].sum = *pairs[p].sum * rescale[p] +
                    sum_lanes(add(add(exponentials[0], exponentials[1]), add(exponentials[2], exponentials[3])));
  }
  int offset = 0;
  if constexpr (kPairVectors > 2) {
    for (; offset + 16 * kPairVectors <= tile.head_size; offset += 16 * kPairVectors) {
      accumulate<kPairs, kPairVectors>(pairs, weights, rescale, tile, offset);
    }
  }
  for (; offset < tile.head_size; offset += 32) accumulate<kPairs, 2>(pairs, weights, rescale, tile, offset);
}

// n_pairs is in [1, kPairs].
template <int kPairs = kMaxPairs>
static void attend_some(const Pair* pairs, int n_pairs, const KeyTile& tile) {
  if constexpr (kPairs > 1) {
    if (n_pairs < kPairs) return attend_some<kPairs - 1>(pairs, n_pairs, tile);
  }
  attend_tile<kPairs>(pairs, tile);
}

// The rows and heads that see keys of the tile that begins at position `begin`, as many at once as see the same.
static void attend_rows(const AttendArgs& a, int begin, KeyTile tile) {
  Pair pairs[kMaxPairs];
  int n_pairs = 0;
  for (int row = 0; row < a.n_rows; ++row) {
    const int position = a.first_position + row;
    const int hidden = first_seen(position, a.window) - begin;
    const int visible = position + 1 - begin;
    if (visible <= 0 || hidden >= kTileTokens) continue;
    const int first_key = hidden > 0 ? hidden : 0;
    const int n_keys = visible < kTileTokens ? visible : kTileTokens;
    for (int head = 0; head < a.group; ++head) {
      if (n_pairs == kMaxPairs || (n_pairs > 0 && (tile.n_keys != n_keys || tile.first_key != first_key))) {
        attend_some(pairs, n_pairs, tile);
        n_pairs = 0;
      }
      const int i = row * a.group + head;
      pairs[n_pairs++] = {a.queries + row * a.query_stride + head * a.head_size, a.maximum + i, a.sum + i,
                          a.accumulator + i * a.head_size};
      tile.first_key = first_key;
      tile.n_keys = n_keys;
    }
  }
  if (n_pairs > 0) attend_some(pairs, n_pairs, tile);
}

static void attend_widened(const AttendArgs& a) {
  float* keys = a.scratch;
  float* values = a.scratch + kTileTokens * a.head_size;
  const int last_position = a.first_position + a.n_rows - 1;
  const int first_row = a.key_begin > a.first_position ? a.key_begin - a.first_position : 0;
  for (int i = first_row * a.group; i < a.n_rows * a.group; ++i) {
    a.maximum[i] = -__builtin_inff();
    a.sum[i] = 0.0f;
    for (int d = 0; d < a.head_size; d += 16) store(a.accumulator + i * a.head_size + d, zero());
  }
  const int first = first_seen(a.first_position, a.window);
  const int end = a.key_end < last_position + 1 ? a.key_end : last_position + 1;
  for (int begin = a.key_begin; begin < end; begin += kTileTokens) {
    if (begin + kTileTokens <= first) continue;
    const int first_key = first > begin ? first - begin : 0;
    const int n_keys = end - begin < kTileTokens ? end - begin : kTileTokens;
    widen_tile(a, begin, first_key, n_keys, keys, values);
    attend_rows(a, begin, {keys, values, a.head_size, a.softcap, first_key, n_keys});
  }
}

static void attend(const AttendArgs& a) {
#if defined(STOKER_ATTENDS_TILES)
  if (a.kv_type == KvType::bf16) return attend_tiles(a);
#elif defined(STOKER_ATTENDS_PAIRS)
  if (a.kv_type == KvType::bf16) return attend_pairs(a);
#endif
#if defined(STOKER_ATTENDS_CODES)
  if (a.kv_type == KvType::q8) return attend_codes(a);
#endif
  attend_widened(a);
}

// exp(x), which is exactly 1 for 0.
STOKER_INLINE float merge_factor(float x) { return x == 0.0f ? 1.0f : exp_scalar(x); }

static void merge(float* maximum, float* sum, float* accumulator, float other_maximum, float other_sum,
                  const float* other_accumulator, int head_size) {
  const float highest = *maximum > other_maximum ? *maximum : other_maximum;
  const float factor = merge_factor(*maximum - highest);
  const float other_factor = merge_factor(other_maximum - highest);
  *maximum = highest;
  *sum = *sum * factor + other_sum * other_factor;
  for (int d = 0; d < head_size; d += 16) {
    store(accumulator + d,
          fma(load(accumulator + d), splat(factor), mul(load(other_accumulator + d), splat(other_factor))));
  }
}

}  // namespace stoker::STOKER_ISA
