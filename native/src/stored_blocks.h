// Tensors as a GGUF file stores them: blocks of 32 values, super-blocks of 256, or plain floats.
//
// Readers take a row and the number of a group of 32 consecutive values in it. Nothing is aligned.
// The layouts are drawn in stored_blocks.cpp.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace stoker {

constexpr int kGroup = 32;  // values that share a scale

enum class SourceType {
  f32,
  f16,
  bf16,
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4,
};

// Throws std::invalid_argument for a name that is none of GGUF's names of these types.
SourceType source_type(const std::string& name);

// Bytes of one row of `k` values. Throws std::invalid_argument when k is not a whole number of the type's blocks,
// or of groups.
size_t source_row_size(SourceType type, int k);

// F32, F16 and BF16: no blocks.
bool is_plain(SourceType type);

// A group of 32 values: w = (code - zero) * scale + offset. Zero or offset is 0.
struct StoredGroup {
  uint8_t codes[kGroup];
  int zero;
  float scale;
  float offset;
};

// A group of any type but the plain ones, Q2_K and Q6_K, whose 16 values to a scale and different minimums or large
// scales do not fit such a group. Exact: scales that are products have more bits than an f16.
void read_group(SourceType type, const uint8_t* row, int group, StoredGroup& out);

// The 32 values of a group of any type, rounded once to floats.
void read_values(SourceType type, const uint8_t* row, int group, float* out);

}  // namespace stoker
