#include "thread_pool.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <climits>

#include "float_mode.h"

namespace stoker {

namespace {

constexpr int kFieldBits = 20;
constexpr uint64_t kFieldMask = (uint64_t{1} << kFieldBits) - 1;
// How long a worker waits for the next region before it sleeps: longer than the gaps inside a step,
// shorter than anyone would notice on an idle machine.
constexpr std::chrono::microseconds kSpin{50};

int next_chunk(uint64_t state) { return static_cast<int>(state & kFieldMask); }
int chunk_count(uint64_t state) { return static_cast<int>((state >> kFieldBits) & kFieldMask); }
uint64_t epoch_of(uint64_t state) { return state >> (2 * kFieldBits); }

uint64_t now_ns() { return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count()); }

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// The futex is the upper half of the state word, which holds the epoch (little-endian).
uint32_t* epoch_word(std::atomic<uint64_t>& state) { return reinterpret_cast<uint32_t*>(&state) + 1; }

}  // namespace

ThreadPool::ThreadPool(int n_threads) {
  for (int thread = 1; thread < n_threads; ++thread) workers_.emplace_back([this, thread] { worker_main(thread); });
}

ThreadPool::~ThreadPool() {
  stop_.store(true);
  state_.fetch_add(uint64_t{1} << (2 * kFieldBits));
  syscall(SYS_futex, epoch_word(state_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::run_erased(int n_chunks, Function function, void* self) {
  regions_.store(regions_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);  // one caller at a time
  const uint64_t begin = timed_ ? now_ns() : 0;
  run_chunks(n_chunks, function, self);
  if (timed_) region_ns_ += now_ns() - begin;
}

// The end of a chunk is taken for the begin of the thread's next one; `since_ns` is 0 before the first.
void ThreadPool::run_chunk(int chunk, int thread, uint64_t& since_ns) {
  if (!timed_) return function_(self_, chunk, thread);
  if (since_ns == 0) since_ns = now_ns();
  function_(self_, chunk, thread);
  const uint64_t end = now_ns();
  chunks_ns_.fetch_add(end - since_ns, std::memory_order_relaxed);
  since_ns = end;
}

void ThreadPool::run_chunks(int n_chunks, Function function, void* self) {
  function_ = function;
  self_ = self;
  if (n_chunks <= 1 || workers_.empty()) {
    uint64_t since_ns = 0;
    for (int chunk = 0; chunk < n_chunks; ++chunk) run_chunk(chunk, 0, since_ns);
    return;
  }
  done_.store(0, std::memory_order_relaxed);
  const uint64_t epoch = epoch_of(state_.load(std::memory_order_relaxed)) + 1;
  const uint64_t state = (epoch << (2 * kFieldBits)) | (static_cast<uint64_t>(n_chunks) << kFieldBits);
  state_.store(state, std::memory_order_seq_cst);
  if (sleepers_.load(std::memory_order_seq_cst) > 0) {
    syscall(SYS_futex, epoch_word(state_), FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
  }
  claim_chunks(state, 0);
  // The chunks still running are short; give the core away should their thread have lost its own.
  for (int spins = 0; done_.load(std::memory_order_acquire) < n_chunks; ++spins) {
    if (spins < 20000) {
      pause_cpu();
    } else {
      std::this_thread::yield();
    }
  }
}

void ThreadPool::claim_chunks(uint64_t state, int thread) {
  uint64_t since_ns = 0;
  while (next_chunk(state) < chunk_count(state)) {
    state = state_.fetch_add(1, std::memory_order_acq_rel);
    if (next_chunk(state) >= chunk_count(state)) return;
    // This claim holds its region open: function_ and self_ stay as they are until done_ counts it.
    run_chunk(next_chunk(state), thread, since_ns);
    done_.fetch_add(1, std::memory_order_release);
    state = state_.load(std::memory_order_acquire);
  }
}

void ThreadPool::worker_main(int thread) {
  const FloatMode float_mode;
  uint64_t seen = 0;
  for (;;) {
    uint64_t state = state_.load(std::memory_order_acquire);
    if (epoch_of(state) == seen) {
      const auto deadline = std::chrono::steady_clock::now() + kSpin;
      for (int spins = 1; epoch_of(state) == seen; ++spins) {
        pause_cpu();
        if (spins % 64 == 0 && std::chrono::steady_clock::now() > deadline) break;
        state = state_.load(std::memory_order_acquire);
      }
    }
    if (epoch_of(state) == seen) {
      sleepers_.fetch_add(1, std::memory_order_seq_cst);
      state = state_.load(std::memory_order_seq_cst);
      if (epoch_of(state) == seen && !stop_.load()) {
        syscall(SYS_futex, epoch_word(state_), FUTEX_WAIT_PRIVATE, static_cast<uint32_t>(state >> 32), nullptr, nullptr,
                0);
      }
      sleepers_.fetch_sub(1, std::memory_order_seq_cst);
      if (stop_.load()) return;
      continue;
    }
    if (stop_.load()) return;
    seen = epoch_of(state);
    claim_chunks(state, thread);
  }
}

}  // namespace stoker
