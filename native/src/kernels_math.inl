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

struct GroupRange {
  F32 low, high;  // the group's 32 values
  float smallest;
  float range;
  bool varied;
};

STOKER_INLINE GroupRange group_range(const float* x) {
  const F32 low = load(x);
  const F32 high = load(x + 16);
  const float largest = max_lanes(max(low, high));
  const float smallest = -max_lanes(max(sub(zero(), low), sub(zero(), high)));
  const float range = largest - smallest;
  return {low, high, smallest, range, range >= kLeastRange};
}

// floor + (value - smallest) * inverse, rounded. The bounds only matter for values that are infinite or not a number.
STOKER_INLINE I32 code_of(F32 value, float smallest, float inverse, float floor, float ceiling) {
  const F32 at = add(mul(sub(value, splat(smallest)), splat(inverse)), splat(floor));
  return to_int(min(max(at, splat(floor)), splat(ceiling)));
}

STOKER_INLINE void store_group(I32 low, I32 high, float scale, float offset, int8_t* codes, GroupMeta& meta) {
  store_int8(codes, low);
  store_int8(codes + 16, high);
  const auto code_sum = static_cast<float>(sum_lanes_int(add_int(low, high)));
  meta = {scale, offset, scale * code_sum + static_cast<float>(kGroup) * offset};
}

static void quantize(const float* x, int n, int8_t* codes, GroupMeta* meta) {
  for (int g = 0; g < n / kGroup; ++g) {
    const GroupRange r = group_range(x + g * kGroup);
    const float scale = r.varied ? r.range / 255.0f : 0.0f;
    const float inverse = r.varied ? 255.0f / r.range : 0.0f;
    store_group(code_of(r.low, r.smallest, inverse, -128.0f, 127.0f),
                code_of(r.high, r.smallest, inverse, -128.0f, 127.0f), scale, r.smallest + 128.0f * scale,
                codes + g * kGroup, meta[g]);
  }
}

// 16-bit codes from -32768 to 32639 are 256 * coarse + fine with both in int8.
static void quantize_twice(const float* x, int n, int8_t* codes, GroupMeta* meta) {
  constexpr float kFloor = -32768.0f, kCeiling = 32639.0f, kSteps = kCeiling - kFloor;
  for (int g = 0; g < n / kGroup; ++g) {
    const GroupRange r = group_range(x + g * kGroup);
    const float scale = r.varied ? r.range / kSteps : 0.0f;
    const float inverse = r.varied ? kSteps / r.range : 0.0f;
    const I32 low = code_of(r.low, r.smallest, inverse, kFloor, kCeiling);
    const I32 high = code_of(r.high, r.smallest, inverse, kFloor, kCeiling);
    const I32 coarse_low = nearest_256th(low), coarse_high = nearest_256th(high);
    store_group(coarse_low, coarse_high, 256.0f * scale, 0.0f, codes + g * kGroup, meta[g]);
    store_group(sub_int(low, times_256(coarse_low)), sub_int(high, times_256(coarse_high)), scale,
                r.smallest - kFloor * scale, codes + n + g * kGroup, meta[n / kGroup + g]);
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
