// Integer products with AVX-VNNI, in 32 bits.

namespace stoker::STOKER_ISA {

using DotsU4 = I32;
using DotsU8 = I32;

STOKER_INLINE DotsU4 zero_dots_u4() { return zero_int(); }
STOKER_INLINE DotsU8 zero_dots_u8() { return zero_int(); }
STOKER_INLINE I32 add_products(I32 acc, I32 w, __m256i four) {
  return {_mm256_dpbusd_avx_epi32(acc.low, w.low, four), _mm256_dpbusd_avx_epi32(acc.high, w.high, four)};
}
STOKER_INLINE DotsU4 dot4_u4(DotsU4 acc, I32 w, const int8_t* a) { return add_products(acc, w, splat_four(a)); }
STOKER_INLINE DotsU8 dot4_u8(DotsU8 acc, I32 w, const int8_t* a) { return add_products(acc, w, splat_four(a)); }
STOKER_INLINE I32 sums_of(I32 dots) { return dots; }
STOKER_INLINE I32 add_codes(I32 acc, I32 w) { return add_products(acc, w, _mm256_set1_epi8(1)); }

}  // namespace stoker::STOKER_ISA
