// Compiled with AVX-512 F, BW, DQ, VL, VNNI and BF16. As for kernels_avx512vnni.cpp, nothing here may instantiate a
// template or inline function that another translation unit also uses.
#define STOKER_ISA avx512bf16
#include "simd_avx512.h"
// clang-format off
#include "kernels_math.inl"
#include "kernels_matmul.inl"
#include "kernels_vectors.inl"
#include "kernels_adapter.inl"
#include "kernels_kv.inl"
#include "kernels_attention_walk.inl"
#include "kernels_attention_pairs.inl"
#include "kernels_attention_codes.inl"
#include "kernels_attention.inl"
#include "kernels_limits.inl"
#include "kernels_limits_vectors.inl"
#include "kernels_table.inl"
