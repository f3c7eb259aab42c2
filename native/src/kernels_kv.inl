// Keys and values into the KV cache and out of it again; kv_cache.h has the layouts.

namespace stoker::STOKER_ISA {

// The bits of the largest bf16 that is not above x.
STOKER_INLINE uint32_t bfloat_below(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return (bits >> 31 != 0 ? bits + 0xffff : bits) >> 16;
}

STOKER_INLINE float bfloat_value(uint32_t bits) {
  const uint32_t wide = bits << 16;
  float value;
  std::memcpy(&value, &wide, sizeof value);
  return value;
}

// What the codes of one token's key or value stand for: code * scale + minimum.
struct CodeScale {
  uint16_t scale;    // bf16, rounded up
  uint16_t minimum;  // bf16, rounded down: so the codes reach all values
};

static CodeScale code_scale(const float* x, int n) {
  constexpr float kLargest = 1e38f;  // the range of what is no healthy value must be a float too
  F32 high = splat(-kLargest), minus_low = splat(-kLargest);
  for (int d = 0; d < n; d += 16) {
    const F32 value = min(max(load(x + d), splat(-kLargest)), splat(kLargest));
    high = max(high, value);
    minus_low = max(minus_low, sub(zero(), value));
  }
  const uint32_t minimum = bfloat_below(-max_lanes(minus_low));
  const float range = max_lanes(high) - bfloat_value(minimum);
  const uint32_t scale = range >= kLeastRange ? bfloat_below(range / -255.0f) & 0x7fff : 0;
  return {static_cast<uint16_t>(scale), static_cast<uint16_t>(minimum)};
}

// Unsigned codes, less 128, of 16 values.
STOKER_INLINE void encode(const float* x, CodeScale by, int8_t* codes) {
  const float inverse = by.scale == 0 ? 0.0f : 1.0f / bfloat_value(by.scale);
  const F32 at = sub(mul(sub(load(x), splat(bfloat_value(by.minimum))), splat(inverse)), splat(128.0f));
  store_int8(codes, to_int(min(max(at, splat(-128.0f)), splat(127.0f))));
}

STOKER_INLINE uint8_t unsigned_code(int8_t code) { return static_cast<uint8_t>(code + 128); }

STOKER_INLINE void store_scale(CodeScale scale, int head_size, int slot, uint8_t* part) {
  std::memcpy(part + head_size * kBlockTokens + slot * static_cast<int>(sizeof scale), &scale, sizeof scale);
}

static void store_key(const float* key, int head_size, int slot, KvType type, void* part) {
  auto* bytes = static_cast<uint8_t*>(part);
  auto* halves = static_cast<uint16_t*>(part);
  if (type == KvType::f32) {
    for (int d = 0; d < head_size; ++d) static_cast<float*>(part)[d * kBlockTokens + slot] = key[d];
  } else if (type == KvType::f16) {
    for (int d = 0; d < head_size; d += 16) {
      uint16_t values[16];
      store_half(values, load(key + d));
      for (int i = 0; i < 16; ++i) halves[(d + i) * kBlockTokens + slot] = values[i];
    }
  } else if (type == KvType::bf16) {
    for (int d = 0; d < head_size; d += 16) {
      uint16_t values[16];
      store_bfloat(values, load(key + d));
      for (int i = 0; i < 16; i += 2) {
        std::memcpy(halves + (d + i) * kBlockTokens + 2 * slot, values + i, 2 * sizeof(uint16_t));
      }
    }
  } else {
    const CodeScale scale = code_scale(key, head_size);
    for (int d = 0; d < head_size; d += 16) {
      int8_t codes[16];
      encode(key + d, scale, codes);
      for (int i = 0; i < 16; ++i) {
        bytes[(d + i) / 4 * 4 * kBlockTokens + 4 * slot + i % 4] = unsigned_code(codes[i]);
      }
    }
    store_scale(scale, head_size, slot, bytes);
  }
}

static void store_value(const float* value, int head_size, int slot, KvType type, void* part) {
  auto* bytes = static_cast<uint8_t*>(part);
  auto* halves = static_cast<uint16_t*>(part);
  if (type == KvType::f32) {
    for (int d = 0; d < head_size; d += 16) store(static_cast<float*>(part) + slot * head_size + d, load(value + d));
  } else if (type == KvType::f16) {
    for (int d = 0; d < head_size; d += 16) store_half(halves + slot * head_size + d, load(value + d));
  } else if (type == KvType::bf16) {
    // Value by value: the other token of the pair may be another thread's to write.
    uint16_t* pairs = halves + slot / 2 * 2 * head_size + slot % 2;
    for (int d = 0; d < head_size; d += 16) {
      uint16_t values[16];
      store_bfloat(values, load(value + d));
      for (int i = 0; i < 16; ++i) pairs[2 * (d + i)] = values[i];
    }
  } else {
    const CodeScale scale = code_scale(value, head_size);
    uint8_t* quads = bytes + slot / 4 * 4 * head_size + slot % 4;
    for (int d = 0; d < head_size; d += 16) {
      int8_t codes[16];
      encode(value + d, scale, codes);
      for (int i = 0; i < 16; ++i) quads[4 * (d + i)] = unsigned_code(codes[i]);
    }
    store_scale(scale, head_size, slot, bytes);
  }
}

// Vector kByte of four that stand as the bytes of the lanes of `codes`.
template <int kByte>
STOKER_INLINE F32 decode(I32 codes, F32 scale, F32 minimum) {
  return fma(to_float(byte_of<kByte>(codes)), scale, minimum);
}

// A part of keys as fp32, [head_size][kTileTokens], of which `out` is the first of 16 columns.
static void widen_keys(const void* part, KvType type, int head_size, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(part);
  if (type == KvType::f32 || type == KvType::f16) {
    for (int d = 0; d < head_size; ++d) {
      const ptrdiff_t at = ptrdiff_t{d} * kBlockTokens;
      store(out + d * kTileTokens, type == KvType::f32 ? load(static_cast<const float*>(part) + at)
                                                       : load_half(static_cast<const uint16_t*>(part) + at));
    }
  } else if (type == KvType::bf16) {
    for (int d = 0; d < head_size; d += 2) {
      const I32 pairs = load_bytes(bytes + ptrdiff_t{d} * kBlockTokens * 2);
      store(out + d * kTileTokens, first_bfloats(pairs));
      store(out + (d + 1) * kTileTokens, second_bfloats(pairs));
    }
  } else {
    const I32 tail = load_bytes(bytes + head_size * kBlockTokens);
    const F32 scale = first_bfloats(tail), minimum = second_bfloats(tail);
    for (int d = 0; d < head_size; d += 4) {
      const I32 codes = load_bytes(bytes + ptrdiff_t{d} * kBlockTokens);
      store(out + d * kTileTokens, decode<0>(codes, scale, minimum));
      store(out + (d + 1) * kTileTokens, decode<1>(codes, scale, minimum));
      store(out + (d + 2) * kTileTokens, decode<2>(codes, scale, minimum));
      store(out + (d + 3) * kTileTokens, decode<3>(codes, scale, minimum));
    }
  }
}

// A part of values as fp32, [16][head_size].
static void widen_values(const void* part, KvType type, int head_size, float* out) {
  const auto* bytes = static_cast<const uint8_t*>(part);
  if (type == KvType::f32 || type == KvType::f16) {
    for (int i = 0; i < kBlockTokens * head_size; i += 16) {
      store(out + i, type == KvType::f32 ? load(static_cast<const float*>(part) + i)
                                         : load_half(static_cast<const uint16_t*>(part) + i));
    }
  } else if (type == KvType::bf16) {
    for (int token = 0; token < kBlockTokens; token += 2) {
      for (int d = 0; d < head_size; d += 16) {
        const I32 pairs = load_bytes(bytes + 2 * (token * head_size + 2 * d));
        store(out + token * head_size + d, first_bfloats(pairs));
        store(out + (token + 1) * head_size + d, second_bfloats(pairs));
      }
    }
  } else {
    CodeScale tail[kBlockTokens];
    std::memcpy(tail, bytes + head_size * kBlockTokens, sizeof tail);
    for (int token = 0; token < kBlockTokens; token += 4) {
      F32 scale[4], minimum[4];
      for (int i = 0; i < 4; ++i) {
        scale[i] = splat(bfloat_value(tail[token + i].scale));
        minimum[i] = splat(bfloat_value(tail[token + i].minimum));
      }
      for (int d = 0; d < head_size; d += 16) {
        const I32 codes = load_bytes(bytes + token * head_size + 4 * d);
        float* at = out + token * head_size + d;
        store(at, decode<0>(codes, scale[0], minimum[0]));
        store(at + head_size, decode<1>(codes, scale[1], minimum[1]));
        store(at + 2 * head_size, decode<2>(codes, scale[2], minimum[2]));
        store(at + 3 * head_size, decode<3>(codes, scale[3], minimum[3]));
      }
    }
  }
}

}  // namespace stoker::STOKER_ISA
