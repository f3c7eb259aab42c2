// Integer products without VNNI. `vpmaddubsw` adds two products of bytes in 16 bits and saturates, so it only ever
// meets codes below 16: a group's 32 inputs put 16 products into each 16-bit half of a lane, at most
// 16 * 15 * 128 = 30720. Codes of 8 bits are 16 * high + low, two such sums.

namespace stoker::STOKER_ISA {

struct DotsU4 {  // two 16-bit sums per lane, of one group at most
  __m256i low, high;
};
struct DotsU8 {
  DotsU4 low_nibbles, high_nibbles;
};

STOKER_INLINE DotsU4 zero_dots_u4() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
STOKER_INLINE DotsU8 zero_dots_u8() { return {zero_dots_u4(), zero_dots_u4()}; }

STOKER_INLINE DotsU4 dot4_u4(DotsU4 acc, I32 w, const int8_t* a) {
  const __m256i four = splat_four(a);
  return {_mm256_add_epi16(acc.low, _mm256_maddubs_epi16(w.low, four)),
          _mm256_add_epi16(acc.high, _mm256_maddubs_epi16(w.high, four))};
}
STOKER_INLINE DotsU8 dot4_u8(DotsU8 acc, I32 w, const int8_t* a) {
  return {dot4_u4(acc.low_nibbles, low_nibbles(w), a), dot4_u4(acc.high_nibbles, high_nibbles(w), a)};
}

STOKER_INLINE I32 add_pairs(DotsU4 dots, int16_t factor) {
  const __m256i factors = _mm256_set1_epi16(factor);
  return {_mm256_madd_epi16(dots.low, factors), _mm256_madd_epi16(dots.high, factors)};
}
STOKER_INLINE I32 sums_of(DotsU4 dots) { return add_pairs(dots, 1); }
STOKER_INLINE I32 sums_of(DotsU8 dots) {
  return add_int(add_pairs(dots.low_nibbles, 1), add_pairs(dots.high_nibbles, 16));
}

STOKER_INLINE I32 add_codes(I32 acc, I32 w) {  // two codes of 8 bits are at most 510
  const __m256i ones = _mm256_set1_epi8(1);
  return add_int(acc, add_pairs({_mm256_maddubs_epi16(w.low, ones), _mm256_maddubs_epi16(w.high, ones)}, 1));
}

}  // namespace stoker::STOKER_ISA
