// What a forward does before it computes: refuses a batch that breaks the rules, finds each row's place in the KV
// cache, and cuts attention into tasks. Long sequences that are too few to occupy all threads are cut into pieces of
// keys too.
#include <algorithm>
#include <stdexcept>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

void refuse(bool condition, const char* message) {
  if (condition) throw std::invalid_argument(message);
}

}  // namespace

void Model::check(const Batch& batch) const {
  refuse(batch.n_seqs <= 0 || batch.n_seqs > options_.max_step_seqs, "number of sequences is out of range");
  refuse(batch.run_starts[0] != 0 || batch.table_starts[0] != 0, "runs and tables must start at 0");
  for (int s = 0; s < batch.n_seqs; ++s) {
    const int64_t n = int64_t{batch.run_starts[s + 1]} - batch.run_starts[s];
    const int64_t n_blocks = int64_t{batch.table_starts[s + 1]} - batch.table_starts[s];
    refuse(n <= 0, "every sequence needs at least one token");
    refuse(batch.run_starts[s + 1] > options_.max_step_tokens, "too many tokens in one step");
    refuse(batch.first_positions[s] < 0 || batch.first_positions[s] + n > shape_.context_length,
           "a position is outside the context");
    refuse(n_blocks * kBlockTokens < batch.first_positions[s] + n, "a block table is too short");
  }
  for (int i = 0; i < batch.run_starts[batch.n_seqs]; ++i) {
    refuse(batch.tokens[i] < 0 || batch.tokens[i] >= shape_.vocab_size, "a token id is outside the vocabulary");
  }
  for (int i = 0; i < batch.table_starts[batch.n_seqs]; ++i) {
    refuse(batch.block_tables[i] < 0 || batch.block_tables[i] >= options_.kv_blocks, "a KV block id is out of range");
  }
  for (int s = 0; batch.params != nullptr && s < batch.n_seqs; ++s) {
    if (batch.params[s].edits != nullptr) check_edits(*batch.params[s].edits, shape_.vocab_size);
  }
}

void Model::plan_rows(const Batch& batch) {
  Scratch& scratch = *scratch_;
  scratch.n_rows = batch.run_starts[batch.n_seqs];
  scratch.rows.clear();
  for (int s = 0; s < batch.n_seqs; ++s) {
    const int32_t* table = batch.block_tables + batch.table_starts[s];
    const int n = batch.run_starts[s + 1] - batch.run_starts[s];
    for (int i = 0; i < n; ++i) {
      const int position = batch.first_positions[s] + i;
      scratch.rows.push_back({position, table[position / kBlockTokens]});
    }
  }
}

void Model::plan_attention(const Batch& batch) {
  Scratch& scratch = *scratch_;
  size_t most_partials = 0;
  for (AttentionPlan& plan : scratch.plans) most_partials = std::max(most_partials, plan_tasks(batch, plan));
  const size_t pairs = static_cast<size_t>(kAttentionRows) * static_cast<size_t>(shape_.group());
  const size_t needed = most_partials * pairs * (static_cast<size_t>(shape_.head_size) + 2) * sizeof(float);
  if (scratch.partials.size() < needed) scratch.partials = Memory(2 * needed);
}

// Returns how many partial results the plan's tasks have.
size_t Model::plan_tasks(const Batch& batch, AttentionPlan& plan) const {
  plan.tasks.clear();
  int n_partials = 0;
  int n_groups = 0;
  for (int s = 0; s < batch.n_seqs; ++s) {
    n_groups += (batch.run_starts[s + 1] - batch.run_starts[s] + kAttentionRows - 1) / kAttentionRows;
  }
  n_groups *= shape_.n_kv_heads;
  const bool split = n_groups < 4 * pool_.size();
  int group_index = 0;
  for (int s = 0; s < batch.n_seqs; ++s) {
    for (int row = batch.run_starts[s]; row < batch.run_starts[s + 1]; row += kAttentionRows) {
      const int n_rows = std::min(kAttentionRows, batch.run_starts[s + 1] - row);
      const int position = batch.first_positions[s] + row - batch.run_starts[s];
      const int first_piece = first_seen(position, plan.window) / kPieceTokens;
      const int end_piece = (position + n_rows - 1) / kPieceTokens + 1;
      for (int head = 0; head < shape_.n_kv_heads; ++head, ++group_index) {
        AttentionTask task{.first_row = row,
                           .n_rows = n_rows,
                           .kv_head = head,
                           .first_position = position,
                           .block_table = batch.block_tables + batch.table_starts[s],
                           .group_begin = first_piece,
                           .group_end = end_piece,
                           .piece = first_piece,
                           .first_partial = -1,
                           .group_index = group_index};
        if (!split || end_piece - first_piece == 1) {
          plan.tasks.push_back(task);
          continue;
        }
        task.first_partial = n_partials;
        n_partials += end_piece - first_piece;
        for (task.piece = first_piece; task.piece < end_piece; ++task.piece) {
          plan.tasks.push_back(task);
        }
      }
    }
  }
  if (plan.finished.size() < static_cast<size_t>(n_groups)) {
    plan.finished = std::vector<std::atomic<int>>(static_cast<size_t>(n_groups));
  }
  for (auto& finished : plan.finished) finished.store(0, std::memory_order_relaxed);
  return static_cast<size_t>(n_partials);
}

}  // namespace stoker
