// Flush-to-zero for the threads that compute: every thread of a model must treat subnormals alike, and
// imported libraries may have set the mode of the one that calls us.
#pragma once
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

namespace stoker {

class FloatMode {
 public:
#if defined(__SSE__)
  FloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(kDefault | kFlushToZero | kDenormalsAreZero); }
  ~FloatMode() { _mm_setcsr(saved_); }
#endif
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;

#if defined(__SSE__)
 private:
  static constexpr unsigned kDefault = 0x1f80;  // exceptions masked, round to nearest
  static constexpr unsigned kFlushToZero = 0x8000;
  static constexpr unsigned kDenormalsAreZero = 0x0040;
  unsigned saved_;
#endif
};

}  // namespace stoker
