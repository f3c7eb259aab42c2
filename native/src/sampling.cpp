// Samples the tokens that follow the runs of a batch, and those that drafts at their ends are held against.
#include <algorithm>
#include <deque>
#include <vector>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

// Logit edits of a sequence as if its drafts had been generated: a history that has them, of which each token sees as
// much as comes before it.
class DraftedEdits {
 public:
  const LogitEdits* before(const LogitEdits& edits, const int32_t* drafts, int n_drafts) {
    if (n_drafts == 0) return &edits;
    std::vector<int32_t>& history = histories_.emplace_back(edits.history, edits.history + edits.n_history);
    history.insert(history.end(), drafts, drafts + n_drafts);
    LogitEdits& drafted = edits_.emplace_back(edits);
    drafted.history = history.data();
    drafted.n_history = static_cast<int>(history.size());
    return &drafted;
  }

 private:
  std::deque<std::vector<int32_t>> histories_;  // their elements stay where they are
  std::deque<LogitEdits> edits_;
};

// Keeps of each sequence's samples those up to the first that is not the draft in its place.
void drop_unwanted(const Batch& batch, Sample* samples) {
  for (int s = 0; s < batch.n_seqs; samples += batch.samples[s++]) {
    const int n = batch.samples[s];
    if (n < 2) continue;
    const int32_t* drafts = batch.tokens + batch.run_starts[s + 1] - (n - 1);
    int kept = 1;
    while (kept < n && samples[kept - 1].token == drafts[kept - 1]) ++kept;
    for (int i = kept; i < n; ++i) samples[i].token = -1;
  }
}

}  // namespace

// Every row is sampled as if the drafts before it were right: rows after a wrong one are computed in vain.
void Model::sample_runs(const Batch& batch, Sample* samples_out) {
  Scratch& scratch = *scratch_;
  scratch.sampled.clear();
  scratch.sampled_rows.clear();
  DraftedEdits edits;
  for (int s = 0; s < batch.n_seqs; ++s) {
    const int n = batch.samples[s];
    const int first_row = batch.run_starts[s + 1] - n;
    for (int i = 0; i < n; ++i) {
      SampleParams params = batch.params[s];
      params.position -= static_cast<uint32_t>(n - 1 - i);
      if (params.edits != nullptr) params.edits = edits.before(*params.edits, batch.tokens + first_row + 1, i);
      scratch.sampled.push_back(params);
      scratch.sampled_rows.push_back(first_row + i);
    }
  }
  const auto n = static_cast<int>(scratch.sampled.size());
  const size_t stride = (static_cast<size_t>(shape_.vocab_size) + kLanes - 1) / kLanes * kLanes;
  // Rows of logits are kept for max_step_seqs tokens at a time. Their hidden states move to the front, where later ones
  // are not, as rows ascend.
  for (int begin = 0; begin < n; begin += options_.max_step_seqs) {
    const int n_rows = std::min(options_.max_step_seqs, n - begin);
    const auto first = scratch.sampled_rows.begin() + begin;
    scratch.logit_rows.assign(first, first + n_rows);
    output_logits(scratch.logit_rows);
    const PhaseTimer timer(phases_, Phase::sampling);
    pool_.run(n_rows, [&](int i, int thread) {
      const auto at = static_cast<size_t>(begin + i);
      samples_out[at] =
          sample(*kernels_, scratch.logits.as<float>() + static_cast<size_t>(i) * stride, shape_.vocab_size,
                 scratch.sampled[at], scratch.threads[static_cast<size_t>(thread)].sampling);
    });
  }
  drop_unwanted(batch, samples_out);
}

}  // namespace stoker
