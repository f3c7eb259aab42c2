// The interface of `simd_avx512.h` on AVX2 with FMA and F16C: a vector of 16 lanes is two registers. Compiled with
// AVX-VNNI as well, the integer products use it. Every operation rounds as on AVX-512, so the bits are equal too.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define STOKER_INLINE static inline __attribute__((always_inline))

namespace stoker::STOKER_ISA {

// Of 16 registers, two per sum: more at once would spill.
constexpr int kMaxRows = 6;
constexpr int kMaxPairs = 3;
constexpr int kPairVectors = 2;

struct F32 {  // 16 floats: lanes 0 to 7, lanes 8 to 15
  __m256 low, high;
};
struct I32 {  // 16 int32
  __m256i low, high;
};
struct Mask {  // all ones where true
  __m256 low, high;
};

STOKER_INLINE F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
STOKER_INLINE F32 splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
STOKER_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
STOKER_INLINE void store(float* p, F32 x) {
  _mm256_storeu_ps(p, x.low);
  _mm256_storeu_ps(p + 8, x.high);
}
STOKER_INLINE F32 add(F32 a, F32 b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
STOKER_INLINE F32 sub(F32 a, F32 b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
STOKER_INLINE F32 mul(F32 a, F32 b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
STOKER_INLINE F32 div(F32 a, F32 b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
STOKER_INLINE F32 fma(F32 a, F32 b, F32 c) {  // a * b + c
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
STOKER_INLINE F32 max(F32 a, F32 b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
STOKER_INLINE F32 min(F32 a, F32 b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
STOKER_INLINE F32 abs(F32 a) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}

// Lanes are summed as a fixed tree: halves, quarters, pairs.
STOKER_INLINE float sum_lanes(F32 a) {
  const __m256 eight = _mm256_add_ps(a.low, a.high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
STOKER_INLINE float max_lanes(F32 a) {
  const __m256 eight = _mm256_max_ps(a.low, a.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
// The greatest lane of each of four vectors.
STOKER_INLINE void max_lanes_of_four(const F32* v, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = max_lanes(v[i]);
}

STOKER_INLINE Mask first_lanes(int n) {  // n in [0, 16]
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return {_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n), lanes)),
          _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lanes))};
}
STOKER_INLINE Mask greater(F32 a, F32 b) {
  return {_mm256_cmp_ps(a.low, b.low, _CMP_GT_OQ), _mm256_cmp_ps(a.high, b.high, _CMP_GT_OQ)};
}
STOKER_INLINE uint32_t mask_bits(Mask mask) {
  const auto low = static_cast<uint32_t>(_mm256_movemask_ps(mask.low));
  return low | static_cast<uint32_t>(_mm256_movemask_ps(mask.high)) << 8;
}
STOKER_INLINE F32 select(Mask mask, F32 yes, F32 no) {
  return {_mm256_blendv_ps(no.low, yes.low, mask.low), _mm256_blendv_ps(no.high, yes.high, mask.high)};
}

STOKER_INLINE __m128i load_eight(const uint16_t* p) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p)); }
STOKER_INLINE F32 load_half(const uint16_t* p) {
  return {_mm256_cvtph_ps(load_eight(p)), _mm256_cvtph_ps(load_eight(p + 8))};
}
STOKER_INLINE void store_half(uint16_t* p, F32 x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(x.low, _MM_FROUND_TO_NEAREST_INT));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), _mm256_cvtps_ph(x.high, _MM_FROUND_TO_NEAREST_INT));
}
STOKER_INLINE F32 load_bfloat(const uint16_t* p) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_eight(p)), 16)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(load_eight(p + 8)), 16))};
}

STOKER_INLINE __m256i bfloat_bits(__m256 x) {  // rounded to nearest, ties to even, in the low half of each lane
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i no_number = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, quiet, no_number), 16);
}
STOKER_INLINE void store_bfloat(uint16_t* p, F32 x) {
  // The pack works in each register half by itself: lanes 0-3, 8-11, 4-7, 12-15.
  const __m256i halves = _mm256_packus_epi32(bfloat_bits(x.low), bfloat_bits(x.high));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(halves, 0xd8));
}

STOKER_INLINE I32 zero_int() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
STOKER_INLINE I32 add_int(I32 a, I32 b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
STOKER_INLINE I32 sub_int(I32 a, I32 b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
STOKER_INLINE I32 times_256(I32 a) { return {_mm256_slli_epi32(a.low, 8), _mm256_slli_epi32(a.high, 8)}; }
STOKER_INLINE I32 nearest_256th(I32 a) {
  const __m256i half = _mm256_set1_epi32(128);
  return {_mm256_srai_epi32(_mm256_add_epi32(a.low, half), 8), _mm256_srai_epi32(_mm256_add_epi32(a.high, half), 8)};
}
STOKER_INLINE F32 to_float(I32 a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
STOKER_INLINE I32 to_int(F32 a) { return {_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)}; }  // ties to even
STOKER_INLINE int32_t sum_lanes_int(I32 a) {
  const __m256i eight = _mm256_add_epi32(a.low, a.high);
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  const __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}
// The sum of the lanes of each of four vectors.
STOKER_INLINE void sum_lanes_of_four(const I32* v, int32_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum_lanes_int(v[i]);
}
STOKER_INLINE void store_int8(int8_t* p, I32 a) {
  // The pack works in each register half by itself: lanes 0-3, 8-11, 4-7, 12-15.
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.low, a.high), 0xd8);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
// 2^n for whole n in [-126, 127].
STOKER_INLINE F32 exp2_whole(I32 n) {
  const __m256i bias = _mm256_set1_epi32(127);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.low, bias), 23)),
          _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.high, bias), 23))};
}

STOKER_INLINE I32 load_bytes(const uint8_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 32))};
}
// The two bf16 of each lane, the one at the lower address first.
STOKER_INLINE F32 first_bfloats(I32 a) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(a.low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(a.high, 16))};
}
STOKER_INLINE F32 second_bfloats(I32 a) {
  const __m256i second = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
  return {_mm256_castsi256_ps(_mm256_and_si256(a.low, second)), _mm256_castsi256_ps(_mm256_and_si256(a.high, second))};
}
// Byte kByte of each lane, unsigned.
template <int kByte>
STOKER_INLINE I32 byte_of(I32 a) {
  const __m256i byte = _mm256_set1_epi32(255);
  return {_mm256_and_si256(_mm256_srli_epi32(a.low, 8 * kByte), byte),
          _mm256_and_si256(_mm256_srli_epi32(a.high, 8 * kByte), byte)};
}
STOKER_INLINE I32 low_nibbles(I32 a) {
  const __m256i nibble = _mm256_set1_epi8(15);
  return {_mm256_and_si256(a.low, nibble), _mm256_and_si256(a.high, nibble)};
}
STOKER_INLINE I32 high_nibbles(I32 a) {
  return low_nibbles({_mm256_srli_epi16(a.low, 4), _mm256_srli_epi16(a.high, 4)});
}
STOKER_INLINE I32 add_bytes(I32 a, I32 b) { return {_mm256_add_epi8(a.low, b.low), _mm256_add_epi8(a.high, b.high)}; }
STOKER_INLINE __m256i splat_four(const int8_t* a) {
  int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm256_set1_epi32(four);
}

}  // namespace stoker::STOKER_ISA

#if defined(__AVXVNNI__) || defined(__AVX512VNNI__)
#include "simd_avx2_vnni.inl"
#else
#include "simd_avx2_pairs.inl"
#endif
