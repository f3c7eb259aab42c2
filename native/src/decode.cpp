#include "decode.h"

#include <algorithm>
#include <deque>
#include <numeric>
#include <stdexcept>

namespace stoker {

namespace {

void check(const Model& model, const Batch& batch, const DecodeLimits& limits) {
  if (limits.n_steps < 1) throw std::invalid_argument("a decode needs at least one step");
  if (batch.scores != nullptr) throw std::invalid_argument("a decode of several steps scores no prompt");
  for (int s = 0; s < batch.n_seqs; ++s) {
    if (batch.samples[s] != 1) throw std::invalid_argument("in a decode every sequence has one token sampled");
    const int64_t n_run = int64_t{batch.run_starts[s + 1]} - batch.run_starts[s];
    if (n_run < 1) throw std::invalid_argument("every sequence needs at least one token");
    const int64_t end = int64_t{batch.first_positions[s]} + n_run + limits.n_steps - 1;
    const int64_t n_blocks = int64_t{batch.table_starts[s + 1]} - batch.table_starts[s];
    if (end > n_blocks * kBlockTokens || end > model.shape().context_length) {
      throw std::invalid_argument("a block table or the context is too short for all steps of a decode");
    }
  }
}

// The edits of the batch's sequences with histories that can grow.
class GrowingEdits {
 public:
  explicit GrowingEdits(std::vector<SampleParams>& params) {
    for (SampleParams& each : params) {
      if (each.edits == nullptr) continue;
      Edited& edited = edited_.emplace_back(Edited{*each.edits, {}});
      edited.history.assign(each.edits->history, each.edits->history + each.edits->n_history);
      each.edits = &edited.edits;
    }
  }
  // Appends what the edited sequences, in order, have been given.
  void append(const std::vector<SampleParams>& params, const Sample* samples) {
    size_t i = 0;
    for (size_t s = 0; s < params.size(); ++s) {
      if (params[s].edits == nullptr) continue;
      Edited& edited = edited_[i++];
      edited.history.push_back(samples[s].token);
      edited.edits.history = edited.history.data();
      edited.edits.n_history = static_cast<int>(edited.history.size());
    }
  }

 private:
  struct Edited {
    LogitEdits edits;
    std::vector<int32_t> history;
  };
  std::deque<Edited> edited_;  // its elements stay where they are
};

bool any_ended(const DecodeLimits& limits, const Sample* samples, int n_seqs) {
  for (int s = 0; s < n_seqs; ++s) {
    const int32_t* begin = limits.stop_tokens + limits.stop_starts[s];
    const int32_t* end = limits.stop_tokens + limits.stop_starts[s + 1];
    if (std::find(begin, end, samples[s].token) != end) return true;
  }
  return false;
}

// The flag belongs to other threads of Python, which write single bytes.
bool interrupted(const DecodeLimits& limits) {
  return limits.interrupted != nullptr && __atomic_load_n(limits.interrupted, __ATOMIC_RELAXED) != 0;
}

}  // namespace

std::vector<Sample> decode(Model& model, const Batch& first, const DecodeLimits& limits) {
  check(model, first, limits);
  const auto n = static_cast<size_t>(first.n_seqs);
  std::vector<Sample> samples(n * static_cast<size_t>(limits.n_steps));
  std::vector<int32_t> tokens(n), positions(n), run_starts(n + 1);
  std::iota(run_starts.begin(), run_starts.end(), 0);
  for (size_t s = 0; s < n; ++s) {
    positions[s] = first.first_positions[s] + (first.run_starts[s + 1] - first.run_starts[s]) - 1;
  }
  std::vector<SampleParams> params(first.params, first.params + n);
  GrowingEdits edits(params);
  Batch batch = first;
  batch.params = params.data();
  Sample* latest = samples.data();
  for (int step = 1;; ++step, latest += n) {
    model.forward(batch, latest);
    if (step == limits.n_steps || interrupted(limits) || any_ended(limits, latest, first.n_seqs)) {
      samples.resize(n * static_cast<size_t>(step));
      return samples;
    }
    edits.append(params, latest);
    for (size_t s = 0; s < n; ++s) {
      tokens[s] = latest[s].token;
      ++positions[s];
      ++params[s].position;
    }
    batch.tokens = tokens.data();
    batch.run_starts = run_starts.data();
    batch.first_positions = positions.data();
  }
}

}  // namespace stoker
