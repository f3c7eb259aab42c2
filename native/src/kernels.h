// The table of compute kernels: one implementation per instruction set, chosen at run time.
//
// Every kernel is deterministic per row: each output element has one order of summation that depends on its own
// row and on absolute positions only, never on how many other rows or threads there are.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "ahead.h"
#include "kv_cache.h"
#include "pieces.h"
#include "weights.h"

namespace stoker {

enum class Activation;  // in shape.h

constexpr int kTileTokens = 64;     // keys in one step of the online softmax; tiles begin at multiples of it
constexpr int kAttentionRows = 16;  // most consecutive positions in one call of attention
constexpr int kSumChunk = 1024;     // vocabulary entries summed in one vector pass

// A group of int8 activations: x = scale * code + offset; `sum` is the sum of the 32 x so represented.
struct GroupMeta {
  float scale;
  float offset;
  float sum;
};

// Rows of activations in the form that a matrix wants: int8 codes for u4 and u8, floats for the others.
struct Activations {
  const float* values;    // [m][k]
  const int8_t* codes;    // [m][k]
  const GroupMeta* meta;  // [m][k / 32]
  int k;
  Ahead* ahead = nullptr;  // what products fetch meanwhile, if anything
};

// The first key that a token sees; `window` counts the token itself and is 0 for all before it.
static inline int first_seen(int position, int window) {
  return window == 0 || position < window ? 0 : position - window + 1;
}

// Floats of working memory that a call of attention wants: a tile of keys and values as fp32; or the queries in another
// form, two vectors and three numbers for each, and the weights of a tile's keys for 48 of them; or queries, weighted
// sums and two vectors for each, scores, weights, values and weighted sums of a tile, and its alignment.
static inline size_t attend_scratch_floats(int group, int head_size) {
  const auto head = static_cast<size_t>(head_size);
  const size_t n_queries = static_cast<size_t>(kAttentionRows) * static_cast<size_t>(group);
  const size_t widened = 2 * size_t{kTileTokens} * head;
  const size_t stored = n_queries * (head / 2 + 2 * 16 + 3) + size_t{48} * kTileTokens / 2;
  const size_t tiles = n_queries * (head / 2 + head + 2 * 16) + size_t{16} * head + size_t{24} * kTileTokens +
                       kTileTokens * head / 2 + 2 * 16 * 16;
  const size_t larger = stored > tiles ? stored : tiles;
  return widened > larger ? widened : larger;
}

// Attention of a few consecutive positions of one sequence with the query heads of one KV head, over the keys
// in [key_begin, key_end).
struct AttendArgs {
  const float* queries;  // [n_rows][group][head_size], scaled; rows are `query_stride` floats apart
  ptrdiff_t query_stride;
  int n_rows;     // at most kAttentionRows: at positions first_position, first_position + 1, ...
  int group;      // query heads per KV head
  int head_size;  // a multiple of 32
  int first_position;
  int key_begin;  // where a piece begins
  int key_end;    // where it ends
  int window;     // a row at position p sees keys from first_seen(p, window) to p
  float softcap;  // scores become softcap * tanh(score / softcap); 0 for not
  const int32_t* block_table;
  const uint8_t* keys;  // this layer's and head's part of block 0
  const uint8_t* values;
  size_t block_stride;  // bytes between a head's parts of consecutive blocks
  KvType kv_type;
  float* scratch;  // attend_scratch_floats
  // Results per (row, head): maximum score, sum of weights, weighted sum of values. A row that sees none of the keys
  // is left alone or empty.
  float* maximum;      // [n_rows][group]
  float* sum;          // [n_rows][group]
  float* accumulator;  // [n_rows][group][head_size]
};

// out = activation of gate, times what becomes of up.
using Activate = void(const float* gate, const float* up, int n, float* out);

struct Kernels {
  const char* name;
  KvType kv_type;  // that attention is fastest with

