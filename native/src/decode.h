// Several decode steps in one call: what is sampled is computed next, without the caller between.
#pragma once
#include <atomic>
#include <vector>

#include "model.h"

namespace stoker {

// How far a decode goes.
struct DecodeLimits {
  int n_steps;                 // most steps
  const int32_t* stop_tokens;  // token ids that end sequences, all of them one after the other
  const int32_t* stop_starts;  // [n_seqs + 1] into stop_tokens
  const uint8_t* interrupted;  // read after each step: the call ends when it is not 0; nullptr for never
};

// Computes up to limits.n_steps steps of a batch whose sequences are all sampled, once each in a step. The first step
// computes their runs, each further one what was sampled before. It ends after the first step in which a sequence ended
// or `interrupted` was set. The tokens are those that as many calls of one step each would give. Returns the samples of
// the steps computed, [n_steps][n_seqs]. Throws std::invalid_argument for a batch that breaks the rules, that does more
// than decode, or whose block tables do not cover all steps; nothing is computed then.
std::vector<Sample> decode(Model& model, const Batch& batch, const DecodeLimits& limits);

}  // namespace stoker
