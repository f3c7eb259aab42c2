// The interface of `simd_avx512.h` in the compiler's vector extensions and plain loops: runs on any processor.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "fp16.h"

#define STOKER_INLINE static inline __attribute__((always_inline))

namespace stoker::STOKER_ISA {

constexpr int kMaxRows = 12;
constexpr int kMaxPairs = 4;
constexpr int kPairVectors = 4;

typedef float F32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint8_t U8 __attribute__((vector_size(64)));
typedef int32_t Mask __attribute__((vector_size(64)));  // all ones where true

STOKER_INLINE F32 zero() { return F32{}; }
STOKER_INLINE F32 splat(float x) { return F32{} + x; }
STOKER_INLINE F32 load(const float* p) {
  F32 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
STOKER_INLINE void store(float* p, F32 x) { std::memcpy(p, &x, sizeof x); }
STOKER_INLINE F32 add(F32 a, F32 b) { return a + b; }
STOKER_INLINE F32 sub(F32 a, F32 b) { return a - b; }
STOKER_INLINE F32 mul(F32 a, F32 b) { return a * b; }
STOKER_INLINE F32 div(F32 a, F32 b) { return a / b; }
STOKER_INLINE F32 fma(F32 a, F32 b, F32 c) { return a * b + c; }  // rounded twice, always
STOKER_INLINE F32 max(F32 a, F32 b) { return a > b ? a : b; }
STOKER_INLINE F32 min(F32 a, F32 b) { return a < b ? a : b; }
STOKER_INLINE F32 abs(F32 a) { return reinterpret_cast<F32>(reinterpret_cast<I32>(a) & 0x7fffffff); }

STOKER_INLINE float sum_lanes(F32 a) {
  float eight[8], four[4];
  for (int i = 0; i < 8; ++i) eight[i] = a[i] + a[i + 8];
  for (int i = 0; i < 4; ++i) four[i] = eight[i] + eight[i + 4];
  return (four[0] + four[2]) + (four[1] + four[3]);
}
STOKER_INLINE float max_lanes(F32 a) {
  float best = a[0];
  for (int i = 1; i < 16; ++i) best = a[i] > best ? a[i] : best;
  return best;
}
// The greatest lane of each of four vectors.
STOKER_INLINE void max_lanes_of_four(const F32* v, float* out) {
  for (int i = 0; i < 4; ++i) out[i] = max_lanes(v[i]);
}

STOKER_INLINE Mask first_lanes(int n) {
  const I32 lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  return lanes < n;
}
STOKER_INLINE Mask greater(F32 a, F32 b) { return a > b; }
STOKER_INLINE uint32_t mask_bits(Mask mask) {
  uint32_t bits = 0;
  for (int i = 0; i < 16; ++i) bits |= (mask[i] != 0 ? 1u : 0u) << i;
  return bits;
}
STOKER_INLINE F32 select(Mask mask, F32 yes, F32 no) { return mask ? yes : no; }

STOKER_INLINE F32 load_half(const uint16_t* p) {
  F32 x;
  for (int i = 0; i < 16; ++i) x[i] = float_from_half(p[i]);
  return x;
}
STOKER_INLINE void store_half(uint16_t* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = half_from_float(x[i]);
}
STOKER_INLINE F32 load_bfloat(const uint16_t* p) {
  I32 bits;
  for (int i = 0; i < 16; ++i) bits[i] = static_cast<int32_t>(static_cast<uint32_t>(p[i]) << 16);
  return reinterpret_cast<F32>(bits);
}

STOKER_INLINE void store_bfloat(uint16_t* p, F32 x) {
  for (int i = 0; i < 16; ++i) p[i] = bfloat_from_float(x[i]);
}

STOKER_INLINE I32 zero_int() { return I32{}; }
STOKER_INLINE I32 add_int(I32 a, I32 b) { return a + b; }
STOKER_INLINE I32 sub_int(I32 a, I32 b) { return a - b; }
STOKER_INLINE I32 times_256(I32 a) { return a << 8; }
STOKER_INLINE I32 nearest_256th(I32 a) { return (a + 128) >> 8; }
STOKER_INLINE F32 to_float(I32 a) { return __builtin_convertvector(a, F32); }
STOKER_INLINE I32 to_int(F32 a) {
  // Adding 1.5 * 2^23 leaves the nearest whole number, ties to even, in the low mantissa bits; |a| < 2^22.
  const F32 magic = splat(12582912.0f);
  return reinterpret_cast<I32>(a + magic) - reinterpret_cast<I32>(magic);
}
STOKER_INLINE int32_t sum_lanes_int(I32 a) {
  int32_t sum = 0;
  for (int i = 0; i < 16; ++i) sum += a[i];
  return sum;
}
// The sum of the lanes of each of four vectors.
STOKER_INLINE void sum_lanes_of_four(const I32* v, int32_t* out) {
  for (int i = 0; i < 4; ++i) out[i] = sum_lanes_int(v[i]);
}
STOKER_INLINE void store_int8(int8_t* p, I32 a) {
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(a[i]);
}
STOKER_INLINE F32 exp2_whole(I32 n) { return reinterpret_cast<F32>((n + 127) << 23); }

STOKER_INLINE I32 load_bytes(const uint8_t* p) {
  I32 x;
  std::memcpy(&x, p, sizeof x);
  return x;
}
// The two bf16 of each lane, the one at the lower address first.
STOKER_INLINE F32 first_bfloats(I32 a) { return reinterpret_cast<F32>(a << 16); }
STOKER_INLINE F32 second_bfloats(I32 a) { return reinterpret_cast<F32>(a & static_cast<int32_t>(0xffff0000u)); }
// Byte kByte of each lane, unsigned.
template <int kByte>
STOKER_INLINE I32 byte_of(I32 a) {
  return (a >> 8 * kByte) & 255;
}
STOKER_INLINE I32 low_nibbles(I32 a) { return a & 0x0f0f0f0f; }
STOKER_INLINE I32 high_nibbles(I32 a) { return (a >> 4) & 0x0f0f0f0f; }
STOKER_INLINE I32 add_bytes(I32 a, I32 b) {
  return reinterpret_cast<I32>(reinterpret_cast<U8>(a) + reinterpret_cast<U8>(b));
}

using Dots = I32;

STOKER_INLINE Dots zero_dots() { return zero_int(); }
STOKER_INLINE Dots dot4(Dots acc, I32 w, const int8_t* a) {
  // Bytes 0 to 3 of a lane, lowest address first (little-endian).
  return acc + (w & 255) * int32_t{a[0]} + ((w >> 8) & 255) * int32_t{a[1]} + ((w >> 16) & 255) * int32_t{a[2]} +
         ((w >> 24) & 255) * int32_t{a[3]};
}
constexpr int kU8Parts = 1;
template <int kPart>
STOKER_INLINE I32 u8_part(I32 w) {
  return w;
}
template <int kPart = 0>
STOKER_INLINE I32 sums_of(Dots dots) {
  return dots;
}
STOKER_INLINE I32 add_codes(I32 acc, I32 w) {
  return acc + (w & 255) + ((w >> 8) & 255) + ((w >> 16) & 255) + ((w >> 24) & 255);
}

}  // namespace stoker::STOKER_ISA
