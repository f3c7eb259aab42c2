// The weight family: one packed layout for all matrices, made for the kernels.
//
// A matrix maps K inputs to N outputs. Outputs are cut into column blocks of 16, one output per vector lane.
//
// u4, u8: w = code * scale + minimum, with unsigned codes and, per group of 32 inputs and output, an fp16 scale
// and an fp16 minimum. A column block is K/32 groups one after the other:
//
//   u4 group, 320 bytes                                u8 group, 576 bytes
//   4 x 64 bytes of codes                              8 x 64 bytes of codes
//     byte 4*lane+j of vector v: low nibble              byte 4*lane+j of vector v: input 4v+j
//     is input 8v+j, high nibble input 8v+4+j          16 fp16 scales, 16 fp16 minimums
//   16 fp16 scales, 16 fp16 minimums
//
// f16, bf16, f32: a column block is K rows of 16 values.
//
// How stored types are held; docs/models.md says what that costs:
//   u4    Q4_0, Q4_1; Q4_K with its scales and minimums rounded to fp16
//   u8    Q8_0, Q5_0, Q5_1, Q3_K, IQ4_NL, MXFP4; Q5_K and IQ4_XS with their scales and minimums rounded to fp16
//   f16   F16; Q2_K and Q6_K, whose 16 values to a scale the groups cannot hold, with each weight rounded to fp16
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "memory.h"
#include "stored_blocks.h"

namespace stoker {

class ThreadPool;

constexpr int kLanes = 16;  // outputs in a column block

enum class WeightType { u4, u8, f16, bf16, f32 };

// Number of the layouts above. A pack file of another number is not used, so it must change with any of them.
constexpr int kPackLayout = 1;

struct QuantGroupTail {  // behind the codes of a group
  uint16_t scale[kLanes];
  uint16_t minimum[kLanes];
};

struct PackedMatrix {
  WeightType type = WeightType::f32;
  int n = 0;              // outputs
  int k = 0;              // inputs
  size_t block_size = 0;  // bytes of one column block
  Memory memory;
  bool precise = false;  // its products take activations of 16 bits instead of 8; see Model::set_activation_bits

  int n_blocks() const { return (n + kLanes - 1) / kLanes; }
  bool quantized() const { return type == WeightType::u4 || type == WeightType::u8; }
  bool wants_int8() const { return quantized() && !precise; }
  bool wants_int16() const { return quantized() && precise; }
  size_t bytes() const { return block_size * static_cast<size_t>(n_blocks()); }
  const uint8_t* block(int index) const { return memory.as<uint8_t>() + static_cast<size_t>(index) * block_size; }
};

struct PackOptions {
  bool dequantize = false;  // to f32, for the float path
  int rotary_heads = 0;     // > 0: rows are this many heads whose rotary pairs are neighbours; store them as halves
  int rotary_pairs = 0;     // pairs of each head, from its first row on; the rows after them stay
};

// Where row `row` of heads that keep rotary pairs as halves stands where they are neighbours.
int neighbours_row(int row, int head_size, int rotary_pairs);

// Packs `n` rows of `k` values stored as `type`. The last column block is padded with zeros.
// Throws std::invalid_argument when sizes do not fit the layout, a scale does not fit fp16, or a value computed from
// a block is not finite.
PackedMatrix pack(SourceType type, const uint8_t* rows, int n, int k, const PackOptions& options, ThreadPool& pool);

const char* weight_type_name(WeightType type);
// Throws std::invalid_argument for an unknown name.
WeightType weight_type(const std::string& name);

// A matrix over bytes that `pack` has made before and that outlive it. Throws std::invalid_argument when their number
// does not follow from type and sizes.
PackedMatrix view_packed(WeightType type, const uint8_t* bytes, size_t size, int n, int k);

// Row `index` of the matrix (one output's weights) as `k` floats; embedding lookup.
void unpack_row(const PackedMatrix& matrix, int index, float* out);

}  // namespace stoker
