// Integer products with AVX-VNNI, in 32 bits.

namespace stoker::STOKER_ISA {

using Dots = I32;

STOKER_INLINE Dots zero_dots() { return zero_int(); }
STOKER_INLINE I32 add_products(I32 acc, I32 w, __m256i four) {
#if defined(__AVXVNNI__)
  return {_mm256_dpbusd_avx_epi32(acc.low, w.low, four), _mm256_dpbusd_avx_epi32(acc.high, w.high, four)};
#else  // the same in the encoding of AVX512-VNNI, which tests use
  return {_mm256_dpbusd_epi32(acc.low, w.low, four), _mm256_dpbusd_epi32(acc.high, w.high, four)};
#endif
}
STOKER_INLINE Dots dot4(Dots acc, I32 w, const int8_t* a) { return add_products(acc, w, splat_four(a)); }
constexpr int kU8Parts = 1;
template <int kPart>
STOKER_INLINE I32 u8_part(I32 w) {
  return w;
}
template <int kPart = 0>
STOKER_INLINE I32 sums_of(Dots dots) {
  return dots;
}
STOKER_INLINE I32 add_codes(I32 acc, I32 w) { return add_products(acc, w, _mm256_set1_epi8(1)); }

}  // namespace stoker::STOKER_ISA
