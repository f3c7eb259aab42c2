#include "weights.h"

#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <stdexcept>

#include "fp16.h"
#include "thread_pool.h"

namespace stoker {

namespace {

constexpr const char* kTypeNames[] = {"u4", "u8", "f16", "bf16", "f32"};  // in the order of WeightType

bool finite_half(uint16_t half) { return (half & 0x7c00u) != 0x7c00u; }

// Writes one row's group into its lane of a packed group, scale and minimum rounded to fp16. False when one of them
// is not finite.
bool place_group(WeightType type, const StoredGroup& group, uint8_t* packed, int lane) {
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
  // The minimum of a symmetric type counts from the rounded scale, so that code `zero` stays 0. Its multiple of the
  // scale then fits an f16 exactly, unless it overflows.
  const uint16_t scale = half_from_float(group.scale);
  const uint16_t minimum = half_from_float(group.offset - static_cast<float>(group.zero) * float_from_half(scale));
  tail->scale[lane] = scale;
  tail->minimum[lane] = minimum;
  return finite_half(scale) && finite_half(minimum);
}

WeightType packed_type(SourceType type, bool dequantize) {
  if (dequantize) return WeightType::f32;
  switch (type) {
    case SourceType::q4_0:
    case SourceType::q4_1:
    case SourceType::q4_k: return WeightType::u4;
    case SourceType::f32: return WeightType::f32;
    case SourceType::bf16: return WeightType::bf16;
    case SourceType::f16:
    case SourceType::q2_k:
    case SourceType::q6_k: return WeightType::f16;
    default: return WeightType::u8;
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

bool place_codes(SourceType source, WeightType type, const uint8_t* row, int g, uint8_t* packed, int lane) {
  StoredGroup group;
  read_group(source, row, g, group);
  return place_group(type, group, packed, lane);
}

// Writes 32 values of a row into their lane of a packed group. False when one computed from a block is not finite;
// plain floats are taken as they are.
bool place_values(SourceType source, WeightType type, const uint8_t* row, int g, uint8_t* packed, int lane) {
  if (type == WeightType::bf16 || (type == WeightType::f16 && is_plain(source))) {
    const uint8_t* stored = row + size_t{2 * kGroup} * static_cast<size_t>(g);
    for (int i = 0; i < kGroup; ++i) std::memcpy(packed + 2 * (i * kLanes + lane), stored + 2 * i, 2);
    return true;
  }
  float values[kGroup];
  read_values(source, row, g, values);
  bool finite = true;
  for (int i = 0; i < kGroup; ++i) {
    if (type == WeightType::f32) {
      reinterpret_cast<float*>(packed)[i * kLanes + lane] = values[i];
      finite = finite && std::isfinite(values[i]);
    } else {
      const uint16_t half = half_from_float(values[i]);
      reinterpret_cast<uint16_t*>(packed)[i * kLanes + lane] = half;
      finite = finite && finite_half(half);
    }
  }
  return finite || is_plain(source);
}

}  // namespace

int neighbours_row(int row, int head_size, int rotary_pairs) {
  const int in_head = row % head_size;
  if (in_head >= 2 * rotary_pairs) return row;
  return row - in_head + 2 * (in_head % rotary_pairs) + in_head / rotary_pairs;
}

PackedMatrix pack(SourceType type, const uint8_t* rows, int n, int k, const PackOptions& options, ThreadPool& pool) {
  const size_t row_size = source_row_size(type, k);
  if (n <= 0) throw std::invalid_argument("a matrix needs at least one row");
  const int heads = options.rotary_heads;
  if (heads > 0 && (n % heads != 0 || options.rotary_pairs < 0 || options.rotary_pairs > n / heads / 2)) {
    throw std::invalid_argument("rows do not divide into heads of rotary pairs");
  }
  PackedMatrix matrix;
  matrix.type = packed_type(type, options.dequantize);
  matrix.n = n;
  matrix.k = k;
  const size_t packed_group = packed_group_size(matrix.type);
  matrix.block_size = packed_group * static_cast<size_t>(k / kGroup);
  matrix.memory = Memory(matrix.bytes());

  std::atomic<bool> finite{true};
  pool.run(matrix.n_blocks(), [&](int block, int) {
    uint8_t* out = matrix.memory.as<uint8_t>() + static_cast<size_t>(block) * matrix.block_size;
    for (int lane = 0; lane < kLanes && block * kLanes + lane < n; ++lane) {
      const int packed_row = block * kLanes + lane;
      const int row = heads > 0 ? neighbours_row(packed_row, n / heads, options.rotary_pairs) : packed_row;
      const uint8_t* source = rows + static_cast<size_t>(row) * row_size;
      for (int g = 0; g < k / kGroup; ++g) {
        uint8_t* packed = out + static_cast<size_t>(g) * packed_group;
        const bool fine = matrix.quantized() ? place_codes(type, matrix.type, source, g, packed, lane)
                                             : place_values(type, matrix.type, source, g, packed, lane);
        if (!fine) finite.store(false, std::memory_order_relaxed);
      }
    }
  });
  if (!finite.load()) throw std::invalid_argument("a quantization scale is infinite, not a number, or too large");
  return matrix;
}

const char* weight_type_name(WeightType type) { return kTypeNames[static_cast<size_t>(type)]; }

WeightType weight_type(const std::string& name) {
  for (size_t i = 0; i < std::size(kTypeNames); ++i) {
    if (name == kTypeNames[i]) return static_cast<WeightType>(i);
  }
  throw std::invalid_argument("unknown type of packed weights '" + name + "'");
}

PackedMatrix view_packed(WeightType type, const uint8_t* bytes, size_t size, int n, int k) {
  if (n <= 0 || k <= 0 || k % kGroup != 0) throw std::invalid_argument("a packed matrix has no such shape");
  PackedMatrix matrix;
  matrix.type = type;
  matrix.n = n;
  matrix.k = k;
  matrix.block_size = packed_group_size(type) * static_cast<size_t>(k / kGroup);
  if (size != matrix.bytes()) {
    throw std::invalid_argument("expected " + std::to_string(matrix.bytes()) + " packed bytes, got " +
                                std::to_string(size));
  }
  matrix.memory = Memory::borrowed(bytes, size);
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
