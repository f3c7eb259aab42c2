// Log-probabilities of prompt tokens, and of others in their place. Logits are large: they are computed once for each
// row, and kept for max_step_seqs rows at a time only.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

void Model::check_scores(const Batch& batch) const {
  if (batch.scores == nullptr) return;
  const PromptScores& scores = *batch.scores;
  for (int i = 0; i < scores.n; ++i) {
    const bool descends = i > 0 && scores.rows[i] < scores.rows[i - 1];
    if (descends || scores.rows[i] < 0 || scores.rows[i] >= batch.run_starts[batch.n_seqs]) {
      throw std::invalid_argument("rows to score after must not descend, and be within the batch's tokens");
    }
    if (scores.tokens[i] < 0 || scores.tokens[i] >= shape_.vocab_size) {
      throw std::invalid_argument("a token to score is outside the vocabulary");
    }
    if (scores.n_tops[i] < 0 || scores.n_tops[i] > kMaxLogprobs) {
      throw std::invalid_argument("0 to 20 alternatives can be asked for");
    }
  }
}

// Leaves the residual stream as it was.
void Model::score_prompts(const Batch& batch) {
  if (batch.scores == nullptr) return;
  const PromptScores& scores = *batch.scores;
  Scratch& scratch = *scratch_;
  const auto width = static_cast<size_t>(shape_.width);
  const size_t stride = (static_cast<size_t>(shape_.vocab_size) + kLanes - 1) / kLanes * kLanes;
  float* residual = scratch.residual.row(0);
  const std::vector<float> hidden(residual, residual + static_cast<size_t>(scratch.n_rows) * width);
  std::vector<int> starts;  // of each row's tokens, then where the last one's end
  for (int i = 0; i < scores.n; ++i) {
    if (i == 0 || scores.rows[i] != scores.rows[i - 1]) starts.push_back(i);
  }
  const int n_rows = static_cast<int>(starts.size());
  starts.push_back(scores.n);
  std::vector<int> rows;
  for (int begin = 0; begin < n_rows; begin += options_.max_step_seqs) {
    const int n = std::min(options_.max_step_seqs, n_rows - begin);
    rows.resize(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      rows[static_cast<size_t>(i)] = i;
      const int row = scores.rows[starts[static_cast<size_t>(begin + i)]];
      std::memcpy(residual + static_cast<size_t>(i) * width, hidden.data() + static_cast<size_t>(row) * width,
                  width * sizeof(float));
    }
    output_logits(rows);
    pool_.run(n, [&](int i, int thread) {
      const int first = starts[static_cast<size_t>(begin + i)];
      const int end = starts[static_cast<size_t>(begin + i + 1)];
      score(*kernels_, scratch.logits.as<float>() + static_cast<size_t>(i) * stride, shape_.vocab_size, end - first,
            scores.tokens + first, scores.n_tops + first, scratch.threads[static_cast<size_t>(thread)].sampling,
            scores.out + first);
    });
  }
  std::memcpy(residual, hidden.data(), hidden.size() * sizeof(float));
}

}  // namespace stoker
