// What the native tests share: checks, random numbers, random matrices as a file stores them.
#pragma once
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "fp16.h"
#include "kv_cache.h"
#include "philox.h"
#include "weights.h"

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

namespace stoker {

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint32_t bits() { return philox({count_++, 0, 0, 0}, seed_)[0]; }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint32_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  float unit() { return static_cast<float>(bits() >> 8) * 0x1p-23f - 1.0f; }  // in [-1, 1)
  void shuffle(std::vector<int>& values) {
    for (size_t i = values.size(); i > 1; --i)
      std::swap(values[i - 1], values[static_cast<size_t>(below(static_cast<int>(i)))]);
  }

 private:
  uint64_t seed_;
  uint32_t count_ = 0;
};

inline bool refuses(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

inline void append16(std::vector<uint8_t>& out, uint16_t value) {
  out.push_back(static_cast<uint8_t>(value & 255));
  out.push_back(static_cast<uint8_t>(value >> 8));
}

inline const KvType kKvTypes[] = {KvType::f16, KvType::bf16, KvType::q8, KvType::f32};
inline const char* const kTypes[] = {"Q4_0", "Q4_1", "Q8_0", "F16", "BF16", "F32"};

// A random matrix as stored in a file, and its values.
struct Stored {
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};

inline Stored random_matrix(Random& random, const std::string& type, int n, int k) {
  Stored out;
  const float size = 1.0f / std::sqrt(static_cast<float>(k));
  const bool blocks = type[0] == 'Q';
  for (int i = 0; i < n * k / (blocks ? kGroup : 1); ++i) {
    if (type == "F32") {
      const float value = random.unit() * size;
      uint8_t raw[4];
      std::memcpy(raw, &value, 4);
      out.bytes.insert(out.bytes.end(), raw, raw + 4);
      out.values.push_back(value);
      continue;
    }
    if (!blocks) {
      const float value = random.unit() * size;
      const uint16_t half =
          type == "F16" ? half_from_float(value) : static_cast<uint16_t>(bits_from_float(value) >> 16);
      append16(out.bytes, half);
      out.values.push_back(type == "F16" ? float_from_half(half) : float_from_bfloat(half));
      continue;
    }
    const uint16_t scale = half_from_float(random.unit() * size / (type == "Q8_0" ? 127.0f : 8.0f));
    const uint16_t minimum = half_from_float(random.unit() * size);
    append16(out.bytes, scale);
    if (type == "Q4_1") append16(out.bytes, minimum);
    uint8_t raw[kGroup];
    for (uint8_t& byte : raw) byte = static_cast<uint8_t>(random.bits());
    const int n_raw = type == "Q8_0" ? 32 : 16;
    out.bytes.insert(out.bytes.end(), raw, raw + n_raw);
    const float s = float_from_half(scale);
    for (int j = 0; j < kGroup; ++j) {
      const int nibble = j < 16 ? raw[j % 16] & 15 : raw[j % 16] >> 4;
      if (type == "Q4_0") out.values.push_back(s * static_cast<float>(nibble - 8));
      if (type == "Q4_1") out.values.push_back(s * static_cast<float>(nibble) + float_from_half(minimum));
      if (type == "Q8_0") out.values.push_back(s * static_cast<float>(static_cast<int8_t>(raw[j])));
    }
  }
  return out;
}

}  // namespace stoker
