// The path for AMX with its tile instructions emulated: for processors with AVX512-VNNI.
#define STOKER_ISA amx_emulated
#define STOKER_EMULATED_TILES
#include "simd_avx512.h"
#include "stand_ins.h"
// clang-format off
#include "emulated_tiles.h"
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
