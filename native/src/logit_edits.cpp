#include "logit_edits.h"

#include <algorithm>
#include <bit>
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

bool allows(const LogitEdits& edits, int token) { return (edits.allowed[token / 32] >> (token % 32) & 1) != 0; }

// Allowed tokens of the vocabulary; bits beyond it do not count.
int count_allowed(const LogitEdits& edits, int vocab) {
  int count = 0;
  for (int word = 0; word < vocab / 32; ++word) count += std::popcount(edits.allowed[word]);
  for (int token = vocab / 32 * 32; token < vocab; ++token) count += allows(edits, token);
  return count;
}

// Whether bans would leave nothing that is allowed. A token that is banned twice is counted once.
bool bans_all_allowed(const LogitEdits& edits, int vocab) {
  int left = count_allowed(edits, vocab);
  for (int i = 0; i < edits.n_banned; ++i) {
    if (allows(edits, edits.banned[i]) &&
        std::find(edits.banned, edits.banned + i, edits.banned[i]) == edits.banned + i) {
      --left;
    }
  }
  return left == 0;
}

void keep_allowed(const LogitEdits& edits, float* logits, int vocab) {
  for (int begin = 0; begin < vocab; begin += 32) {
    const uint32_t word = edits.allowed[begin / 32];
    const int end = std::min(vocab, begin + 32);
    if (word == 0) {
      std::fill(logits + begin, logits + end, -std::numeric_limits<float>::infinity());
      continue;
    }
    for (int token = begin; token < end; ++token) {
      if ((word >> (token - begin) & 1) == 0) logits[token] = -std::numeric_limits<float>::infinity();
    }
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
  if (edits.allowed != nullptr && (edits.n_allowed_words != allowed_words(vocab) || count_allowed(edits, vocab) == 0)) {
    throw std::invalid_argument("a mask of a logit edit must have a bit for each token, and one at least that is set");
  }
}

void edit_logits(const LogitEdits& edits, float* logits, int vocab, int32_t* counts) {
  if (edits.presence != 0.0f || edits.frequency != 0.0f || edits.repetition != 1.0f) penalize(edits, logits, counts);
  for (int i = 0; i < edits.n_bias; ++i) logits[edits.bias_tokens[i]] += edits.bias[i];
  if (edits.allowed == nullptr || !bans_all_allowed(edits, vocab)) {
    for (int i = 0; i < edits.n_banned; ++i) logits[edits.banned[i]] = -std::numeric_limits<float>::infinity();
  }
  if (edits.allowed != nullptr) keep_allowed(edits, logits, vocab);
}

}  // namespace stoker
