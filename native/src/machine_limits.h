// What the processor allows, measured: the yardstick of `stoker bench --roofline`.
#pragma once
#include <cstddef>

#include "kernels.h"

namespace stoker {

// Of all threads together, a second; the best of many short measurements each. A multiplication and an addition are
// two operations.
struct Limits {
  double dot_ops;       // the integer products of this instruction set
  double fma_ops;       // fp32
  double bf16_ops;      // bf16 products of this instruction set; 0 if it has none
  double memory_bytes;  // read, of an array of `memory_bytes`
  double cache_bytes;   // read again and again, of one of `cache_bytes`
};

// Takes about five times `seconds`. Throws std::bad_alloc.
Limits measure_limits(const Kernels& kernels, int n_threads, size_t memory_bytes, size_t cache_bytes, double seconds);

}  // namespace stoker
