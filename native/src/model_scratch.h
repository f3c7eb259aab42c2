// Buffers that a forward works in, allocated once for the largest step.
#pragma once
#include <atomic>
#include <vector>

#include "memory.h"
#include "model.h"

namespace stoker {

constexpr int kRowBlock = 96;      // rows that share one pass over a column block; a multiple of the kernels' 12
constexpr int kAttentionRows = 8;  // consecutive positions in one attention task

struct Row {
  int position;
  int kv_block;  // that holds the position
};

// A run of consecutive positions of one sequence, with the query heads of one KV head.
struct AttentionTask {
  int first_row;
  int n_rows;
  int kv_head;
  int first_position;
  const int32_t* block_table;
  int first_piece;
  int last_piece;     // exclusive
  int first_partial;  // index of the task group's partial result for piece 0, or -1: the task does all pieces
  int n_pieces;       // of the group
  int group_index;    // counts the group's finished tasks
};

enum class Form { codes, both };

// Activations of up to `rows` rows, as codes alone or as floats too.
struct ActivationBuffer {
  ActivationBuffer() = default;
  ActivationBuffer(size_t rows, size_t k, Form form = Form::both)
      : values(form == Form::both ? rows * k * sizeof(float) : 0),
        codes(rows * k),
        meta(rows * (k / kGroup) * sizeof(GroupMeta)),
        k(static_cast<int>(k)) {}
  Activations view() const { return {values.as<float>(), codes.as<int8_t>(), meta.as<GroupMeta>(), k}; }
  float* row_values(int row) const { return values.as<float>() + static_cast<size_t>(row) * static_cast<size_t>(k); }
  int8_t* row_codes(int row) const { return codes.as<int8_t>() + static_cast<size_t>(row) * static_cast<size_t>(k); }
  GroupMeta* row_meta(int row) const {
    return meta.as<GroupMeta>() + static_cast<size_t>(row) * static_cast<size_t>(k / kGroup);
  }

  Memory values, codes, meta;
  int k = 0;
};

// (maximum, sum, accumulator) of the rows and heads of an attention task.
struct Partial {
  float* maximum;
  float* sum;
  float* accumulator;
};

struct ThreadScratch {
  Memory tile;       // a matrix product's output on its way to the epilogue
  Memory halves;     // the products of coarse and fine rows with one column block, not yet added
  Memory attention;  // widened keys and values
  Memory partials;   // two partial results
  SampleScratch sampling;
};

struct Scratch {
  int n_rows = 0;
  std::vector<Row> rows;
  std::vector<int> sampled_seqs;
  std::vector<int> logit_rows;
  std::vector<AttentionTask> tasks;
  std::vector<std::atomic<int>> finished;  // per task group
  int n_partials = 0;
  Memory residual;  // [rows][width]
  Memory queries;   // [rows][n_heads * head_size]
  ActivationBuffer normed, attended, inner;
  ActivationBuffer normed_twice;  // what is normed at 16 bits: two rows each, coarse and fine
  Memory partials;
  Memory logits;  // [rows][padded vocabulary]
  std::vector<ThreadScratch> threads;
};

}  // namespace stoker
