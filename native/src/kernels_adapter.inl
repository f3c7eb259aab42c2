// The two products of an adapter, over matrices in bf16 or fp32.

namespace stoker::STOKER_ISA {

// Every output is the sum of so many partial sums over every so manieth input: a single row would otherwise wait for
// one addition after the other.
constexpr int kAdapterChains = 4;
constexpr int kAdapterRows = kMaxRows >= 8 ? 4 : 1;  // that share a pass over the weights

template <WeightType kType, int kRows>
static void adapter_rows(const uint8_t* block, int k, float scale, const float* values, ptrdiff_t stride,
                         const int32_t* rows, float* out, ptrdiff_t out_stride) {
  F32 sums[kRows][kAdapterChains];
  const float* x[kRows];
  for (int r = 0; r < kRows; ++r) {
    x[r] = values + rows[r] * stride;
    for (int chain = 0; chain < kAdapterChains; ++chain) sums[r][chain] = zero();
  }
  for (int i = 0; i < k; i += kAdapterChains) {
    for (int chain = 0; chain < kAdapterChains; ++chain) {
      const F32 weights = load_weights<kType>(block, i + chain);
      for (int r = 0; r < kRows; ++r) sums[r][chain] = fma(splat(x[r][i + chain]), weights, sums[r][chain]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const F32 sum = add(add(sums[r][0], sums[r][1]), add(sums[r][2], sums[r][3]));
    store(out + rows[r] * out_stride, mul(sum, splat(scale)));
  }
}

template <WeightType kType>
static void adapter_down(const PackedMatrix& down, float scale, const float* values, ptrdiff_t stride,
                         const int32_t* rows, int n_rows, float* out, ptrdiff_t out_stride) {
  const uint8_t* block = down.memory.as<uint8_t>();
  for (int lane = 0; lane < down.n; lane += kLanes, block += down.block_size, out += kLanes) {
    int r = 0;
    for (; r + kAdapterRows <= n_rows; r += kAdapterRows) {
      adapter_rows<kType, kAdapterRows>(block, down.k, scale, values, stride, rows + r, out, out_stride);
    }
    for (; r < n_rows; ++r) {
      adapter_rows<kType, 1>(block, down.k, scale, values, stride, rows + r, out, out_stride);
    }
  }
}

static void adapt_down(const PackedMatrix& down, float scale, const float* values, ptrdiff_t stride,
                       const int32_t* rows, int n_rows, float* out, ptrdiff_t out_stride) {
  if (down.type == WeightType::f32) {
    adapter_down<WeightType::f32>(down, scale, values, stride, rows, n_rows, out, out_stride);
  } else {
    adapter_down<WeightType::bf16>(down, scale, values, stride, rows, n_rows, out, out_stride);
  }
}

template <WeightType kType>
static void adapter_up(const PackedMatrix& up, const float* low, int block_begin, int block_end, float* out) {
  for (int b = block_begin; b < block_end; ++b, out += kLanes) {
    const uint8_t* block = up.memory.as<uint8_t>() + static_cast<size_t>(b) * up.block_size;
    F32 sum = zero();
    for (int i = 0; i < up.k; ++i) sum = fma(splat(low[i]), load_weights<kType>(block, i), sum);
    store(out, add(load(out), sum));
  }
}

static void adapt_up(const PackedMatrix& up, const float* low, int block_begin, int block_end, float* out) {
  if (up.type == WeightType::f32) {
    adapter_up<WeightType::f32>(up, low, block_begin, block_end, out);
  } else {
    adapter_up<WeightType::bf16>(up, low, block_begin, block_end, out);
  }
}

}  // namespace stoker::STOKER_ISA
