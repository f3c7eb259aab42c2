// The interface of `simd_avx512.h` on AArch64 with dot products of bytes (DotProd, Armv8.2): a vector of 16 lanes is
// four registers. Every floating-point operation rounds as on AVX2 and AVX-512, so the bits are equal too.
#pragma once
#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#define STOKER_INLINE static inline __attribute__((always_inline))

namespace stoker::STOKER_ISA {

// Of 32 registers, four per sum: more at once would spill.
constexpr int kMaxRows = 4;
constexpr int kMaxPairs = 2;
constexpr int kPairVectors = 2;

struct F32 {  // 16 floats: lanes 4 i to 4 i + 3 in part[i]
  float32x4_t part[4];
};
struct I32 {  // 16 int32
  int32x4_t part[4];
};
struct Mask {  // all ones where true
  uint32x4_t part[4];
};

// What `operation` makes of the operands' parts.
template <class Result, class Operation, class... Operands>
STOKER_INLINE Result each(Operation operation, const Operands&... x) {
  return {operation(x.part[0]...), operation(x.part[1]...), operation(x.part[2]...), operation(x.part[3]...)};
}

STOKER_INLINE F32 splat(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return {four, four, four, four};
}
STOKER_INLINE F32 zero() { return splat(0.0f); }
STOKER_INLINE F32 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)}; }
STOKER_INLINE void store(float* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, x.part[i]);
}
STOKER_INLINE F32 add(F32 a, F32 b) {
  return each<F32>([](auto p, auto q) { return vaddq_f32(p, q); }, a, b);
}
STOKER_INLINE F32 sub(F32 a, F32 b) {
  return each<F32>([](auto p, auto q) { return vsubq_f32(p, q); }, a, b);
}
STOKER_INLINE F32 mul(F32 a, F32 b) {
  return each<F32>([](auto p, auto q) { return vmulq_f32(p, q); }, a, b);
}
STOKER_INLINE F32 div(F32 a, F32 b) {
  return each<F32>([](auto p, auto q) { return vdivq_f32(p, q); }, a, b);
}
STOKER_INLINE F32 fma(F32 a, F32 b, F32 c) {  // a * b + c
  return each<F32>([](auto p, auto q, auto r) { return vfmaq_f32(r, p, q); }, a, b, c);
}
// Of a number and a NaN these give the number; the other paths do where the NaN comes first.
STOKER_INLINE F32 max(F32 a, F32 b) {
  return each<F32>([](auto p, auto q) { return vmaxnmq_f32(p, q); }, a, b);
}
STOKER_INLINE F32 min(F32 a, F32 b) {
  return each<F32>([](auto p, auto q) { return vminnmq_f32(p, q); }, a, b);
}
STOKER_INLINE F32 abs(F32 a) {
  return each<F32>([](auto p) { return vabsq_f32(p); }, a);
}

// Lanes are summed as a fixed tree: halves, quarters, pairs.
STOKER_INLINE float sum_lanes(F32 a) {
  const float32x4_t four = vaddq_f32(vaddq_f32(a.part[0], a.part[2]), vaddq_f32(a.part[1], a.part[3]));
  const float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
STOKER_INLINE float max_lanes(F32 a) {
  return vmaxnmvq_f32(vmaxnmq_f32(vmaxnmq_f32(a.part[0], a.part[1]), vmaxnmq_f32(a.part[2], a.part[3])));
}
// The greatest lane of each of four vectors.
STOKER_INLINE void max_lanes_of_four(const F32* v, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = max_lanes(v[i]);
}

STOKER_INLINE Mask first_lanes(int n) {  // n in [0, 16]
  const uint32x4_t end = vdupq_n_u32(static_cast<uint32_t>(n));
  constexpr uint32_t kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Mask mask;
  for (int i = 0; i < 4; ++i) mask.part[i] = vcltq_u32(vld1q_u32(kLaneNumbers + 4 * i), end);
  return mask;
}
STOKER_INLINE Mask greater(F32 a, F32 b) {
  return each<Mask>([](auto p, auto q) { return vcgtq_f32(p, q); }, a, b);
}
STOKER_INLINE uint32_t mask_bits(Mask mask) {
  constexpr uint32_t kLaneBits[4] = {1, 2, 4, 8};
  const uint32x4_t weights = vld1q_u32(kLaneBits);
  uint32_t bits = 0;
  for (int i = 0; i < 4; ++i) bits |= vaddvq_u32(vandq_u32(mask.part[i], weights)) << (4 * i);
  return bits;
}
STOKER_INLINE F32 select(Mask mask, F32 yes, F32 no) {
  return each<F32>([](auto m, auto p, auto q) { return vbslq_f32(m, p, q); }, mask, yes, no);
}

STOKER_INLINE F32 load_half(const uint16_t* p) {
  F32 x;
  for (int i = 0; i < 4; ++i) x.part[i] = vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)));
  return x;
}
STOKER_INLINE void store_half(uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.part[i])));
}
STOKER_INLINE F32 load_bfloat(const uint16_t* p) {
  F32 x;
  for (int i = 0; i < 4; ++i) x.part[i] = vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16));
  return x;
}

STOKER_INLINE uint16x4_t bfloat_bits(float32x4_t x) {  // rounds to nearest, ties to even
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const uint32x4_t quiet = vorrq_u32(bits, vdupq_n_u32(0x400000));
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, quiet), 16);
}
STOKER_INLINE void store_bfloat(uint16_t* p, F32 x) {
  for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, bfloat_bits(x.part[i]));
}

