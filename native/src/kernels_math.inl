// Element-wise and row-wise kernels, over the vectors of simd_*.h.
#include "kernels.h"

namespace stoker::STOKER_ISA {

// exp(x), relative error below 3e-7 for x in [-87, 88]; clamped there. 2^n * p(r) with x = n ln 2 + r,
// |r| <= ln(2) / 2, and the Taylor polynomial of degree 7, whose last term is below half a unit in the last place.
STOKER_INLINE F32 exp(F32 x) {
  x = min(max(x, splat(-87.0f)), splat(88.0f));
  const F32 magic = splat(12582912.0f);  // 1.5 * 2^23 rounds to the nearest whole number
  const F32 n = sub(fma(x, splat(1.44269504f), magic), magic);
  F32 r = fma(n, splat(-0.693359375f), x);
  r = fma(n, splat(2.12194440e-4f), r);
  F32 p = splat(1.98412698e-4f);
  p = fma(p, r, splat(1.38888889e-3f));
  p = fma(p, r, splat(8.33333333e-3f));
  p = fma(p, r, splat(4.16666667e-2f));
  p = fma(p, r, splat(1.66666667e-1f));
  p = fma(p, r, splat(0.5f));
  p = fma(p, r, splat(1.0f));
  p = fma(p, r, splat(1.0f));
  return mul(p, exp2_whole(to_int(n)));
}

STOKER_INLINE float first_lane(F32 x) {
  float lanes[16];
  store(lanes, x);
  return lanes[0];
}

STOKER_INLINE float exp_scalar(float x) { return first_lane(exp(splat(x))); }

// Relative error below 1e-6. Near zero, where one less the exponential has few bits left, x - x^3 / 3 + 2 x^5 / 15
// - 17 x^7 / 315, whose next term is below 2e-9 of x.
STOKER_INLINE F32 tanh(F32 x) {
  const F32 size = abs(x);
  const F32 decay = exp(mul(size, splat(-2.0f)));
  const F32 far = div(sub(splat(1.0f), decay), add(splat(1.0f), decay));
  const F32 square = mul(x, x);
  F32 p = splat(-5.39682540e-2f);
  p = fma(p, square, splat(1.33333333e-1f));
  p = fma(p, square, splat(-3.33333333e-1f));
  const F32 near = fma(mul(p, square), x, x);
  const F32 with_sign = select(greater(zero(), x), sub(zero(), far), far);
  return select(greater(size, splat(0.125f)), with_sign, near);
}

STOKER_INLINE F32 soft_capped(F32 x, float cap) { return mul(tanh(div(x, splat(cap))), splat(cap)); }

STOKER_INLINE F32 sigmoid(F32 x) { return div(splat(1.0f), add(splat(1.0f), exp(sub(zero(), x)))); }

// Below the clamp 0, so that a logit of minus infinity has no probability at all; 0 for what is not a number.
STOKER_INLINE F32 exp_or_zero(F32 x) { return select(greater(x, splat(-87.0f)), exp(x), zero()); }

// A group whose range is smaller has one value for all: the range's inverse would leave the floats.
constexpr float kLeastRange = 1e-30f;

// One result for each of kN vectors; four share the work of that.
template <int kN>
STOKER_INLINE void max_lanes_of(const F32* v, float* out) {
  if constexpr (kN == 4) return max_lanes_of_four(v, out);
  for (int i = 0; i < kN; ++i) out[i] = max_lanes(v[i]);
}
template <int kN>
STOKER_INLINE void sum_lanes_of(const I32* v, int32_t* out) {
  if constexpr (kN == 4) return sum_lanes_of_four(v, out);
  for (int i = 0; i < kN; ++i) out[i] = sum_lanes_int(v[i]);
}

template <int kN>
struct GroupRanges {
  F32 low[kN], high[kN];  // a group's 32 values
  float smallest[kN];
  float range[kN];
  bool varied(int i) const { return range[i] >= kLeastRange; }
};

template <int kN>
STOKER_INLINE GroupRanges<kN> group_ranges(const float* x) {
  GroupRanges<kN> r;
  F32 highest[kN], minus_lowest[kN];
  for (int i = 0; i < kN; ++i) {
    r.low[i] = load(x + i * kGroup);
    r.high[i] = load(x + i * kGroup + 16);
    highest[i] = max(r.low[i], r.high[i]);
    minus_lowest[i] = max(sub(zero(), r.low[i]), sub(zero(), r.high[i]));
  }
  float largest[kN], minus_smallest[kN];
  max_lanes_of<kN>(highest, largest);
  max_lanes_of<kN>(minus_lowest, minus_smallest);
  for (int i = 0; i < kN; ++i) {
    r.smallest[i] = -minus_smallest[i];
    r.range[i] = largest[i] - r.smallest[i];
  }
  return r;
}

// floor + (value - smallest) * inverse, rounded. The bounds only matter for values that are infinite or not a number.
STOKER_INLINE I32 code_of(F32 value, float smallest, float inverse, float floor, float ceiling) {
  const F32 at = add(mul(sub(value, splat(smallest)), splat(inverse)), splat(floor));
  return to_int(min(max(at, splat(floor)), splat(ceiling)));
}

STOKER_INLINE void store_codes(I32 low, I32 high, int8_t* codes) {
  store_int8(codes, low);
  store_int8(codes + 16, high);
}

STOKER_INLINE GroupMeta group_meta(float scale, float offset, int32_t code_sum) {
  return {scale, offset, scale * static_cast<float>(code_sum) + static_cast<float>(kGroup) * offset};
}

template <int kN>
STOKER_INLINE void quantize_groups(const float* x, int8_t* codes, GroupMeta* meta) {
  const GroupRanges<kN> r = group_ranges<kN>(x);
  float scale[kN], inverse[kN];
  for (int i = 0; i < kN; ++i) {
    scale[i] = r.varied(i) ? r.range[i] / 255.0f : 0.0f;
    inverse[i] = r.varied(i) ? 255.0f / r.range[i] : 0.0f;
  }
  I32 sums[kN];
  for (int i = 0; i < kN; ++i) {
    const I32 low = code_of(r.low[i], r.smallest[i], inverse[i], -128.0f, 127.0f);
    const I32 high = code_of(r.high[i], r.smallest[i], inverse[i], -128.0f, 127.0f);
    store_codes(low, high, codes + i * kGroup);
    sums[i] = add_int(low, high);
  }
  int32_t code_sums[kN];
  sum_lanes_of<kN>(sums, code_sums);
  for (int i = 0; i < kN; ++i) meta[i] = group_meta(scale[i], r.smallest[i] + 128.0f * scale[i], code_sums[i]);
}

static void quantize(const float* x, int n, int8_t* codes, GroupMeta* meta) {
  int g = 0;
  for (; g + 4 <= n / kGroup; g += 4) quantize_groups<4>(x + g * kGroup, codes + g * kGroup, meta + g);
  for (; g < n / kGroup; ++g) quantize_groups<1>(x + g * kGroup, codes + g * kGroup, meta + g);
}

// 16-bit codes from -32768 to 32639 are 256 * coarse + fine with both in int8.
static void quantize_twice(const float* x, int n, int8_t* codes, GroupMeta* meta) {
  constexpr float kFloor = -32768.0f, kCeiling = 32639.0f, kSteps = kCeiling - kFloor;
  const ptrdiff_t n_groups = n / kGroup;
  for (ptrdiff_t g = 0; g < n_groups; ++g) {
    const GroupRanges<1> r = group_ranges<1>(x + g * kGroup);
    const float scale = r.varied(0) ? r.range[0] / kSteps : 0.0f;
    const float inverse = r.varied(0) ? kSteps / r.range[0] : 0.0f;
    const I32 low = code_of(r.low[0], r.smallest[0], inverse, kFloor, kCeiling);
    const I32 high = code_of(r.high[0], r.smallest[0], inverse, kFloor, kCeiling);
    const I32 coarse_low = nearest_256th(low), coarse_high = nearest_256th(high);
    const I32 fine_low = sub_int(low, times_256(coarse_low)), fine_high = sub_int(high, times_256(coarse_high));
    store_codes(coarse_low, coarse_high, codes + g * kGroup);
    store_codes(fine_low, fine_high, codes + (n_groups + g) * kGroup);
    meta[g] = group_meta(256.0f * scale, 0.0f, sum_lanes_int(add_int(coarse_low, coarse_high)));
    meta[n_groups + g] = group_meta(scale, r.smallest[0] - kFloor * scale, sum_lanes_int(add_int(fine_low, fine_high)));
  }
}

static void rms_norm(const float* x, const float* weight, int n, float epsilon, float* out) {
  F32 squares = zero();
  for (int i = 0; i < n; i += 16) squares = fma(load(x + i), load(x + i), squares);
  const float mean = sum_lanes(squares) / static_cast<float>(n);
  const F32 inverse = splat(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < n; i += 16) store(out + i, mul(mul(load(x + i), inverse), load(weight + i)));
}

static void add_to(float* x, const float* y, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, add(load(x + i), load(y + i)));
}

