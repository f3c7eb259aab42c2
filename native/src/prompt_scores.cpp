// Log-probabilities of prompt tokens. Logits are large and kept for max_step_seqs rows at a time only.
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
    const bool ascends = i == 0 || scores.rows[i] > scores.rows[i - 1];
    if (!ascends || scores.rows[i] < 0 || scores.rows[i] >= batch.run_starts[batch.n_seqs]) {
      throw std::invalid_argument("rows to score after must ascend within the batch's tokens");
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
  std::vector<int> rows;
  for (int begin = 0; begin < scores.n; begin += options_.max_step_seqs) {
    const int n = std::min(options_.max_step_seqs, scores.n - begin);
    rows.resize(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      rows[static_cast<size_t>(i)] = i;
      std::memcpy(residual + static_cast<size_t>(i) * width,
                  hidden.data() + static_cast<size_t>(scores.rows[begin + i]) * width, width * sizeof(float));
    }
    output_logits(rows);
    pool_.run(n, [&](int i, int thread) {
      const int at = begin + i;
      scores.out[at] =
          score(*kernels_, scratch.logits.as<float>() + static_cast<size_t>(i) * stride, shape_.vocab_size,
                scores.tokens[at], scores.n_tops[at], scratch.threads[static_cast<size_t>(thread)].sampling);
    });
  }
  std::memcpy(residual, hidden.data(), hidden.size() * sizeof(float));
}

}  // namespace stoker