STOKER_INLINE I32 zero_int() {
  const int32x4_t four = vdupq_n_s32(0);
  return {four, four, four, four};
}
STOKER_INLINE I32 add_int(I32 a, I32 b) {
  return each<I32>([](auto p, auto q) { return vaddq_s32(p, q); }, a, b);
}
STOKER_INLINE I32 sub_int(I32 a, I32 b) {
  return each<I32>([](auto p, auto q) { return vsubq_s32(p, q); }, a, b);
}
STOKER_INLINE I32 times_256(I32 a) {
  return each<I32>([](auto p) { return vshlq_n_s32(p, 8); }, a);
}
STOKER_INLINE I32 nearest_256th(I32 a) {  // adds 128 first
  return each<I32>([](auto p) { return vrshrq_n_s32(p, 8); }, a);
}
STOKER_INLINE F32 to_float(I32 a) {
  return each<F32>([](auto p) { return vcvtq_f32_s32(p); }, a);
}
STOKER_INLINE I32 to_int(F32 a) {  // nearest, ties to even
  return each<I32>([](auto p) { return vcvtnq_s32_f32(p); }, a);
}
STOKER_INLINE int32_t sum_lanes_int(I32 a) {
  return vaddvq_s32(vaddq_s32(vaddq_s32(a.part[0], a.part[1]), vaddq_s32(a.part[2], a.part[3])));
}
// The sum of the lanes of each of four vectors.
STOKER_INLINE void sum_lanes_of_four(const I32* v, int32_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum_lanes_int(v[i]);
}
STOKER_INLINE void store_int8(int8_t* p, I32 a) {
  const int16x8_t low = vcombine_s16(vmovn_s32(a.part[0]), vmovn_s32(a.part[1]));
  const int16x8_t high = vcombine_s16(vmovn_s32(a.part[2]), vmovn_s32(a.part[3]));
  vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
// 2^n for whole n in [-126, 127].
STOKER_INLINE F32 exp2_whole(I32 n) {
  return each<F32>([](auto p) { return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(p, vdupq_n_s32(127)), 23)); }, n);
}

STOKER_INLINE uint8x16_t bytes_of(int32x4_t a) { return vreinterpretq_u8_s32(a); }
STOKER_INLINE int32x4_t lanes_of(uint8x16_t a) { return vreinterpretq_s32_u8(a); }

STOKER_INLINE I32 load_bytes(const uint8_t* p) {
  return {lanes_of(vld1q_u8(p)), lanes_of(vld1q_u8(p + 16)), lanes_of(vld1q_u8(p + 32)), lanes_of(vld1q_u8(p + 48))};
}
// The two bf16 of each lane, the one at the lower address first.
STOKER_INLINE F32 first_bfloats(I32 a) {
  return each<F32>([](auto p) { return vreinterpretq_f32_s32(vshlq_n_s32(p, 16)); }, a);
}
STOKER_INLINE F32 second_bfloats(I32 a) {
  const int32x4_t second = vdupq_n_s32(static_cast<int32_t>(0xffff0000u));
  return each<F32>([=](auto p) { return vreinterpretq_f32_s32(vandq_s32(p, second)); }, a);
}
// Byte kByte of each lane, unsigned.
template <int kByte>
STOKER_INLINE I32 byte_of(I32 a) {
  return each<I32>(
      [](auto p) {
        uint32x4_t bits = vreinterpretq_u32_s32(p);
        if constexpr (kByte > 0) bits = vshrq_n_u32(bits, 8 * kByte);
        return vreinterpretq_s32_u32(vandq_u32(bits, vdupq_n_u32(255)));
      },
      a);
}
STOKER_INLINE I32 low_nibbles(I32 a) {
  return each<I32>([](auto p) { return lanes_of(vandq_u8(bytes_of(p), vdupq_n_u8(15))); }, a);
}
STOKER_INLINE I32 high_nibbles(I32 a) {
  return each<I32>([](auto p) { return lanes_of(vshrq_n_u8(bytes_of(p), 4)); }, a);
}
STOKER_INLINE I32 add_bytes(I32 a, I32 b) {
  return each<I32>([](auto p, auto q) { return lanes_of(vaddq_u8(bytes_of(p), bytes_of(q))); }, a, b);
}

// `sdot` wants both operands signed. Codes of 4 bits are; one of 8 bits is taken as (code - 128) + 128 * 1. The sums of
// the second part are the same in all lanes: the compiler computes them once for the four registers.
using Dots = I32;

STOKER_INLINE Dots zero_dots() { return zero_int(); }
STOKER_INLINE Dots dot4(Dots acc, I32 w, const int8_t* a) {
  int32_t four;
  std::memcpy(&four, a, sizeof four);
  const int8x16_t inputs = vreinterpretq_s8_s32(vdupq_n_s32(four));
  return each<I32>([=](auto sum, auto codes) { return vdotq_s32(sum, vreinterpretq_s8_s32(codes), inputs); }, acc, w);
}
constexpr int kU8Parts = 2;
template <int kPart>
STOKER_INLINE I32 u8_part(I32 w) {
  if constexpr (kPart == 0) {
    return each<I32>([](auto p) { return lanes_of(veorq_u8(bytes_of(p), vdupq_n_u8(128))); }, w);
  } else {
    const int32x4_t ones = lanes_of(vdupq_n_u8(1));
    return {ones, ones, ones, ones};
  }
}
template <int kPart = 0>
STOKER_INLINE I32 sums_of(Dots dots) {
  if constexpr (kPart == 0) {
    return dots;
  } else {
    return each<I32>([](auto p) { return vshlq_n_s32(p, 7); }, dots);
  }
}
STOKER_INLINE I32 add_codes(I32 acc, I32 w) {
  return each<I32>(
      [](auto sum, auto codes) {
        return vreinterpretq_s32_u32(vdotq_u32(vreinterpretq_u32_s32(sum), bytes_of(codes), vdupq_n_u8(1)));
      },
      acc, w);
}

}  // namespace stoker::STOKER_ISA
