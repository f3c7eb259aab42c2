// Attention over KV in q8 with AVX512-VNNI: a product of quads takes four dimensions of 16 keys, or four keys' values
// in 16 dimensions, as they are stored.
//
// Queries and weights are whole numbers of 16 bits, coarse * 256 + fine with both in int8, so two products give each
// sum, exactly. A key is code * scale + minimum, so a score is
//   scale * query_scale * sum(code * query_code) + minimum * sum(query)
// and likewise a tile's weighted values, where a token's scale is put into its weight.

namespace stoker::STOKER_ISA {

constexpr float kMostWeight = 127.0f * 256.0f;  // code of a weight of 1 whose token has the tile's largest scale

STOKER_INLINE I32 dot_quads(I32 acc, I32 codes, const void* quad) {
  int32_t four;
  std::memcpy(&four, quad, sizeof four);
  return _mm512_dpbusd_epi32(acc, codes, _mm512_set1_epi32(four));
}

// The tail of a part.
struct Scales {
  F32 scale, minimum;
};

STOKER_INLINE Scales scales_of(const uint8_t* part, int head_size) {
  const I32 tail = load_bytes(part + head_size * kBlockTokens);
  return {first_bfloats(tail), second_bfloats(tail)};
}

STOKER_INLINE void store_twice(uint8_t* coarse, uint8_t* fine, I32 codes) {
  const I32 high = nearest_256th(codes);
  store_int8(reinterpret_cast<int8_t*>(coarse), high);
  store_int8(reinterpret_cast<int8_t*>(fine), sub_int(codes, times_256(high)));
}

// A query as codes that no sum of products with keys' codes can overflow; `numbers` gets its scale and its sum.
static void code_query(const float* query, int head_size, float factor, uint8_t* codes, float* numbers) {
  F32 largest = zero();
  for (int d = 0; d < head_size; d += 16) largest = max(largest, abs(load(query + d)));
  const float range = max_lanes(largest);
  const int most = 0x7fffffff / 255 / head_size;
  const float steps = most < 32512 ? static_cast<float>(most) : 32512.0f;
  const float inverse = range >= kLeastRange ? steps / range : 0.0f;
  I32 sum = zero_int();
  for (int d = 0; d < head_size; d += 16) {
    const F32 at = mul(load(query + d), splat(inverse));
    const I32 code = to_int(min(max(at, splat(-steps)), splat(steps)));
    sum = add_int(sum, code);
    store_twice(codes + d, codes + head_size + d, code);
  }
  const float scale = range / steps * factor;
  numbers[0] = scale;
  numbers[1] = scale * static_cast<float>(sum_lanes_int(sum));
}

// Weights of kVectors vectors of keys for the queries [query, query + kN), into the batch's rows.
template <int kN, int kVectors>
static void code_weights(const AttendArgs& a, const Working& w, const Run& run, int query) {
  const uint8_t* keys[kVectors];
  Scales of_keys[kVectors], of_values[kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const size_t at = static_cast<size_t>(run.blocks[run.first_vector + v]) * a.block_stride;
    keys[v] = a.keys + at;
    of_keys[v] = scales_of(a.keys + at, a.head_size);
    of_values[v] = scales_of(a.values + at, a.head_size);
  }
  const ptrdiff_t query_bytes = 2 * a.head_size;
  I32 dots[kN][kVectors];
  for (int q = 0; q < kN; ++q) {
    for (int v = 0; v < kVectors; ++v) dots[q][v] = zero_int();
  }
  for (int part = 0; part < 2; ++part) {
    const uint8_t* codes = w.queries + query * query_bytes + part * a.head_size;
    for (int d = 0; d < a.head_size; d += 4) {
      I32 key[kVectors];
      for (int v = 0; v < kVectors; ++v) key[v] = load_bytes(keys[v] + 16 * d);
      for (int q = 0; q < kN; ++q) {
        for (int v = 0; v < kVectors; ++v) dots[q][v] = dot_quads(dots[q][v], key[v], codes + q * query_bytes + d);
      }
    }
    for (int q = 0; q < kN && part == 0; ++q) {
      for (int v = 0; v < kVectors; ++v) dots[q][v] = times_256(dots[q][v]);
    }
  }
  for (int q = 0; q < kN; ++q) {
    const int i = query + q;
    const Sight sight = sight_of(a, i / a.group, run.begin);
    float* numbers = w.numbers + 3 * i;
    const F32 base = splat(score_base(a, i));
    F32 scores[kVectors];
    Mask seen[kVectors];
    F32 largest = zero();
    for (int v = 0; v < kVectors; ++v) {
      seen[v] = sight.lanes(run.first_vector + v);
      scores[v] = fma(mul(to_float(dots[q][v]), splat(numbers[0])), of_keys[v].scale,
                      fma(of_keys[v].minimum, splat(numbers[1]), base));
      largest = _mm512_mask_max_ps(largest, seen[v], largest, of_values[v].scale);
    }
    settle_scores<kVectors>(a, w, i, seen, 0.0f, scores);
    const float scale = max_lanes(largest) / kMostWeight;
    const F32 inverse = splat(scale > 0.0f ? 1.0f / scale : 0.0f);
    numbers[2] = scale;
    F32 sums = load(w.sums + 16 * i), minimums = load(w.others + 16 * i);
    uint8_t* out = w.weights + (i - run.first) * 2 * kTileTokens + 16 * run.first_vector;
    for (int v = 0; v < kVectors; ++v) {
      const F32 weight = _mm512_maskz_mov_ps(seen[v], exp2_roughly(scores[v]));
      sums = add(sums, weight);
      minimums = _mm512_mask3_fmadd_ps(weight, of_values[v].minimum, minimums, seen[v]);
      const I32 code = to_int(_mm512_maskz_mul_ps(seen[v], mul(weight, of_values[v].scale), inverse));
      store_twice(out + 16 * v, out + kTileTokens + 16 * v, code);
    }
    store(w.sums + 16 * i, sums);
    store(w.others + 16 * i, minimums);
  }
}

// accumulator += weights * values for the queries [query, query + kN) and kVectors vectors of dimensions from `d` on.
// What a query does not see has the weight 0, and any code is a finite number.
template <int kN, int kVectors>
static void code_values(const AttendArgs& a, const Working& w, const Run& run, int query, int d) {
  I32 dots[kN][kVectors];
  for (int q = 0; q < kN; ++q) {
    for (int v = 0; v < kVectors; ++v) dots[q][v] = zero_int();
  }
  for (int part = 0; part < 2; ++part) {
    const uint8_t* weights = w.weights + (query - run.first) * 2 * kTileTokens + part * kTileTokens;
    for (int b = run.first_vector; b < run.end_vector; ++b) {
      const uint8_t* values = a.values + static_cast<size_t>(run.blocks[b]) * a.block_stride + 4 * d;
      for (int quad = 0; quad < 4; ++quad, values += 4 * a.head_size) {
        I32 value[kVectors];
        for (int v = 0; v < kVectors; ++v) value[v] = load_bytes(values + 64 * v);
        for (int q = 0; q < kN; ++q) {
          const uint8_t* four = weights + q * 2 * kTileTokens + 16 * b + 4 * quad;
          for (int v = 0; v < kVectors; ++v) dots[q][v] = dot_quads(dots[q][v], value[v], four);
        }
      }
    }
    for (int q = 0; q < kN && part == 0; ++q) {
      for (int v = 0; v < kVectors; ++v) dots[q][v] = times_256(dots[q][v]);
    }
  }
  float* accumulator = a.accumulator + ptrdiff_t{query} * a.head_size + d;
  for (int q = 0; q < kN; ++q) {
    const F32 scale = splat(w.numbers[3 * (query + q) + 2]);
    for (int v = 0; v < kVectors; ++v) {
      float* sums = accumulator + q * a.head_size + 16 * v;
      store(sums, fma(to_float(dots[q][v]), scale, load(sums)));
    }
  }
}

template <int kN>
static void code_weights_of(const AttendArgs& a, const Working& w, const Run& run, int query) {
  switch (run.n_vectors()) {
    case 1: return code_weights<kN, 1>(a, w, run, query);
    case 2: return code_weights<kN, 2>(a, w, run, query);
    case 3: return code_weights<kN, 3>(a, w, run, query);
    default: return code_weights<kN, 4>(a, w, run, query);
  }
}

template <int kN>
static void code_values_of(const AttendArgs& a, const Working& w, const Run& run, int query) {
  int d = 0;
  for (; d + 64 <= a.head_size; d += 64) code_values<kN, 4>(a, w, run, query, d);
  if (d < a.head_size) code_values<kN, 2>(a, w, run, query, d);
}

static void attend_codes(const AttendArgs& a) {
  const Working w(a);
  const int n_queries = a.n_rows * a.group;
  for (int i = 0; i < n_queries; ++i) {
    code_query(query_of(a, i), a.head_size, query_factor(a), w.queries + ptrdiff_t{i} * 2 * a.head_size,
               w.numbers + 3 * i);
  }
  walk(a, w, kv_part_bytes(KvType::q8, a.head_size), [&](const Run& run) {
    for_chunks(run, [&](auto n, int query) { code_weights_of<decltype(n)::value>(a, w, run, query); });
    for_chunks(run, [&](auto n, int query) { code_values_of<decltype(n)::value>(a, w, run, query); });
  });
  for (int i = first_query(a); i < n_queries; ++i) {
    const F32 minimum = splat(sum_lanes(load(w.others + 16 * i)));
    float* sums = a.accumulator + ptrdiff_t{i} * a.head_size;
    for (int d = 0; d < a.head_size; d += 16) store(sums + d, add(load(sums + d), minimum));
  }
}

}  // namespace stoker::STOKER_ISA
