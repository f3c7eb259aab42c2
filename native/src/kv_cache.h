// How keys and values are held: blocks of 16 tokens, and in each block one part for the keys and one for the values of
// every KV head. A part holds all that is needed to read it, so blocks can be copied as bytes.
//
//   type  keys of a part                               values of a part
//   f32   [head_size][16 tokens]                       [16 tokens][head_size]
//   f16   [head_size][16 tokens]                       [16 tokens][head_size]
//   bf16  [head_size / 2][16 tokens][2]                [16 tokens / 2][head_size][2 tokens]
//   q8    [head_size / 4][16 tokens][4] codes, tail    [16 tokens / 4][head_size][4 tokens] codes, tail
//
// So a vector of 16 lanes has what one dot product of pairs or quads takes: of keys for 16 tokens, of values for 16
// dimensions. In q8 a value is code * scale + minimum with an unsigned byte as code; the tail is [16 tokens] of scale
// and minimum, both bf16.
#pragma once
#include <cstddef>
#include <string>

namespace stoker {

constexpr int kBlockTokens = 16;

enum class KvType { f16, f32, bf16, q8 };

// Bytes of the keys, or of the values, of one KV head of one block.
size_t kv_part_bytes(KvType type, int head_size);

const char* kv_type_name(KvType type);
// Throws std::invalid_argument for an unknown name.
KvType kv_type_named(const std::string& name);

}  // namespace stoker
