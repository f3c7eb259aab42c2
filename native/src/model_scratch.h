// Buffers that a forward works in, allocated once for the largest step.
#pragma once
#include <atomic>
#include <vector>

#include "memory.h"
#include "model.h"
#include "parallel.h"

namespace stoker {

// Memory for partial results of attention that is cut into pieces, for each thread: for so many whole tasks, but not
// less than a size that lets the few rows of a decode step be cut as finely as they can.
constexpr size_t kPartialsPerThread = 16;
constexpr size_t kLeastPartialBytes = size_t{1} << 20;

struct Row {
  int position;
  int kv_block;  // that holds the position
  const Adapter* adapter = nullptr;
};

// A run of consecutive positions of one sequence, with the query heads of one KV head, over one or more pieces of keys.
// Tasks that share the pieces of such a run are a group.
struct AttentionTask {
  int first_row;
  int n_rows;
  int kv_head;
  int first_position;
  const int32_t* block_table;
  int group_begin;  // the group's first piece of keys
  int group_end;    // exclusive
  int begin;        // the task's own pieces: one, or the group's first ones
  int end;
  ptrdiff_t partials;  // where the group's partial results begin, in floats: one of each task; or -1: a task of all
  int n_tasks;         // of the group
  int index;           // of the task in its group
  int group_index;     // counts the group's finished tasks
};

// The tasks of all layers that see as far back.
struct AttentionPlan {
  int window;  // 0 for all before a token
  std::vector<AttentionTask> tasks;
  std::vector<AttentionTask> groups;       // the first task of each
  std::vector<std::atomic<int>> finished;  // per task group
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
  Activations view(Ahead* ahead = nullptr) const {
    return {values.as<float>(), codes.as<int8_t>(), meta.as<GroupMeta>(), k, ahead};
  }
  float* row_values(int row) const { return values.as<float>() + static_cast<size_t>(row) * static_cast<size_t>(k); }
  int8_t* row_codes(int row) const { return codes.as<int8_t>() + static_cast<size_t>(row) * static_cast<size_t>(k); }
  GroupMeta* row_meta(int row) const {
    return meta.as<GroupMeta>() + static_cast<size_t>(row) * static_cast<size_t>(k / kGroup);
  }
  size_t size() const { return values.size() + codes.size() + meta.size(); }

  Memory values, codes, meta;
  int k = 0;
};

// Activations in all forms that matrices want: floats and int8 codes, and 16 bits as two rows of codes each, a coarse
// one and a fine one, in `twice`, which is empty until a matrix wants it.
struct ActivationForms {
  ActivationForms() = default;
  ActivationForms(size_t rows, size_t k) : once(rows, k), rows(rows) {}
  void want_twice() {
    if (twice.k == 0) twice = ActivationBuffer(2 * rows, static_cast<size_t>(once.k), Form::codes);
  }
  size_t size() const { return once.size() + twice.size(); }

  ActivationBuffer once, twice;
  size_t rows = 0;
};

// Rows of floats.
struct FloatRows {
  FloatRows() = default;
  FloatRows(size_t rows, size_t k) : memory(rows * k * sizeof(float)), k(k) {}
  float* row(int index) const { return memory.as<float>() + static_cast<size_t>(index) * k; }

  Memory memory;
  size_t k = 0;
};

// Cosines and sines of a rotary embedding for the step's rows: each row's cosines, then its sines.
struct Angles {
  FloatRows rows;
  size_t n_pairs = 0;
  const float* cosine(int row) const { return rows.row(row); }
  const float* sine(int row) const { return rows.row(row) + n_pairs; }
};

// (maximum, sum, accumulator) of the rows and heads of an attention task.
struct Partial {
  float* maximum;
  float* sum;
  float* accumulator;
};

// Floats of the partial result of so many rows.
inline size_t partial_floats(int n_rows, const ModelShape& shape) {
  return static_cast<size_t>(n_rows) * static_cast<size_t>(shape.group()) * (static_cast<size_t>(shape.head_size) + 2);
}

// Rows of the step that go through the same expert, at most kRowBlock, as places in the order of experts.
struct ExpertBlock {
  int expert;
  int begin;
  int end;
};

// Where each row goes. A row's choices are ranked by their scores; `place` is the choice's row in the buffers below.
struct ExpertScratch {
  FloatRows scores;          // [rows][experts, padded]
  std::vector<int> chosen;   // [rows][used] experts
  FloatRows shares;          // [rows][used]
  std::vector<int> places;   // [rows][used]
  std::vector<int> sources;  // [rows * used] the row at each place
  std::vector<int> starts;   // [experts + 1] the first place of each expert
  std::vector<ExpertBlock> blocks;
  ActivationForms gathered;  // the normed rows, in order of places
  FloatRows outputs;         // of the experts, likewise
};

// The rows of one adapter, as a range of Scratch::adapted.
struct AdapterGroup {
  const Adapter* adapter;
  int begin;
  int end;
};

// Some of them times one matrix.
struct AdapterTask {
  const AdapterMatrix* matrix;
  int place;  // of the matrix among those that share an input
  int begin;
  int end;
};

// Some of the rows of a bottleneck.
struct BottleneckTask {
  const Bottleneck* bottleneck;
  int begin;
  int end;
};

struct ThreadScratch {
  Memory tile;       // a matrix product's output on its way to the epilogue
  Memory halves;     // the products of coarse and fine rows with one column block, not yet added
  Memory attention;  // AttendArgs::scratch
  Memory partials;   // two partial results
  Ahead ahead;       // matrices of adapters
  SampleScratch sampling;
  std::vector<double> expert_sums;  // of exp_terms
};

struct Scratch {
  int n_rows = 0;
  std::vector<Row> rows;
  std::vector<SampleParams> sampled;  // of each token to be sampled
  std::vector<int> sampled_rows;      // and the row that it follows
  std::vector<int> logit_rows;
  std::vector<AttentionPlan> plans;
  FloatRows residual;          // [rows][width]
  FloatRows branch;            // [rows][width] what a layer adds to it, where that is not added at once
  FloatRows queries;           // [rows][n_heads * head_size]
  FloatRows keys;              // [rows][n_kv_heads * head_size] not yet normed, for norms over rows
  std::vector<Angles> angles;  // of each rotary embedding
  ActivationForms normed, attended, inner;
  std::vector<int32_t> adapted;  // rows with adapters, by adapter
  std::vector<AdapterGroup> adapter_groups;
  std::vector<AdapterTask> adapter_tasks;
  std::vector<BottleneckTask> bottleneck_tasks;
  FloatRows low;     // [rows][3 * low_rank] adapters' low-rank activations
  int low_rank = 0;  // the largest rank so far, padded
  FloatRows added;   // [rows][width] the residual stream before half a layer, then what that added; for bottlenecks
  std::vector<float> ones;  // as many as the largest bottleneck is wide, padded
  ExpertScratch experts;
  std::vector<float> no_value;  // [head_size] zeros: what a sink adds to the attended values
  Memory partials;
  Memory logits;  // [rows][padded vocabulary]
  std::vector<ThreadScratch> threads;
};

std::unique_ptr<Scratch> make_scratch(const ModelShape& shape, const ModelOptions& options);

}  // namespace stoker
