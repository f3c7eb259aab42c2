// Integer products without VNNI. `vpmaddubsw` adds two products of bytes in 16 bits and saturates, so it only ever
// meets bytes below 16 where activations are concerned: a group's 32 inputs put 16 products into each 16-bit half of a
// lane, at most 16 * 15 * 128 = 30720. Codes of 8 bits are taken apart: low nibble + 16 * high nibble.

namespace stoker::STOKER_ISA {

struct Dots {  // two 16-bit sums per lane
  __m256i low, high;
};

STOKER_INLINE Dots zero_dots() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
STOKER_INLINE Dots dot4(Dots acc, I32 w, const int8_t* a) {
  const __m256i four = splat_four(a);
  return {_mm256_add_epi16(acc.low, _mm256_maddubs_epi16(w.low, four)),
          _mm256_add_epi16(acc.high, _mm256_maddubs_epi16(w.high, four))};
}
constexpr int kU8Parts = 2;
template <int kPart>
STOKER_INLINE I32 u8_part(I32 w) {
  return kPart == 0 ? low_nibbles(w) : high_nibbles(w);
}
template <int kPart = 0>
STOKER_INLINE I32 sums_of(Dots dots) {
  const __m256i weight = _mm256_set1_epi16(kPart == 0 ? 1 : 16);
  return {_mm256_madd_epi16(dots.low, weight), _mm256_madd_epi16(dots.high, weight)};
}
STOKER_INLINE I32 add_codes(I32 acc, I32 w) {  // two codes of 8 bits are at most 510
  const __m256i ones = _mm256_set1_epi8(1);
  return add_int(acc, sums_of({_mm256_maddubs_epi16(w.low, ones), _mm256_maddubs_epi16(w.high, ones)}));
}

}  // namespace stoker::STOKER_ISA
