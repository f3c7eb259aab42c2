// What the processor allows, measured: multiply-adds of 8-bit integers from registers alone, and bytes read
// from a buffer far larger than the caches, both by all threads at once. Prints two figures a second.
//
// usage: limits THREADS SECONDS
#include <immintrin.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// Dot products of four bytes each in ten registers that do not depend on one another: a multiply and an add
// for each byte. Returns operations.
double dot_products(double seconds) {
  constexpr int kChains = 10, kLoops = 4096;
#if defined(__AVX512VNNI__)
  using Register = __m512i;
  const Register ones = _mm512_set1_epi8(1);
  auto dot = [](Register sum, Register a, Register b) { return _mm512_dpbusd_epi32(sum, a, b); };
#elif defined(__AVXVNNI__)
  using Register = __m256i;
  const Register ones = _mm256_set1_epi8(1);
  auto dot = [](Register sum, Register a, Register b) { return _mm256_dpbusd_avx_epi32(sum, a, b); };
#else
  using Register = __m256i;
  const Register ones = _mm256_set1_epi8(1);
  auto dot = [](Register sum, Register a, Register b) {
    return _mm256_add_epi32(sum, _mm256_madd_epi16(_mm256_maddubs_epi16(a, b), _mm256_set1_epi16(1)));
  };
#endif
  Register sums[kChains] = {};
  double operations = 0;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    for (int i = 0; i < kLoops; ++i) {
      for (int c = 0; c < kChains; ++c) {
        sums[c] = dot(sums[c], ones, ones);
        asm volatile("" : "+v"(sums[c]));
      }
    }
    operations += 2.0 * kLoops * kChains * sizeof(Register);
  }
  return operations;
}

// Adds up a part of the buffer again and again. Returns bytes.
double read_all(const char* data, size_t size, double seconds) {
  double bytes = 0;
  const auto start = Clock::now();
  while (seconds_since(start) < seconds) {
    __m256i sums[4] = {};
    for (size_t i = 0; i + 128 <= size; i += 128) {
      for (int k = 0; k < 4; ++k) {
        const auto* at = reinterpret_cast<const __m256i*>(data + i + 32 * k);
        sums[k] = _mm256_add_epi64(sums[k], _mm256_load_si256(at));
      }
    }
    for (auto& sum : sums) asm volatile("" : "+x"(sum));
    bytes += static_cast<double>(size);
  }
  return bytes;
}

template <typename Work>
double rate(int n_threads, Work work) {
  std::vector<double> done(n_threads);
  std::vector<std::thread> threads;
  const auto start = Clock::now();
  for (int t = 0; t < n_threads; ++t) threads.emplace_back([&, t] { done[t] = work(t); });
  for (auto& thread : threads) thread.join();
  double sum = 0;
  for (double each : done) sum += each;
  return sum / seconds_since(start);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  const int n_threads = std::atoi(arguments[1]);
  const double seconds = std::atof(arguments[2]);
  const size_t part = (size_t{512} << 20) / n_threads & ~size_t{4095};
  auto* buffer = static_cast<char*>(std::aligned_alloc(2 << 20, part * n_threads + (2 << 20)));
  std::memset(buffer, 1, part * n_threads);
  const double operations = rate(n_threads, [&](int) { return dot_products(seconds); });
  const double bytes = rate(n_threads, [&](int t) { return read_all(buffer + t * part, part, seconds); });
  std::printf("%.6g %.6g\n", operations, bytes);
  std::free(buffer);
}
