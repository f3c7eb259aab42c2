#include "weights.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "fp16.h"
#include "thread_pool.h"

namespace stoker {

namespace {

// One stored group of 32 values as codes, scale and minimum, or as plain floats.
struct Group {
  uint8_t codes[kGroup];
  uint16_t scale;
  uint16_t minimum;
};

uint16_t load16(const uint8_t* p) {
  uint16_t value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

// minimum = factor * scale, exactly: the factor is a power of two.
uint16_t scaled_half(uint16_t scale, float factor) { return half_from_float(float_from_half(scale) * factor); }

void split_nibbles(const uint8_t* packed, uint8_t* codes) {
  for (int i = 0; i < 16; ++i) {
    codes[i] = packed[i] & 15;
    codes[i + 16] = packed[i] >> 4;
  }
}

void read_group(SourceType type, const uint8_t* p, Group& group) {
  group.scale = load16(p);
  switch (type) {
    case SourceType::q4_0:  // half d; 16 bytes; w = d * (code - 8)
      group.minimum = scaled_half(group.scale, -8.0f);
      split_nibbles(p + 2, group.codes);
      return;
    case SourceType::q4_1:  // half d, half m; 16 bytes; w = d * code + m
      group.minimum = load16(p + 2);
      split_nibbles(p + 4, group.codes);
      return;
    default:  // q8_0: half d; 32 signed bytes; w = d * q
      group.minimum = scaled_half(group.scale, -128.0f);
      for (int i = 0; i < kGroup; ++i) group.codes[i] = static_cast<uint8_t>(p[2 + i] ^ 0x80);
      return;
  }
}

bool quantized(SourceType type) {
  return type == SourceType::q8_0 || type == SourceType::q4_0 || type == SourceType::q4_1;
}

size_t group_size(SourceType type) {
  switch (type) {
    case SourceType::q8_0: return 34;
    case SourceType::q4_0: return 18;
    case SourceType::q4_1: return 20;
    case SourceType::f32: return 4 * kGroup;
    default: return 2 * kGroup;
  }
}

float read_value(SourceType type, const uint8_t* p, int i) {
  if (type == SourceType::f32) {
    float value;
    std::memcpy(&value, p + 4 * static_cast<size_t>(i), sizeof value);
    return value;
  }
  const uint16_t half = load16(p + 2 * static_cast<size_t>(i));
  return type == SourceType::f16 ? float_from_half(half) : float_from_bfloat(half);
}

void read_floats(SourceType type, const uint8_t* p, int k, float* out) {
  if (!quantized(type)) {
    for (int i = 0; i < k; ++i) out[i] = read_value(type, p, i);
    return;
  }
  for (int g = 0; g < k / kGroup; ++g) {
    Group group;
    read_group(type, p + static_cast<size_t>(g) * group_size(type), group);
    const float scale = float_from_half(group.scale);
    const float minimum = float_from_half(group.minimum);
    for (int i = 0; i < kGroup; ++i) out[g * kGroup + i] = static_cast<float>(group.codes[i]) * scale + minimum;
  }
}

bool finite_half(uint16_t half) { return (half & 0x7c00u) != 0x7c00u; }

// Writes one row's group into its lane of a packed group. False when scale or minimum is not finite.
bool place_group(WeightType type, const Group& group, uint8_t* packed, int lane) {
  uint8_t* bytes = packed + 4 * lane;
  if (type == WeightType::u4) {
    for (int v = 0; v < 4; ++v) {
      for (int j = 0; j < 4; ++j) {
        const int low = group.codes[8 * v + j];
        const int high = group.codes[8 * v + 4 + j];
        bytes[64 * v + j] = static_cast<uint8_t>(low | (high << 4));
      }
    }
  } else {
    for (int v = 0; v < 8; ++v) std::memcpy(bytes + 64 * v, group.codes + 4 * v, 4);
  }
  auto* tail = reinterpret_cast<QuantGroupTail*>(packed + (type == WeightType::u4 ? 256 : 512));
  tail->scale[lane] = group.scale;
  tail->minimum[lane] = group.minimum;
  return finite_half(group.scale) && finite_half(group.minimum);
}

WeightType packed_type(SourceType type, bool dequantize) {
  if (dequantize) return WeightType::f32;
  switch (type) {
    case SourceType::q4_0:
    case SourceType::q4_1: return WeightType::u4;
    case SourceType::q8_0: return WeightType::u8;
    case SourceType::f16: return WeightType::f16;
    case SourceType::bf16: return WeightType::bf16;
    default: return WeightType::f32;
  }
}

size_t packed_group_size(WeightType type) {
  switch (type) {
    case WeightType::u4: return 256 + sizeof(QuantGroupTail);
    case WeightType::u8: return 512 + sizeof(QuantGroupTail);
    case WeightType::f32: return 4 * kLanes * kGroup;
    default: return 2 * kLanes * kGroup;
  }
}

// Where row `row` of the packed matrix stands in the file: packed heads keep rotary pairs half a head apart.
int source_row(int row, int n, int rotary_heads) {
  if (rotary_heads == 0) return row;
  const int head_size = n / rotary_heads;
  const int half = head_size / 2;
  const int in_head = row % head_size;
  return row - in_head + 2 * (in_head % half) + in_head / half;
}

}  // namespace

SourceType source_type(const std::string& name) {
  if (name == "F32") return SourceType::f32;
  if (name == "F16") return SourceType::f16;
  if (name == "BF16") return SourceType::bf16;
  if (name == "Q8_0") return SourceType::q8_0;
  if (name == "Q4_0") return SourceType::q4_0;
  if (name == "Q4_1") return SourceType::q4_1;
  throw std::invalid_argument("unknown tensor type " + name);
}

size_t source_row_size(SourceType type, int k) {
  if (k <= 0 || k % kGroup != 0) {
    throw std::invalid_argument("a row of " + std::to_string(k) + " values is not a multiple of 32");
  }
  return group_size(type) * static_cast<size_t>(k / kGroup);
}

PackedMatrix pack(SourceType type, const uint8_t* rows, int n, int k, const PackOptions& options, ThreadPool& pool) {
  const size_t row_size = source_row_size(type, k);
  if (n <= 0) throw std::invalid_argument("a matrix needs at least one row");
  if (options.rotary_heads > 0 && n % (2 * options.rotary_heads) != 0) {
    throw std::invalid_argument("rows do not divide into heads of rotary pairs");
  }
  PackedMatrix matrix;
  matrix.type = packed_type(type, options.dequantize);
  matrix.n = n;
  matrix.k = k;
  const size_t packed_group = packed_group_size(matrix.type);
  matrix.block_size = packed_group * static_cast<size_t>(k / kGroup);
  matrix.memory = Memory(matrix.block_size * static_cast<size_t>(matrix.n_blocks()));

  std::atomic<bool> finite{true};
  pool.run(matrix.n_blocks(), [&](int block, int) {
    uint8_t* out = matrix.memory.as<uint8_t>() + static_cast<size_t>(block) * matrix.block_size;
    for (int lane = 0; lane < kLanes && block * kLanes + lane < n; ++lane) {
      const int row = source_row(block * kLanes + lane, n, options.rotary_heads);
      const uint8_t* source = rows + static_cast<size_t>(row) * row_size;
      for (int g = 0; g < k / kGroup; ++g) {
        uint8_t* packed = out + static_cast<size_t>(g) * packed_group;
        const uint8_t* stored = source + static_cast<size_t>(g) * group_size(type);
        if (matrix.quantized()) {
          Group group;
          read_group(type, stored, group);
          if (!place_group(matrix.type, group, packed, lane)) finite.store(false, std::memory_order_relaxed);
        } else if (matrix.type == WeightType::f32) {
          float values[kGroup];
          read_floats(type, stored, kGroup, values);
          auto* lanes = reinterpret_cast<float*>(packed) + lane;
          for (int i = 0; i < kGroup; ++i) lanes[i * kLanes] = values[i];
        } else {
          auto* lanes = reinterpret_cast<uint16_t*>(packed) + lane;
          for (int i = 0; i < kGroup; ++i) lanes[i * kLanes] = load16(stored + 2 * i);
        }
      }
    }
  });
  if (!finite.load()) throw std::invalid_argument("a quantization scale is infinite, not a number, or too large");
  return matrix;
}

void unpack_row(const PackedMatrix& matrix, int index, float* out) {
  const uint8_t* block = matrix.block(index / kLanes);
  const int lane = index % kLanes;
  if (!matrix.quantized()) {
    for (int i = 0; i < matrix.k; ++i) {
      const int at = i * kLanes + lane;
      switch (matrix.type) {
        case WeightType::f16: out[i] = float_from_half(reinterpret_cast<const uint16_t*>(block)[at]); break;
        case WeightType::bf16: out[i] = float_from_bfloat(reinterpret_cast<const uint16_t*>(block)[at]); break;
        default: out[i] = reinterpret_cast<const float*>(block)[at]; break;
      }
    }
    return;
  }
  const bool four_bits = matrix.type == WeightType::u4;
  for (int g = 0; g < matrix.k / kGroup; ++g) {
    const uint8_t* packed = block + static_cast<size_t>(g) * packed_group_size(matrix.type);
    const uint8_t* bytes = packed + 4 * lane;
    const auto* tail = reinterpret_cast<const QuantGroupTail*>(packed + (four_bits ? 256 : 512));
    const float scale = float_from_half(tail->scale[lane]);
    const float minimum = float_from_half(tail->minimum[lane]);
    for (int i = 0; i < kGroup; ++i) {
      const int code =
          four_bits ? (bytes[64 * (i / 8) + i % 4] >> (i % 8 < 4 ? 0 : 4)) & 15 : bytes[64 * (i / 4) + i % 4];
      out[g * kGroup + i] = static_cast<float>(code) * scale + minimum;
    }
  }
}

}  // namespace stoker
