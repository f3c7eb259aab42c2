#include "machine_limits.h"

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <vector>

#include "float_mode.h"
#include "memory.h"
#include "thread_pool.h"

namespace stoker {

namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// A pass is long beside what its chunks cost to claim, and short, so that some pass is disturbed by nobody.
constexpr int kChunksPerThread = 4;
constexpr double kChunkSeconds = 100e-6;
constexpr size_t kPassBytes = size_t{16} << 20;

// Keeps each thread of a pool on a processor of its own, if they are to use all that there are: on a busy machine two
// of them may share one for seconds. The calling thread is let go at the end.
class Pins {
 public:
  explicit Pins(const ThreadPool& pool) : pinned_(static_cast<size_t>(pool.size())) {
    CPU_ZERO(&before_);
    if (sched_getaffinity(0, sizeof before_, &before_) != 0 || CPU_COUNT(&before_) > pool.size()) return;
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
      if (CPU_ISSET(cpu, &before_)) processors_.push_back(cpu);
    }
  }
  ~Pins() {
    if (!processors_.empty()) sched_setaffinity(0, sizeof before_, &before_);
  }
  Pins(const Pins&) = delete;
  Pins& operator=(const Pins&) = delete;

  // To be called by each thread whenever it begins something.
  void pin(int thread) {
    auto& pinned = pinned_[static_cast<size_t>(thread)];
    if (processors_.empty() || pinned != 0) return;
    pinned = 1;
    cpu_set_t own;
    CPU_ZERO(&own);
    CPU_SET(processors_[static_cast<size_t>(thread) % processors_.size()], &own);
    sched_setaffinity(0, sizeof own, &own);  // if it is refused, nothing is lost but exactness
  }

 private:
  cpu_set_t before_;
  std::vector<int> processors_;
  std::vector<char> pinned_;  // by thread
};

// The most that `chunk(pass, index, thread)`, which returns how much it has done, does in a second on all threads
// together.
template <class Chunk>
double best_rate(ThreadPool& pool, Pins& pins, double seconds, Chunk&& chunk) {
  const int n_chunks = kChunksPerThread * pool.size();
  std::vector<double> done(static_cast<size_t>(n_chunks));
  double best = 0.0;
  const auto begin = Clock::now();
  for (size_t pass = 0; pass == 0 || seconds_since(begin) < seconds; ++pass) {
    const auto pass_begin = Clock::now();
    pool.run(n_chunks, [&](int index, int thread) {
      pins.pin(thread);
      done[static_cast<size_t>(index)] = chunk(pass, index, thread);
    });
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

double loop_rate(ThreadPool& pool, Pins& pins, double seconds, double (*loop)(int, float*)) {
  Vector scratch{};
  int n_rounds = 16;
  for (double elapsed = 0.0; elapsed < kChunkSeconds && n_rounds < (1 << 28);) {
    n_rounds *= 2;
    const auto begin = Clock::now();
    loop(n_rounds, scratch.lanes);
    elapsed = seconds_since(begin);
  }
  std::vector<Vector> vectors(static_cast<size_t>(pool.size()));
  return best_rate(pool, pins, seconds,
                   [&](size_t, int, int thread) { return loop(n_rounds, vectors[static_cast<size_t>(thread)].lanes); });
}

// Reads an array again and again, at most kPassBytes of it in a pass.
double read_rate(ThreadPool& pool, Pins& pins, const Kernels& kernels, size_t size, double seconds) {
  const Memory memory(size);
  std::memset(memory.as<uint8_t>(), 1, size);  // pages that were never written are all one page
  std::vector<Vector> vectors(static_cast<size_t>(pool.size()));
  const size_t pass_size = std::min(size, kPassBytes);
  const size_t n_slices = size / pass_size;
  const size_t chunk_size = pass_size / static_cast<size_t>(kChunksPerThread * pool.size()) / 512 * 512;
  return best_rate(pool, pins, seconds, [&](size_t pass, int index, int thread) {
    const size_t at = pass % n_slices * pass_size + static_cast<size_t>(index) * chunk_size;
    kernels.read_loop(memory.as<uint8_t>() + at, chunk_size, vectors[static_cast<size_t>(thread)].lanes);
    return static_cast<double>(chunk_size);
  });
}

}  // namespace

Limits measure_limits(const Kernels& kernels, int n_threads, size_t memory_bytes, size_t cache_bytes, double seconds) {
  const FloatMode float_mode;
  ThreadPool pool(n_threads);
  Pins pins(pool);
  Limits limits{};
  limits.dot_ops = loop_rate(pool, pins, seconds, kernels.dot_loop);
  limits.fma_ops = loop_rate(pool, pins, seconds, kernels.fma_loop);
  if (kernels.bfloat_loop != nullptr) limits.bf16_ops = loop_rate(pool, pins, seconds, kernels.bfloat_loop);
  limits.memory_bytes = read_rate(pool, pins, kernels, memory_bytes, seconds);
  limits.cache_bytes = read_rate(pool, pins, kernels, cache_bytes, seconds);
  return limits;
}

}  // namespace stoker