static void scale(float* x, float factor, int n) {
  int i = 0;
  for (; i + 16 <= n; i += 16) store(x + i, mul(load(x + i), splat(factor)));
  for (; i < n; ++i) x[i] *= factor;
}

static void softcap(float* x, float cap, int n) {
  for (int i = 0; i < n; i += 16) store(x + i, soft_capped(load(x + i), cap));
}

static void swiglu(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += 16) {
    const F32 g = load(gate + i);
    store(out + i, mul(mul(g, sigmoid(g)), load(up + i)));
  }
}

// tanh GELU is g / 2 * (1 + tanh(y)) with y = sqrt(2 / pi) * (g + 0.044715 g^3), and (1 + tanh(y)) / 2 = sigmoid(2 y).
static void geglu(const float* gate, const float* up, int n, float* out) {
  for (int i = 0; i < n; i += 16) {
    const F32 g = load(gate + i);
    const F32 cubed = mul(mul(g, g), g);
    const F32 twice_y = mul(fma(cubed, splat(0.044715f), g), splat(1.59576912f));
    store(out + i, mul(mul(g, sigmoid(twice_y)), load(up + i)));
  }
}

static void clamped_swiglu(const float* gate, const float* up, int n, float* out) {
  const F32 limit = splat(7.0f);
  for (int i = 0; i < n; i += 16) {
    const F32 g = min(load(gate + i), limit);
    const F32 u = max(min(load(up + i), limit), sub(zero(), limit));
    store(out + i, mul(add(u, splat(1.0f)), mul(g, sigmoid(mul(g, splat(1.702f))))));
  }
}

