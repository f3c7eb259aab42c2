#include "logit_edits.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace stoker {

namespace {

// Each token is changed at its last place in the history, which leaves its count at 0.
void penalize(const LogitEdits& edits, float* logits, int32_t* counts) {
  constexpr int32_t kPrompt = std::numeric_limits<int32_t>::min();  // seen, not generated; counts add to it
  for (int i = 0; i < edits.n_prompt; ++i) counts[edits.history[i]] = kPrompt;
  for (int i = edits.n_prompt; i < edits.n_history; ++i) ++counts[edits.history[i]];
  for (int i = edits.n_history - 1; i >= 0; --i) {
    const int32_t token = edits.history[i];
    if (counts[token] == 0) continue;
    const int32_t generated = counts[token] < 0 ? counts[token] - kPrompt : counts[token];
    counts[token] = 0;
    float& logit = logits[token];
    logit = logit > 0.0f ? logit / edits.repetition : logit * edits.repetition;
    if (generated > 0) logit -= edits.frequency * static_cast<float>(generated) + edits.presence;
  }
}

}  // namespace

void check_edits(const LogitEdits& edits, int vocab) {
  if (edits.n_prompt < 0 || edits.n_prompt > edits.n_history) {
    throw std::invalid_argument("the history of a logit edit is shorter than its prompt");
  }
  const auto known = [vocab](int32_t token) { return token >= 0 && token < vocab; };
  if (!std::all_of(edits.history, edits.history + edits.n_history, known) ||
      !std::all_of(edits.bias_tokens, edits.bias_tokens + edits.n_bias, known) ||
      !std::all_of(edits.banned, edits.banned + edits.n_banned, known)) {
    throw std::invalid_argument("a token id of a logit edit is outside the vocabulary");
  }
}

void edit_logits(const LogitEdits& edits, float* logits, int32_t* counts) {
  if (edits.presence != 0.0f || edits.frequency != 0.0f || edits.repetition != 1.0f) penalize(edits, logits, counts);
  for (int i = 0; i < edits.n_bias; ++i) logits[edits.bias_tokens[i]] += edits.bias[i];
  for (int i = 0; i < edits.n_banned; ++i) logits[edits.banned[i]] = -std::numeric_limits<float>::infinity();
}

}  // namespace stoker
