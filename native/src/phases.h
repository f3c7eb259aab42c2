// Where the time of a forward goes, measured by the thread that calls it. Off unless asked for.
#pragma once
#include <array>
#include <chrono>
#include <cstdint>

#include "thread_pool.h"

namespace stoker {

enum class Phase { other, normalize, qkv, attention, output, feed_forward, logits, sampling };

constexpr int kPhases = 8;
constexpr std::array<const char*, kPhases> kPhaseNames = {"other",  "normalize",    "qkv",    "attention",
                                                          "output", "feed_forward", "logits", "sampling"};

struct PhaseTime {
  uint64_t wall_ns = 0;
  uint64_t idle_ns = 0;  // of all threads together: at barriers, waking up, or because one thread works alone
};

// Charges time to one phase at a time. Not thread-safe: for the thread that calls forward.
class PhaseClock {
 public:
  explicit PhaseClock(ThreadPool& pool) : pool_(pool) {}

  bool on() const { return on_; }
  // Starts anew. The clock of the pool's chunks is turned on and off with this one.
  void turn(bool on) {
    on_ = on;
    times_ = {};
    pool_.time_chunks(on);
  }
  const std::array<PhaseTime, kPhases>& times() const { return times_; }

 private:
  friend class PhaseTimer;

  static uint64_t now_ns() {
    return static_cast<uint64_t>(std::chrono::steady_clock::now().time_since_epoch().count());
  }

  // Charges what has passed to the phase that it passed in.
  Phase change(Phase to, bool charge) {
    const uint64_t now = now_ns();
    const RegionTime regions = pool_.region_time();
    const Phase from = phase_;
    if (charge) {
      const uint64_t wall = now - since_ns_;
      const uint64_t in_regions = regions.wall_ns - regions_.wall_ns;
      const uint64_t alone = wall > in_regions ? wall - in_regions : 0;
      const uint64_t worked = alone + regions.chunks_ns - regions_.chunks_ns;
      const uint64_t held = wall * static_cast<uint64_t>(pool_.size());
      PhaseTime& time = times_[static_cast<size_t>(from)];
      time.wall_ns += wall;
      time.idle_ns += held > worked ? held - worked : 0;
    }
    phase_ = to;
    since_ns_ = now;
    regions_ = regions;
    return from;
  }

  ThreadPool& pool_;
  bool on_ = false;
  bool inside_ = false;
  Phase phase_ = Phase::other;
  uint64_t since_ns_ = 0;
  RegionTime regions_;
  std::array<PhaseTime, kPhases> times_{};
};

// From here to the end of the scope is this phase; a timer inside another takes the time away from it.
class PhaseTimer {
 public:
  PhaseTimer(PhaseClock& clock, Phase phase) : clock_(clock.on() ? &clock : nullptr) {
    if (clock_ == nullptr) return;
    outermost_ = !clock_->inside_;
    before_ = clock_->change(phase, !outermost_);
    clock_->inside_ = true;
  }
  ~PhaseTimer() {
    if (clock_ == nullptr) return;
    clock_->change(before_, true);
    if (outermost_) clock_->inside_ = false;
  }
  PhaseTimer(const PhaseTimer&) = delete;
  PhaseTimer& operator=(const PhaseTimer&) = delete;

 private:
  PhaseClock* clock_;
  Phase before_ = Phase::other;
  bool outermost_ = false;
};

}  // namespace stoker
