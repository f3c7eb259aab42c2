// Matrix products: a few rows of activations times one column block of 16 outputs, for every weight type.
//
// A row's sum runs over the inputs in order, whatever the number of rows in a call, so all row counts give the
// same bits. Integer sums inside a group are exact and may be split freely.

namespace stoker::STOKER_ISA {

// What a group of a column block adds to every product, per output.
struct GroupWeights {
  F32 scale;
  F32 minimum;
  F32 code_sums;  // of the group's 32 codes
};

STOKER_INLINE GroupWeights group_weights(const uint8_t* tail, I32 code_sums) {
  const auto* halves = reinterpret_cast<const uint16_t*>(tail);
  return {load_half(halves), load_half(halves + kLanes), to_float(code_sums)};
}

// Weights are scale_w * c + minimum_w, activations scale_a * q + offset_a, with integer codes c and q. So per group:
//   out += scale_w * (scale_a * sum(c q) + offset_a * sum(c)) + minimum_w * sum of activations
STOKER_INLINE F32 add_group(F32 sum, I32 dot, const GroupMeta& m, const GroupWeights& w) {
  const F32 product = fma(splat(m.offset), w.code_sums, mul(to_float(dot), splat(m.scale)));
  return fma(splat(m.sum), w.minimum, fma(product, w.scale, sum));
}

constexpr int kGroupsAhead = 8;  // the processor's own prefetcher starts anew at every 4 KiB page; this one does not

// Fetches what will be read a few groups later; beyond the matrix it is a hint that nobody takes.
template <int kSize>
STOKER_INLINE void prefetch_group(const uint8_t* group) {
  for (int line = 0; line < kSize; line += 64) __builtin_prefetch(group + kGroupsAhead * kSize + line);
}

constexpr int kU4GroupSize = 256 + sizeof(QuantGroupTail);
constexpr int kU8GroupSize = 512 + sizeof(QuantGroupTail);

// Integer products of a u4 group of weights with kRows rows of codes that are `k` apart.
template <int kRows>
STOKER_INLINE GroupWeights u4_dots(const uint8_t* group, int k, const int8_t* codes, I32* dots) {
  prefetch_group<kU4GroupSize>(group);
  Dots of_group[kRows];
  for (int r = 0; r < kRows; ++r) of_group[r] = zero_dots();
  I32 byte_sums = zero_int();  // of 8 codes of 4 bits
  for (int v = 0; v < 4; ++v) {
    const I32 bytes = load_bytes(group + 64 * v);
    const I32 low = low_nibbles(bytes);
    const I32 high = high_nibbles(bytes);
    byte_sums = add_bytes(byte_sums, add_bytes(low, high));
    for (int r = 0; r < kRows; ++r) {
      const int8_t* a = codes + static_cast<ptrdiff_t>(r) * k + 8 * v;
      of_group[r] = dot4(of_group[r], low, a);
      of_group[r] = dot4(of_group[r], high, a + 4);
    }
  }
  for (int r = 0; r < kRows; ++r) dots[r] = sums_of(of_group[r]);
  return group_weights(group + 256, add_codes(zero_int(), byte_sums));
}

// Adds one part of a group's u8 codes, times kRows rows of activations, to `dots`.
template <int kPart, int kRows>
STOKER_INLINE void add_u8_part(const uint8_t* group, int k, const int8_t* codes, I32* dots) {
  static_assert(kU8Parts <= 2);
  Dots of_part[kRows];
  for (int r = 0; r < kRows; ++r) of_part[r] = zero_dots();
  for (int v = 0; v < 8; ++v) {
    const I32 weights = u8_part<kPart>(load_bytes(group + 64 * v));
    for (int r = 0; r < kRows; ++r) {
      of_part[r] = dot4(of_part[r], weights, codes + static_cast<ptrdiff_t>(r) * k + 4 * v);
    }
  }
  for (int r = 0; r < kRows; ++r) dots[r] = add_int(dots[r], sums_of<kPart>(of_part[r]));
}

template <int kRows>
STOKER_INLINE GroupWeights u8_dots(const uint8_t* group, int k, const int8_t* codes, I32* dots) {
  prefetch_group<kU8GroupSize>(group);
  for (int r = 0; r < kRows; ++r) dots[r] = zero_int();
  add_u8_part<0, kRows>(group, k, codes, dots);
  if constexpr (kU8Parts > 1) add_u8_part<1, kRows>(group, k, codes, dots);
  I32 code_sums = zero_int();
  for (int v = 0; v < 8; ++v) code_sums = add_codes(code_sums, load_bytes(group + 64 * v));
  return group_weights(group + 512, code_sums);
}

template <bool kEightBits, int kRows>
STOKER_INLINE GroupWeights group_dots(const uint8_t* group, int k, const int8_t* codes, I32* dots) {
  if constexpr (kEightBits) return u8_dots<kRows>(group, k, codes, dots);
  if constexpr (!kEightBits) return u4_dots<kRows>(group, k, codes, dots);
}

template <bool kEightBits, int kRows>
static void rows_codes(const uint8_t* block, int k, const int8_t* codes, const GroupMeta* meta, Ahead* ahead,
                       float* out, ptrdiff_t stride) {
  constexpr int kSize = kEightBits ? kU8GroupSize : kU4GroupSize;
  const int n_groups = k / kGroup;
  F32 sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  for (int g = 0; g < n_groups; ++g, block += kSize) {
    I32 dots[kRows];
    fetch_ahead(ahead);
    const GroupWeights weights = group_dots<kEightBits, kRows>(block, k, codes + g * kGroup, dots);
    for (int r = 0; r < kRows; ++r) sums[r] = add_group(sums[r], dots[r], meta[g + r * n_groups], weights);
  }
  for (int r = 0; r < kRows; ++r) store(out + r * stride, sums[r]);
}

template <WeightType kType>
STOKER_INLINE F32 load_weights(const uint8_t* block, int i) {
  if constexpr (kType == WeightType::f32) return load(reinterpret_cast<const float*>(block) + i * kLanes);
  if constexpr (kType == WeightType::f16) return load_half(reinterpret_cast<const uint16_t*>(block) + i * kLanes);
  if constexpr (kType == WeightType::bf16) return load_bfloat(reinterpret_cast<const uint16_t*>(block) + i * kLanes);
}

template <WeightType kType, int kRows>
static void rows_float(const uint8_t* block, int k, const float* values, float* out, ptrdiff_t stride) {
  F32 sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  for (int i = 0; i < k; ++i) {
    const F32 weights = load_weights<kType>(block, i);
    for (int r = 0; r < kRows; ++r) {
      sums[r] = fma(splat(values[static_cast<ptrdiff_t>(r) * k + i]), weights, sums[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) store(out + r * stride, sums[r]);
}

template <int kRows>
static void rows_any(const PackedMatrix& matrix, const uint8_t* block, const Activations& input, int row, float* out,
                     ptrdiff_t stride) {
  const int k = matrix.k;
  // The form of the input that the matrix does not want may be a null pointer, which must not be counted from.
  if (matrix.type == WeightType::u4 || matrix.type == WeightType::u8) {
    const int8_t* codes = input.codes + static_cast<ptrdiff_t>(row) * k;
    const GroupMeta* meta = input.meta + static_cast<ptrdiff_t>(row) * (k / kGroup);
    if (matrix.type == WeightType::u4) {
      rows_codes<false, kRows>(block, k, codes, meta, input.ahead, out, stride);
    } else {
      rows_codes<true, kRows>(block, k, codes, meta, input.ahead, out, stride);
    }
    return;
  }
  const float* values = input.values + static_cast<ptrdiff_t>(row) * k;
  switch (matrix.type) {
    case WeightType::f16: rows_float<WeightType::f16, kRows>(block, k, values, out, stride); return;
    case WeightType::bf16: rows_float<WeightType::bf16, kRows>(block, k, values, out, stride); return;
    default: rows_float<WeightType::f32, kRows>(block, k, values, out, stride); return;
  }
}

// n_rows is in [1, kRows].
template <int kRows = kMaxRows>
static void rows_at_once(const PackedMatrix& matrix, const uint8_t* block, const Activations& input, int row,
                         int n_rows, float* out, ptrdiff_t stride) {
  if constexpr (kRows > 1) {
    if (n_rows < kRows) return rows_at_once<kRows - 1>(matrix, block, input, row, n_rows, out, stride);
  }
  rows_any<kRows>(matrix, block, input, row, out, stride);
}

// One column block times `n_rows` rows from `row` on, in as few runs as can be, which are as even as can be: the
// weights are unpacked in each.
static void multiply_block(const PackedMatrix& matrix, const uint8_t* block, const Activations& input, int row,
                           int n_rows, float* out, ptrdiff_t stride) {
  for (int n_runs = (n_rows + kMaxRows - 1) / kMaxRows; n_runs > 0; --n_runs) {
    const int n = (n_rows + n_runs - 1) / n_runs;
    rows_at_once(matrix, block, input, row, n, out, stride);
    row += n;
    n_rows -= n;
    out += n * stride;
  }
}

}  // namespace stoker::STOKER_ISA
