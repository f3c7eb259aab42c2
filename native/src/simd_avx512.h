// 16-lane vectors on AVX-512 with VNNI. `simd_portable.h` has the same interface; the kernels are written once
// over it and compiled once per instruction set, each in its own namespace.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

#define STOKER_INLINE static inline __attribute__((always_inline))

namespace stoker::STOKER_ISA {

// What the 32 registers hold without spilling.
#if defined(__AMX_TILE__)
constexpr int kMaxRows = 12;  // rows of a product at once; one more is for tiles
#else
constexpr int kMaxRows = 11;
#endif
constexpr int kMaxPairs = 4;     // (row, head) pairs that share the loads of one tile of keys
constexpr int kPairVectors = 4;  // vectors of scores or values at once for each pair

using F32 = __m512;   // 16 floats
using I32 = __m512i;  // 16 int32
using Mask = __mmask16;

STOKER_INLINE F32 zero() { return _mm512_setzero_ps(); }
STOKER_INLINE F32 splat(float x) { return _mm512_set1_ps(x); }
STOKER_INLINE F32 load(const float* p) { return _mm512_loadu_ps(p); }
STOKER_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x); }
STOKER_INLINE F32 add(F32 a, F32 b) { return _mm512_add_ps(a, b); }
STOKER_INLINE F32 sub(F32 a, F32 b) { return _mm512_sub_ps(a, b); }
STOKER_INLINE F32 mul(F32 a, F32 b) { return _mm512_mul_ps(a, b); }
STOKER_INLINE F32 div(F32 a, F32 b) { return _mm512_div_ps(a, b); }
STOKER_INLINE F32 fma(F32 a, F32 b, F32 c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
STOKER_INLINE F32 max(F32 a, F32 b) { return _mm512_max_ps(a, b); }
STOKER_INLINE F32 min(F32 a, F32 b) { return _mm512_min_ps(a, b); }
STOKER_INLINE F32 abs(F32 a) { return _mm512_abs_ps(a); }

// Lanes are summed as a fixed tree: halves, quarters, pairs.
STOKER_INLINE float sum_lanes(F32 a) {
  const __m256 low = _mm512_castps512_ps256(a);
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
  const __m256 eight = _mm256_add_ps(low, high);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
STOKER_INLINE float max_lanes(F32 a) { return _mm512_reduce_max_ps(a); }
STOKER_INLINE __m128 quarter_maximum(F32 a) {
  const __m256 high = _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a), 1));
  const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(a), high);
  return _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
}
// The greatest lane of each of four vectors.
STOKER_INLINE void max_lanes_of_four(const F32* v, float* out) {
  const __m128 a = quarter_maximum(v[0]), b = quarter_maximum(v[1]);
  const __m128 c = quarter_maximum(v[2]), d = quarter_maximum(v[3]);
  const __m128 ab = _mm_max_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
  const __m128 cd = _mm_max_ps(_mm_unpacklo_ps(c, d), _mm_unpackhi_ps(c, d));
  _mm_storeu_ps(out, _mm_max_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab)));
}

STOKER_INLINE Mask first_lanes(int n) { return static_cast<Mask>((1u << n) - 1); }  // n in [0, 16]
STOKER_INLINE Mask greater(F32 a, F32 b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
STOKER_INLINE uint32_t mask_bits(Mask mask) { return mask; }
STOKER_INLINE F32 select(Mask mask, F32 yes, F32 no) { return _mm512_mask_blend_ps(mask, no, yes); }

STOKER_INLINE F32 load_half(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
STOKER_INLINE void store_half(uint16_t* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT));
}
STOKER_INLINE F32 load_bfloat(const uint16_t* p) {
  const __m256i half = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16));
}

STOKER_INLINE void store_bfloat(uint16_t* p, F32 x) {  // rounds to nearest, ties to even
#if defined(__AVX512BF16__)
  const __m256i halves = (__m256i)_mm512_cvtneps_pbh(x);
#else
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __m512i either = _mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet);
  const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(either, 16));
#endif
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), halves);
}

