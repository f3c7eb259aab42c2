// Compiled with AVX-512 F, BW, DQ, VL, VNNI and BF16; AMX instructions are written out. As for kernels_avx512vnni.cpp,
// nothing here may instantiate a template or inline function that another translation unit also uses.
#define STOKER_ISA amx
#include "simd_avx512.h"
// clang-format off
#include "kernels_math.inl"
#include "kernels_matmul.inl"
#include "kernels_tiles.inl"
#include "kernels_adapter.inl"
#include "kernels_kv.inl"
#include "kernels_attention_walk.inl"
#include "kernels_attention_units.inl"
#include "kernels_attention_tiles.inl"
#include "kernels_attention_codes.inl"
#include "kernels_attention.inl"
#include "kernels_limits.inl"
#include "kernels_limits_tiles.inl"
#include "kernels_table.inl"
