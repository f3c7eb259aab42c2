// Compiled with DotProd. As for kernels_avx512vnni.cpp, nothing here may instantiate a template or inline function that
// another translation unit also uses.
#define STOKER_ISA neon
#include "simd_neon.h"
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
