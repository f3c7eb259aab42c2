// Loops that do nothing but what bounds the other kernels. They measure the processor (machine_limits.h) and compute
// nothing that anybody wants; `out` takes one vector of it, so that nothing is left out.

namespace stoker::STOKER_ISA {

constexpr int kRoundVectors = 16;  // vectors that a round reads again and again, in the first cache level

static double fma_loop(int n_rounds, float* out) {
  float vectors[kRoundVectors * kLanes], factors[kMaxRows];
  for (int i = 0; i < kRoundVectors * kLanes; ++i) vectors[i] = out[i % kLanes] + 1e-3f;
  for (int r = 0; r < kMaxRows; ++r) factors[r] = out[r] + 1e-3f;
  F32 sums[kMaxRows];
  for (int r = 0; r < kMaxRows; ++r) sums[r] = splat(factors[r]);
  for (int round = 0; round < n_rounds; ++round) {
    for (int v = 0; v < kRoundVectors; ++v) {
      const F32 x = load(vectors + v * kLanes);
      for (int r = 0; r < kMaxRows; ++r) sums[r] = fma(splat(factors[r]), x, sums[r]);
    }
  }
  for (int r = 1; r < kMaxRows; ++r) sums[0] = add(sums[0], sums[r]);
  store(out, mul(sums[0], splat(0.0f)));
  return 2.0 * kLanes * kMaxRows * kRoundVectors * n_rounds;
}

static void read_loop(const uint8_t* data, size_t size, float* out) {
  constexpr int kVectors = 8;
  constexpr int kAhead = 4096;  // bytes: the processor's own prefetcher starts anew at every page
  I32 sums[kVectors];
  for (int v = 0; v < kVectors; ++v) sums[v] = zero_int();
  for (size_t at = 0; at + 64 * kVectors <= size; at += 64 * kVectors) {
    for (int v = 0; v < kVectors; ++v) {
      __builtin_prefetch(data + at + 64 * v + kAhead);
      sums[v] = add_int(sums[v], load_bytes(data + at + 64 * v));
    }
  }
  for (int v = 1; v < kVectors; ++v) sums[0] = add_int(sums[0], sums[v]);
  store(out, mul(to_float(sums[0]), splat(0.0f)));
}

}  // namespace stoker::STOKER_ISA
