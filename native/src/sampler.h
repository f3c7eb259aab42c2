// Chooses a token from logits: temperature, then top-k, top-p, min-p.
#pragma once
#include <cstdint>
#include <vector>

#include "kernels.h"

namespace stoker {

constexpr int kMaxLogprobs = 20;

struct SampleParams {
  float temperature;  // 0 is greedy
  int top_k;          // 0 keeps all
  float top_p;
  float min_p;
  uint64_t seed;
  uint32_t choice;
  uint32_t position;  // of the token being sampled
  int n_logprobs;     // -1: no log-probabilities at all
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
      : terms(static_cast<size_t>(vocab)), chunk_sums(static_cast<size_t>(vocab / kSumChunk + 1)) {}
  std::vector<float> terms;
  std::vector<double> chunk_sums;
  std::vector<int> candidates;
};

// Deterministic in (logits, params). A row of only NaN gives token 0.
Sample sample(const Kernels& kernels, const float* logits, int vocab, const SampleParams& params,
              SampleScratch& scratch);

}  // namespace stoker
