// The path for AVX2 with AVX-VNNI, its products of bytes encoded as AVX512-VNNI has them: for processors with that.
#define STOKER_ISA avx2vnni_evex
#include "simd_avx2.h"
#include "stand_ins.h"
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
