// Matrix products: a few rows of activations times one column block of 16 outputs, for every weight type.
//
// A row's sum runs over the inputs in order, whatever the number of rows in a call, so all row counts give the
// same bits. Integer sums inside a group are exact and may be split freely.

namespace stoker::STOKER_ISA {

// Weights are scale_w * c + minimum_w, activations scale_a * q + offset_a, with integer codes c and q. So per group:
//   out += scale_w * (scale_a * sum(c q) + offset_a * sum(c)) + minimum_w * sum of activations
template <int kRows>
STOKER_INLINE void finish_group(const I32* dots, I32 code_sums, const GroupMeta* meta, int meta_stride,
                                const uint8_t* tail, F32* sums) {
  const auto* halves = reinterpret_cast<const uint16_t*>(tail);
  const F32 scale = load_half(halves);
  const F32 minimum = load_half(halves + kLanes);
  const F32 codes = to_float(code_sums);
  for (int r = 0; r < kRows; ++r) {
    const GroupMeta& m = meta[r * meta_stride];
    const F32 product = fma(splat(m.offset), codes, mul(to_float(dots[r]), splat(m.scale)));
    sums[r] = fma(product, scale, sums[r]);
    sums[r] = fma(splat(m.sum), minimum, sums[r]);
  }
}

static const int8_t kOnes[4] = {1, 1, 1, 1};

template <int kRows>
static void rows_u4(const uint8_t* block, int k, const int8_t* codes, const GroupMeta* meta, float* out,
                    ptrdiff_t stride) {
  F32 sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  const int n_groups = k / kGroup;
  for (int g = 0; g < n_groups; ++g, block += 256 + sizeof(QuantGroupTail)) {
    I32 dots[kRows];
    for (int r = 0; r < kRows; ++r) dots[r] = zero_int();
    I32 code_sums = zero_int();
    for (int v = 0; v < 4; ++v) {
      const I32 bytes = load_bytes(block + 64 * v);
      const I32 low = low_nibbles(bytes);
      const I32 high = high_nibbles(bytes);
      code_sums = dot4(dot4(code_sums, low, kOnes), high, kOnes);
      for (int r = 0; r < kRows; ++r) {
        const int8_t* a = codes + static_cast<ptrdiff_t>(r) * k + g * kGroup + 8 * v;
        dots[r] = dot4(dots[r], low, a);
        dots[r] = dot4(dots[r], high, a + 4);
      }
    }
    finish_group<kRows>(dots, code_sums, meta + g, n_groups, block + 256, sums);
  }
  for (int r = 0; r < kRows; ++r) store(out + r * stride, sums[r]);
}

template <int kRows>
static void rows_u8(const uint8_t* block, int k, const int8_t* codes, const GroupMeta* meta, float* out,
                    ptrdiff_t stride) {
  F32 sums[kRows];
  for (int r = 0; r < kRows; ++r) sums[r] = zero();
  const int n_groups = k / kGroup;
  for (int g = 0; g < n_groups; ++g, block += 512 + sizeof(QuantGroupTail)) {
    I32 dots[kRows];
    for (int r = 0; r < kRows; ++r) dots[r] = zero_int();
    I32 code_sums = zero_int();
    for (int v = 0; v < 8; ++v) {
      const I32 weights = load_bytes(block + 64 * v);
      code_sums = dot4(code_sums, weights, kOnes);
      for (int r = 0; r < kRows; ++r) {
        dots[r] = dot4(dots[r], weights, codes + static_cast<ptrdiff_t>(r) * k + g * kGroup + 4 * v);
      }
    }
    finish_group<kRows>(dots, code_sums, meta + g, n_groups, block + 512, sums);
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
  const int8_t* codes = input.codes + static_cast<ptrdiff_t>(row) * k;
  const GroupMeta* meta = input.meta + static_cast<ptrdiff_t>(row) * (k / kGroup);
  const float* values = input.values + static_cast<ptrdiff_t>(row) * k;
  switch (matrix.type) {
    case WeightType::u4: rows_u4<kRows>(block, k, codes, meta, out, stride); return;
    case WeightType::u8: rows_u8<kRows>(block, k, codes, meta, out, stride); return;
    case WeightType::f16: rows_float<WeightType::f16, kRows>(block, k, values, out, stride); return;
    case WeightType::bf16: rows_float<WeightType::bf16, kRows>(block, k, values, out, stride); return;
    case WeightType::f32: rows_float<WeightType::f32, kRows>(block, k, values, out, stride); return;
  }
}

static void matmul(const PackedMatrix& matrix, const Activations& input, int row_begin, int row_end, int block_begin,
                   int block_end, float* out, ptrdiff_t stride) {
  for (int b = block_begin; b < block_end; ++b) {
    const uint8_t* block = matrix.memory.as<uint8_t>() + static_cast<size_t>(b) * matrix.block_size;
    float* column = out + (b - block_begin) * kLanes;
    int row = row_begin;
    const auto at = [&](int r) { return column + (r - row_begin) * stride; };
    for (; row + 12 <= row_end; row += 12) rows_any<12>(matrix, block, input, row, at(row), stride);
    for (; row + 8 <= row_end; row += 8) rows_any<8>(matrix, block, input, row, at(row), stride);
    for (; row + 4 <= row_end; row += 4) rows_any<4>(matrix, block, input, row, at(row), stride);
    for (; row + 2 <= row_end; row += 2) rows_any<2>(matrix, block, input, row, at(row), stride);
    for (; row < row_end; ++row) rows_any<1>(matrix, block, input, row, at(row), stride);
  }
}

}  // namespace stoker::STOKER_ISA
