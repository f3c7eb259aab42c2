#include "logit_edits.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>
#include <stdexcept>

namespace stoker {

namespace {

// Bits of a word one by one, for vectors without a shift of their own for each element.
constexpr auto kBits = [] {
  std::array<uint32_t, 32> bits{};
  for (unsigned i = 0; i < 32; ++i) bits[i] = 1u << i;
  return bits;
}();

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

// The word of a mask that has the bits of tokens from `begin` on; bits beyond the vocabulary do not count.
uint32_t word_at(const LogitEdits& edits, int begin, int vocab) {
  const uint32_t word = edits.allowed[begin / 32];
  return vocab - begin >= 32 ? word : word & ((1u << (vocab - begin)) - 1);
}

bool allows_any(const LogitEdits& edits, int vocab) {
  for (int begin = 0; begin < vocab; begin += 32) {
    if (word_at(edits, begin, vocab) != 0) return true;
  }
  return false;
}

// Whether bans would leave nothing that is allowed.
bool bans_all_allowed(const LogitEdits& edits, int vocab) {
  const int32_t* end = edits.banned + edits.n_banned;
  for (int begin = 0; begin < vocab; begin += 32) {
    for (uint32_t left = word_at(edits, begin, vocab); left != 0; left &= left - 1) {
      if (std::find(edits.banned, end, begin + std::countr_zero(left)) == end) return false;
    }
  }
  return true;
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
  if (edits.allowed != nullptr && (edits.n_allowed_words != allowed_words(vocab) || !allows_any(edits, vocab))) {
    throw std::invalid_argument("a mask of a logit edit must have a bit for each token, and one at least that is set");
  }
}

bool changes_logits(const LogitEdits& edits) {
  return edits.presence != 0.0f || edits.frequency != 0.0f || edits.repetition != 1.0f || edits.n_bias > 0 ||
         edits.n_banned > 0;
}

void edit_logits(const LogitEdits& edits, float* logits, int vocab, int32_t* counts) {
  if (edits.presence != 0.0f || edits.frequency != 0.0f || edits.repetition != 1.0f) penalize(edits, logits, counts);
  for (int i = 0; i < edits.n_bias; ++i) logits[edits.bias_tokens[i]] += edits.bias[i];
  if (edits.n_banned > 0 && (edits.allowed == nullptr || !bans_all_allowed(edits, vocab))) {
    for (int i = 0; i < edits.n_banned; ++i) logits[edits.banned[i]] = -std::numeric_limits<float>::infinity();
  }
}

int gather_allowed(const LogitEdits& edits, const float* logits, int vocab, int most, int32_t* tokens, float* out) {
  int n = 0;
  for (int begin = 0; begin < vocab; begin += 32) {
    uint32_t left = word_at(edits, begin, vocab);
    if (left == 0) continue;
    if (n > most - 32) return 0;
    for (; left != 0; left &= left - 1, ++n) {
      tokens[n] = begin + std::countr_zero(left);
      out[n] = logits[tokens[n]];
    }
  }
  return n;
}

void keep_allowed(const LogitEdits& edits, const float* logits, int vocab, float* out) {
  constexpr float kNever = -std::numeric_limits<float>::infinity();
  for (int begin = 0; begin < vocab; begin += 32) {
    const uint32_t word = edits.allowed[begin / 32];
    const int n = std::min(32, vocab - begin);
    if (word == 0) {
      std::fill_n(out + begin, n, kNever);
    } else if (word == ~0u) {
      if (out != logits) std::copy_n(logits + begin, n, out + begin);
    } else {
      for (int i = 0; i < n; ++i)
        out[begin + i] = (word & kBits[static_cast<size_t>(i)]) != 0 ? logits[begin + i] : kNever;
    }
  }
}

}  // namespace stoker
