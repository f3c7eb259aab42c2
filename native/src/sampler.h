// Chooses a token from logits: penalties, bias and mask, then temperature, top-k, top-p, min-p.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"
#include "logit_edits.h"

namespace stoker {

constexpr int kMaxLogprobs = 20;
constexpr int kFewAllowed = 8;  // a grammar allows few tokens if it is at most one in so many

struct SampleParams {
  float temperature;  // 0 is greedy
  int top_k;          // 0 keeps all
  float top_p;
  float min_p;
  uint64_t seed;
  uint32_t choice;
  uint32_t position;                  // of the token being sampled
  int n_logprobs;                     // -1: no log-probabilities at all; they are those of the logits before any edit
  const LogitEdits* edits = nullptr;  // none: the logits are taken as they are
};

struct Sample {
  int token;
  float logprob;
  int top_tokens[kMaxLogprobs];  // the first n_logprobs, best first, ties by token id
  float top_logprobs[kMaxLogprobs];
};

// Working memory of one thread.
struct SampleScratch {
  explicit SampleScratch(int vocab)
      : terms(static_cast<size_t>(vocab)),
        chunk_sums(static_cast<size_t>(vocab / kSumChunk + 1)),
        edited(static_cast<size_t>(vocab)),
        counts(static_cast<size_t>(vocab)),
        allowed(static_cast<size_t>(vocab / kFewAllowed)),
        allowed_logits(static_cast<size_t>(vocab / kFewAllowed)) {}
  std::vector<float> terms;
  std::vector<double> chunk_sums;
  std::vector<int> candidates;
  std::vector<float> edited;     // logits after a request's edits
  std::vector<int32_t> counts;   // of each token in its history; 0 between calls
  std::vector<int32_t> allowed;  // tokens, where a grammar allows few
  std::vector<float> allowed_logits;
};

// The log-probabilities of n given tokens after one row, each with those of its n_logprobs most likely ones, out of raw
// logits; at most kMaxLogprobs.
void score(const Kernels& kernels, const float* logits, int vocab, int n, const int32_t* tokens,
           const int32_t* n_logprobs, SampleScratch& scratch, Sample* out);

// Deterministic in (logits, params). A row of only NaN gives token 0.
Sample sample(const Kernels& kernels, const float* logits, int vocab, const SampleParams& params,
              SampleScratch& scratch);

}  // namespace stoker
