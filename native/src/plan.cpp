// What a forward does before it computes: refuses a batch that breaks the rules, finds each row's place in the KV
// cache, and cuts attention into tasks.
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
    refuse(batch.samples != nullptr && (batch.samples[s] < 0 || batch.samples[s] > n),
           "a sequence must sample at most as many tokens as its run has");
  }
  for (int i = 0; i < batch.run_starts[batch.n_seqs]; ++i) {
    refuse(batch.tokens[i] < 0 || batch.tokens[i] >= shape_.vocab_size, "a token id is outside the vocabulary");
  }
  for (int i = 0; i < batch.table_starts[batch.n_seqs]; ++i) {
    refuse(batch.block_tables[i] < 0 || batch.block_tables[i] >= options_.kv_blocks, "a KV block id is out of range");
  }
  for (int s = 0; batch.adapters != nullptr && s < batch.n_seqs; ++s) {
    const int slot = batch.adapters[s];
    refuse(slot >= static_cast<int>(adapters_.size()) || (slot >= 0 && adapters_[static_cast<size_t>(slot)] == nullptr),
           "there is no adapter in a sequence's slot");
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
      scratch.rows.push_back({position, table[position / kBlockTokens], nullptr});
    }
  }
}

void Model::plan_attention(const Batch& batch) {
  for (AttentionPlan& plan : scratch_->plans) plan_tasks(batch, plan);
}

// Groups that are too few to occupy all threads are cut into tasks: each of their last pieces is one, and what comes
// before is the first. All groups get the same number of tasks at most, the largest whose partial results fit the
// memory for them: so no head waits for another, and since pieces grow with the position, the first task stays short.
void Model::plan_tasks(const Batch& batch, AttentionPlan& plan) const {
  plan.tasks.clear();
  std::vector<AttentionTask>& groups = plan.groups;
  groups.clear();
  for (int s = 0; s < batch.n_seqs; ++s) {
    int position = batch.first_positions[s];
    for (int row = batch.run_starts[s]; row < batch.run_starts[s + 1];) {
      // Up to the next multiple of kAttentionRows, so that the rows of a task see keys of the same blocks.
      const int n_rows = std::min(kAttentionRows - position % kAttentionRows, batch.run_starts[s + 1] - row);
      AttentionTask task{.first_row = row,
                         .n_rows = n_rows,
                         .kv_head = 0,
                         .first_position = position,
                         .block_table = batch.block_tables + batch.table_starts[s],
                         .group_begin = piece_of(first_seen(position, plan.window)),
                         .group_end = piece_of(position + n_rows - 1) + 1,
                         .begin = 0,
                         .end = 0,
                         .partials = -1,
                         .n_tasks = 1,
                         .index = 0,
                         .group_index = 0};
      for (; task.kv_head < shape_.n_kv_heads; ++task.kv_head) {
        task.group_index = static_cast<int>(groups.size());
        groups.push_back(task);
      }
      row += n_rows;
      position += n_rows;
    }
  }
  const int most_tasks = static_cast<int>(groups.size()) < 4 * pool_.size() ? tasks_per_group(groups) : 1;
  ptrdiff_t partials = 0;
  for (AttentionTask& group : groups) {
    const int n_pieces = group.group_end - group.group_begin;
    group.n_tasks = std::min(n_pieces, most_tasks);
    group.begin = group.group_begin;
    group.end = group.group_end - group.n_tasks + 1;
    if (group.n_tasks > 1) {
      group.partials = partials;
      partials += group.n_tasks * static_cast<ptrdiff_t>(partial_floats(group.n_rows, shape_));
    }
    for (AttentionTask task = group; task.index < group.n_tasks; ++task.index) {
      plan.tasks.push_back(task);
      task.begin = task.end++;
    }
  }
  if (plan.finished.size() < groups.size()) plan.finished = std::vector<std::atomic<int>>(groups.size());
  for (auto& finished : plan.finished) finished.store(0, std::memory_order_relaxed);
}

// The most tasks of a group with which the partial results of all fit.
int Model::tasks_per_group(const std::vector<AttentionTask>& groups) const {
  const size_t room = scratch_->partials.size() / sizeof(float);
  const auto fit = [&](int most_tasks) {
    size_t needed = 0;
    for (const AttentionTask& group : groups) {
      const int n_tasks = std::min(group.group_end - group.group_begin, most_tasks);
      if (n_tasks > 1) needed += static_cast<size_t>(n_tasks) * partial_floats(group.n_rows, shape_);
    }
    return needed <= room;
  };
  int fitting = 1, beyond = 2;
  for (const AttentionTask& group : groups) beyond = std::max(beyond, group.group_end - group.group_begin + 1);
  while (beyond - fitting > 1) {
    const int middle = fitting + (beyond - fitting) / 2;
    (fit(middle) ? fitting : beyond) = middle;
  }
  return fitting;
}

}  // namespace stoker