static void rotate(float* x, const float* cosine, const float* sine, int half, float scale) {
  int i = 0;
  for (; i + 16 <= half; i += 16) {
    const F32 a = load(x + i);
    const F32 b = load(x + half + i);
    const F32 c = load(cosine + i);
    const F32 s = load(sine + i);
    store(x + i, mul(sub(mul(a, c), mul(b, s)), splat(scale)));
    store(x + half + i, mul(add(mul(b, c), mul(a, s)), splat(scale)));
  }
  for (; i < half; ++i) {
    const float a = x[i], b = x[half + i];
    x[i] = (a * cosine[i] - b * sine[i]) * scale;
    x[half + i] = (b * cosine[i] + a * sine[i]) * scale;
  }
}

static void divide(const float* x, float divisor, int n, float* out) {
  const F32 inverse = splat(1.0f / divisor);
  for (int i = 0; i < n; i += 16) store(out + i, mul(load(x + i), inverse));
}

static int argmax(const float* x, int n) {
  int best = 0;
  float value = x[0];
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    const F32 lanes = load(x + i);
    if (mask_bits(greater(lanes, splat(value))) == 0) continue;
    for (int j = i; j < i + 16; ++j) {
      if (x[j] > value) {
        value = x[j];
        best = j;
      }
    }
  }
  for (; i < n; ++i) {
    if (x[i] > value) {
      value = x[i];
      best = i;
    }
  }
  return best;
}

static void exp_terms(const float* x, int n, float maximum, float factor, float* out, double* chunk_sums) {
  for (int begin = 0, chunk = 0; begin < n; begin += kSumChunk, ++chunk) {
    const int end = begin + kSumChunk < n ? begin + kSumChunk : n;
    F32 sum = zero();
    int i = begin;
    for (; i + 16 <= end; i += 16) {
      const F32 term = exp_or_zero(mul(sub(load(x + i), splat(maximum)), splat(factor)));
      store(out + i, term);
      sum = add(sum, term);
    }
    double total = static_cast<double>(sum_lanes(sum));
    for (; i < end; ++i) {
      out[i] = first_lane(exp_or_zero(splat((x[i] - maximum) * factor)));
      total += static_cast<double>(out[i]);
    }
    chunk_sums[chunk] = total;
  }
}

}  // namespace stoker::STOKER_ISA
