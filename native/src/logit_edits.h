// What a request wants done to its logits before a token is chosen: penalties, then bias, then masks.
#pragma once
#include <cstdint>

namespace stoker {

// The arrays are the caller's.
struct LogitEdits {
  const int32_t* history;  // [n_history] token ids: the prompt, then what was generated
  int n_history;
  int n_prompt;      // of the history
  float presence;    // taken off each token that was generated
  float frequency;   // taken off each token as many times as it was generated
  float repetition;  // divides positive logits, and multiplies others, of each token in the history
  const int32_t* bias_tokens;
  const float* bias;  // [n_bias] added to the logit of each of bias_tokens
  int n_bias;
  const int32_t* banned;  // [n_banned] token ids that must not be chosen
  int n_banned;
  // Bit t % 32 of word t / 32 says whether a grammar lets token t come next; nullptr for no grammar.
  const uint32_t* allowed = nullptr;
  int n_allowed_words = 0;
};

// Words that a mask of allowed tokens has.
constexpr int allowed_words(int vocab) { return (vocab + 31) / 32; }

// Throws std::invalid_argument for token ids outside the vocabulary, a history shorter than its prompt, and a mask of
// another length or without a token.
void check_edits(const LogitEdits& edits, int vocab);

// Whether edit_logits has anything to do.
bool changes_logits(const LogitEdits& edits);

// Changes logits [vocab] in place by all but the mask, in one order of operations per token. The repetition penalty is
// that of Keskar et al., 2019 (CTRL); presence and frequency penalties are OpenAI's. `counts` is [vocab], all 0 before
// and after. Edits must have passed check_edits. Should the mask have banned tokens alone, they are spared.
void edit_logits(const LogitEdits& edits, float* logits, int vocab, int32_t* counts);

// Finds the tokens that a mask allows, in ascending order, and their logits. Returns how many there are, or 0 if they
// are too many to be worth it: surely none if they are at most `most` - 32, surely if they are more than `most`. Both
// arrays have room for `most`.
int gather_allowed(const LogitEdits& edits, const float* logits, int vocab, int most, int32_t* tokens, float* out);

// Copies the logits of allowed tokens and gives -infinity to others. `out` [vocab] may be `logits`.
void keep_allowed(const LogitEdits& edits, const float* logits, int vocab, float* out);

}  // namespace stoker
