// Flush-to-zero for the threads that compute: every thread of a model must treat subnormals alike, and
// imported libraries may have set the mode of the one that calls us.
#pragma once
#include <cstdint>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace stoker {

#if defined(__SSE__)

// The register that holds the mode, MXCSR.
class FloatControl {
 public:
  static uint64_t read() { return _mm_getcsr(); }
  static void write(uint64_t value) { _mm_setcsr(static_cast<unsigned>(value)); }
  // Exceptions masked, round to nearest; flush results to zero, take subnormal operands as zero.
  static constexpr uint64_t kComputing = 0x1f80 | 0x8000 | 0x0040;
};

#elif defined(__aarch64__)

// The register that holds the mode, FPCR.
class FloatControl {
 public:
  static uint64_t read() {
    uint64_t value;
    asm volatile("mrs %0, fpcr" : "=r"(value));
    return value;
  }
  static void write(uint64_t value) { asm volatile("msr fpcr, %0" : : "r"(value) : "memory"); }
  // Round to nearest, NaNs as they come, IEEE halves; FZ: results and operands that are subnormal are zero.
  static constexpr uint64_t kComputing = uint64_t{1} << 24;
};

#else
#error "Stoker runs on x86-64 and AArch64: docs/platforms.md"
#endif

// Sets the calling thread's mode, and restores it at the end.
class FloatMode {
 public:
  FloatMode() : saved_(FloatControl::read()) { FloatControl::write(FloatControl::kComputing); }
  ~FloatMode() { FloatControl::write(saved_); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

 private:
  uint64_t saved_;
};

}  // namespace stoker