  // out[row][0 .. 16 * (block_end - block_begin)) for rows [row_begin, row_end); `out` rows are `stride` apart.
  void (*matmul)(const PackedMatrix& matrix, const Activations& input, int row_begin, int row_end, int block_begin,
                 int block_end, float* out, ptrdiff_t stride);
  // Of an adapter, whose matrices are bf16 or f32. Rows rows[0] to rows[n_rows - 1] of `values`, which are `stride`
  // apart, times `down` and `scale`, into the same rows of `out`: as many floats as its column blocks have.
  void (*adapt_down)(const PackedMatrix& down, float scale, const float* values, ptrdiff_t stride, const int32_t* rows,
                     int n_rows, float* out, ptrdiff_t out_stride);
  // out[0 .. 16 * (block_end - block_begin)) += `low` times the column blocks of `up`.
  void (*adapt_up)(const PackedMatrix& up, const float* low, int block_begin, int block_end, float* out);
  // int8 per group of 32, the group's range spread over all 256 codes.
  void (*quantize)(const float* x, int n, int8_t* codes, GroupMeta* meta);
  // 16 bits per value as the sum of two rows of codes: codes and meta hold the coarse row, then the fine one.
  void (*quantize_twice)(const float* x, int n, int8_t* codes, GroupMeta* meta);
  void (*rms_norm)(const float* x, const float* weight, int n, float epsilon, float* out);
  void (*add)(float* x, const float* y, int n);  // x += y
  void (*scale)(float* x, float factor, int n);  // x *= factor, for any n
  void (*softcap)(float* x, float cap, int n);   // x = cap * tanh(x / cap)
  Activate *swiglu, *geglu, *clamped_swiglu;     // by the names of Activation: silu, gelu_tanh, clamped_swiglu
  // Rotates (x[i], x[i + half]) by the angle whose cosine and sine are given, then scales; for any half.
  void (*rotate)(float* x, const float* cosine, const float* sine, int half, float scale);
  // Store one position's key or value of one head into its part of a block; `slot` is the position inside the block.
  void (*store_key)(const float* key, int head_size, int slot, KvType type, void* part);
  void (*store_value)(const float* value, int head_size, int slot, KvType type, void* part);
  // A part as fp32: keys [head_size][kTileTokens], the first 16 columns of it, and values [16][head_size].
  void (*widen_keys)(const void* part, KvType type, int head_size, float* out);
  void (*widen_values)(const void* part, KvType type, int head_size, float* out);
  void (*attend)(const AttendArgs& args);
  // Joins the partial result (other_*) of a later piece to (maximum, sum, accumulator) of one row and head.
  void (*merge)(float* maximum, float* sum, float* accumulator, float other_maximum, float other_sum,
                const float* other_accumulator, int head_size);
  void (*divide)(const float* x, float divisor, int n, float* out);
  int (*argmax)(const float* x, int n);  // ties to the lowest index
  // out[i] = exp((x[i] - maximum) * factor), 0 where the exponent is below -87; chunk_sums[c] is the sum over entries
  // [1024 c, 1024 (c + 1)).
  void (*exp_terms)(const float* x, int n, float maximum, float factor, float* out, double* chunk_sums);

  // For machine_limits.h: loops of the operation that bounds products and attention, which return how many they have
  // done, and reads of `size` bytes, a multiple of 512. `out` holds 16 zeros, and does again.
  double (*dot_loop)(int n_rounds, float* out);
  double (*fma_loop)(int n_rounds, float* out);
  double (*bfloat_loop)(int n_rounds, float* out);  // null without products in bf16
  void (*read_loop)(const uint8_t* data, size_t size, float* out);
};

// Kernels that this processor can run, fastest first.
std::vector<const Kernels*> available_kernels();

Activate* activation_of(const Kernels& kernels, Activation activation);

// By name, or the fastest for "auto". Throws std::invalid_argument for a name that is unknown or cannot run here.
const Kernels& find_kernels(const std::string& name);

namespace amx {
extern const Kernels kKernels;
}
namespace avx512bf16 {
extern const Kernels kKernels;
}
namespace avx512vnni {
extern const Kernels kKernels;
}
namespace avx2vnni {
extern const Kernels kKernels;
}
namespace avx2 {
extern const Kernels kKernels;
}
namespace neon {
extern const Kernels kKernels;
}
namespace portable {
extern const Kernels kKernels;
}

}  // namespace stoker
