// A pool of compute threads for one step's parallel regions.
//
// A region is `n_chunks` independent pieces of work. Every thread, the caller included, claims chunks
// from one shared counter, so a thread whose core is busy elsewhere delays at most the chunk it holds.
// Between the regions of a step the workers spin for a bounded time; between steps they sleep on a futex.
#pragma once
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace stoker {

// What regions have taken since chunks are timed.
struct RegionTime {
  uint64_t wall_ns = 0;    // of the thread that ran them
  uint64_t chunks_ns = 0;  // of all threads together, in chunks
};

class ThreadPool {
 public:
  // `n_threads` counts the calling thread. Throws std::system_error when a thread cannot be started.
  explicit ThreadPool(int n_threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Counts the regions begun; for any thread. It stands still while nothing is computed, or when a region hangs.
  uint64_t regions() const { return regions_.load(std::memory_order_relaxed); }
  int size() const { return static_cast<int>(workers_.size()) + 1; }

  // Not while a region runs. Costs a reading of the clock for each chunk while it is on.
  void time_chunks(bool on) { timed_ = on; }
  RegionTime region_time() const { return {region_ns_, chunks_ns_.load(std::memory_order_relaxed)}; }

  // Calls `work(chunk, thread)` once for every chunk in [0, n_chunks), thread in [0, size()), and returns when
  // all are done. One caller at a time; `work` must not throw.
  template <class Work>
  void run(int n_chunks, Work&& work) {
    using Plain = std::remove_reference_t<Work>;
    run_erased(n_chunks, [](void* self, int chunk, int thread) { (*static_cast<Plain*>(self))(chunk, thread); }, &work);
  }

 private:
  using Function = void (*)(void*, int, int);

  void run_erased(int n_chunks, Function function, void* self);
  void run_chunks(int n_chunks, Function function, void* self);
  void run_chunk(int chunk, int thread, uint64_t& since_ns);
  void claim_chunks(uint64_t state, int thread);
  void worker_main(int thread);

  // epoch:24 | n_chunks:20 | next:20 in one word: a claim learns atomically which region it belongs to, so a
  // late worker can neither claim twice nor touch a region that has ended.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int> done_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<uint64_t> regions_{0};
  std::atomic<bool> stop_{false};
  Function function_ = nullptr;
  void* self_ = nullptr;
  bool timed_ = false;  // set between regions, so whoever holds a chunk may read it
  uint64_t region_ns_ = 0;
  std::atomic<uint64_t> chunks_ns_{0};
  std::vector<std::thread> workers_;
};

}  // namespace stoker