STOKER_INLINE I32 zero_int() { return _mm512_setzero_si512(); }
STOKER_INLINE I32 add_int(I32 a, I32 b) { return _mm512_add_epi32(a, b); }
STOKER_INLINE I32 sub_int(I32 a, I32 b) { return _mm512_sub_epi32(a, b); }
STOKER_INLINE I32 times_256(I32 a) { return _mm512_slli_epi32(a, 8); }
STOKER_INLINE I32 nearest_256th(I32 a) { return _mm512_srai_epi32(_mm512_add_epi32(a, _mm512_set1_epi32(128)), 8); }
STOKER_INLINE F32 to_float(I32 a) { return _mm512_cvtepi32_ps(a); }
STOKER_INLINE I32 to_int(F32 a) { return _mm512_cvtps_epi32(a); }  // nearest, ties to even
STOKER_INLINE int32_t sum_lanes_int(I32 a) { return _mm512_reduce_add_epi32(a); }
STOKER_INLINE __m128i quarter_sum(I32 a) {
  const __m256i eight = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
}
// The sum of the lanes of each of four vectors.
STOKER_INLINE void sum_lanes_of_four(const I32* v, int32_t* out) {
  const __m128i a = quarter_sum(v[0]), b = quarter_sum(v[1]), c = quarter_sum(v[2]), d = quarter_sum(v[3]);
  const __m128i ab = _mm_add_epi32(_mm_unpacklo_epi32(a, b), _mm_unpackhi_epi32(a, b));
  const __m128i cd = _mm_add_epi32(_mm_unpacklo_epi32(c, d), _mm_unpackhi_epi32(c, d));
  const __m128i sums = _mm_add_epi32(_mm_unpacklo_epi64(ab, cd), _mm_unpackhi_epi64(ab, cd));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), sums);
}
STOKER_INLINE void store_int8(int8_t* p, I32 a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a));
}
// 2^n for whole n in [-126, 127].
STOKER_INLINE F32 exp2_whole(I32 n) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(127)), 23));
}

STOKER_INLINE I32 load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
// The two bf16 of each lane, the one at the lower address first.
STOKER_INLINE F32 first_bfloats(I32 a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
STOKER_INLINE F32 second_bfloats(I32 a) {
  return _mm512_castsi512_ps(_mm512_and_si512(a, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
}
// Byte kByte of each lane, unsigned.
template <int kByte>
STOKER_INLINE I32 byte_of(I32 a) {
  return _mm512_and_si512(_mm512_srli_epi32(a, 8 * kByte), _mm512_set1_epi32(255));
}
STOKER_INLINE I32 low_nibbles(I32 a) { return _mm512_and_si512(a, _mm512_set1_epi8(15)); }
STOKER_INLINE I32 high_nibbles(I32 a) { return _mm512_and_si512(_mm512_srli_epi16(a, 4), _mm512_set1_epi8(15)); }
STOKER_INLINE I32 add_bytes(I32 a, I32 b) { return _mm512_add_epi8(a, b); }

// Exact sums of products of one group's codes (32 inputs per lane), in the form that suits the instruction set.
using Dots = I32;

STOKER_INLINE Dots zero_dots() { return zero_int(); }
// Per lane: acc + sum over 4 bytes of (unsigned byte of w) * (signed byte of the four at `a`). The bytes of w are u4
// codes or one part of u8 codes.
STOKER_INLINE Dots dot4(Dots acc, I32 w, const int8_t* a) {
  int32_t four;
  std::memcpy(&four, a, sizeof four);
  return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(four));
}
// A u8 code is the weighted sum of its parts, each small enough for dot4; here the code is its only part.
constexpr int kU8Parts = 1;
template <int kPart>
STOKER_INLINE I32 u8_part(I32 w) {
  return w;
}
template <int kPart = 0>
STOKER_INLINE I32 sums_of(Dots dots) {  // times the part's weight
  return dots;
}
// Per lane: acc + sum of the 4 unsigned bytes of w.
STOKER_INLINE I32 add_codes(I32 acc, I32 w) { return _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi8(1)); }

}  // namespace stoker::STOKER_ISA
