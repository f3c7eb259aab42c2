// The integer products that kernels_matmul.inl is made of, alone: one register of weights times kMaxRows rows.

namespace stoker::STOKER_ISA {

static double dot_loop(int n_rounds, float* out) {
  uint8_t weights[kRoundVectors * 64];
  int8_t inputs[4 * kMaxRows];
  for (int i = 0; i < kRoundVectors * 64; ++i) weights[i] = static_cast<uint8_t>((i + (out[0] > 0)) % 16);
  for (int i = 0; i < 4 * kMaxRows; ++i) inputs[i] = static_cast<int8_t>(i + (out[1] > 0));
  Dots dots[kMaxRows];
  for (int r = 0; r < kMaxRows; ++r) dots[r] = zero_dots();
  for (int round = 0; round < n_rounds; ++round) {
    for (int v = 0; v < kRoundVectors; ++v) {
      const I32 w = load_bytes(weights + 64 * v);
      for (int r = 0; r < kMaxRows; ++r) dots[r] = dot4(dots[r], w, inputs + 4 * r);
    }
  }
  I32 sums = zero_int();
  for (int r = 0; r < kMaxRows; ++r) sums = add_int(sums, sums_of(dots[r]));
  store(out, mul(to_float(sums), splat(0.0f)));
  return 2.0 * 4 * kLanes * kMaxRows * kRoundVectors * n_rounds;
}

#if defined(__AVX512BF16__)

static double bfloat_loop(int n_rounds, float* out) {
  constexpr int kSums = 16;
  F32 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = splat(static_cast<float>(i));
  const auto pairs = (__m512bh)_mm512_loadu_si512(out);
  for (int round = 0; round < n_rounds; ++round) {
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], pairs, pairs);
  }
  for (int i = 1; i < kSums; ++i) sums[0] = add(sums[0], sums[i]);
  store(out, mul(sums[0], splat(0.0f)));
  return 2.0 * 2 * kLanes * kSums * n_rounds;
}

#endif

}  // namespace stoker::STOKER_ISA
