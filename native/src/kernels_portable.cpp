// Compiled for the oldest processor that the build targets.
#define STOKER_ISA portable
#include "simd_portable.h"
// clang-format off
#include "kernels_math.inl"
#include "kernels_matmul.inl"
#include "kernels_vectors.inl"
#include "kernels_adapter.inl"
#include "kernels_kv.inl"
#include "kernels_attention.inl"
#include "kernels_limits.inl"
#include "kernels_limits_vectors.inl"
#include "kernels_table.inl"
