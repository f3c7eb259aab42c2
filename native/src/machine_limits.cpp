#include "machine_limits.h"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "float_mode.h"
#include "memory.h"
#include "thread_pool.h"

#if defined(STOKER_X86_64)
#include <immintrin.h>
#endif

namespace stoker {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// A pass is long beside what its chunks cost to claim, and short, so that some pass is disturbed by nobody.
constexpr int kChunksPerThread = 4;
constexpr double kChunkSeconds = 100e-6;
constexpr size_t kPassBytes = size_t{16} << 20;

#if defined(STOKER_X86_64)
__attribute__((target("avx512f,avx512bf16"))) double bf16_loop(int n_rounds, float* out) {
  constexpr int kSums = 16;
  __m512 sums[kSums];
  for (int i = 0; i < kSums; ++i) sums[i] = _mm512_set1_ps(static_cast<float>(i));
  const auto a = (__m512bh)_mm512_loadu_si512(out);
  for (int round = 0; round < n_rounds; ++round) {
    for (int i = 0; i < kSums; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], a, a);
  }
  for (int i = 1; i < kSums; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  _mm512_storeu_ps(out, _mm512_mul_ps(sums[0], _mm512_setzero_ps()));
  return 2.0 * 2 * kLanes * kSums * n_rounds;
}
#endif

// The most that `chunk(pass, index, thread)`, which returns how much it has done, does in a second on all threads
// together.
template <class Chunk>
double best_rate(ThreadPool& pool, double seconds, Chunk&& chunk) {
  const int n_chunks = kChunksPerThread * pool.size();
  std::vector<double> done(static_cast<size_t>(n_chunks));
  double best = 0.0;
  const auto begin = Clock::now();
  for (size_t pass = 0; pass == 0 || seconds_since(begin) < seconds; ++pass) {
    const auto pass_begin = Clock::now();
    pool.run(n_chunks, [&](int index, int thread) { done[static_cast<size_t>(index)] = chunk(pass, index, thread); });
    const double elapsed = seconds_since(pass_begin);
    double sum = 0.0;
    for (const double each : done) sum += each;
    best = std::max(best, sum / elapsed);
  }
  return best;
}

struct alignas(64) Vector {
  float lanes[kLanes];
};

double loop_rate(ThreadPool& pool, double seconds, double (*loop)(int, float*)) {
  Vector scratch{};
  int n_rounds = 16;
  for (double elapsed = 0.0; elapsed < kChunkSeconds && n_rounds < (1 << 28);) {
    n_rounds *= 2;
    const auto begin = Clock::now();
    loop(n_rounds, scratch.lanes);
    elapsed = seconds_since(begin);
  }
  std::vector<Vector> vectors(static_cast<size_t>(pool.size()));
  return best_rate(pool, seconds,
                   [&](size_t, int, int thread) { return loop(n_rounds, vectors[static_cast<size_t>(thread)].lanes); });
}

// Reads an array again and again, at most kPassBytes of it in a pass.
double read_rate(ThreadPool& pool, const Kernels& kernels, size_t size, double seconds) {
  const Memory memory(size);
  std::memset(memory.as<uint8_t>(), 1, size);  // pages that were never written are all one page
  std::vector<Vector> vectors(static_cast<size_t>(pool.size()));
  const size_t pass_size = std::min(size, kPassBytes);
  const size_t n_slices = size / pass_size;
  const size_t chunk_size = pass_size / static_cast<size_t>(kChunksPerThread * pool.size()) / 512 * 512;
  return best_rate(pool, seconds, [&](size_t pass, int index, int thread) {
    const size_t at = pass % n_slices * pass_size + static_cast<size_t>(index) * chunk_size;
    kernels.read_loop(memory.as<uint8_t>() + at, chunk_size, vectors[static_cast<size_t>(thread)].lanes);
    return static_cast<double>(chunk_size);
  });
}

}  // namespace

Limits measure_limits(const Kernels& kernels, int n_threads, size_t memory_bytes, size_t cache_bytes, double seconds) {
  const FloatMode float_mode;
  ThreadPool pool(n_threads);
  Limits limits{};
  limits.dot_ops = loop_rate(pool, seconds, kernels.dot_loop);
  limits.fma_ops = loop_rate(pool, seconds, kernels.fma_loop);
#if defined(STOKER_X86_64)
  if (__builtin_cpu_supports("avx512bf16")) limits.bf16_ops = loop_rate(pool, seconds, bf16_loop);
#endif
  limits.memory_bytes = read_rate(pool, kernels, memory_bytes, seconds);
  limits.cache_bytes = read_rate(pool, kernels, cache_bytes, seconds);
  return limits;
}

}  // namespace stoker
