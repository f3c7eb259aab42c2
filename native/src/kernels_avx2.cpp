// Compiled with AVX2, FMA and F16C. As for kernels_avx512vnni.cpp, nothing here may instantiate a template or inline
// function that another translation unit also uses.
#define STOKER_ISA avx2
#include "simd_avx2.h"
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
