// Choosing a token: any logits and parameters, on every instruction set that this processor has.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "sampler.h"
#include "support.h"

namespace stoker {

namespace {

void check_sample(const Sample& chosen, int vocab, int n_logprobs) {
  REQUIRE(chosen.token >= 0 && chosen.token < vocab);
  const int count = std::min({n_logprobs, kMaxLogprobs, vocab});
  for (int i = 0; i < count; ++i) {
    REQUIRE(chosen.top_tokens[i] >= 0 && chosen.top_tokens[i] < vocab);
    for (int j = 0; j < i; ++j) REQUIRE(chosen.top_tokens[j] != chosen.top_tokens[i]);
  }
}

void fuzz(FuzzedDataProvider& data) {
  static const std::vector<const Kernels*> paths = available_kernels();
  const Kernels& kernels = *paths[data.ConsumeIntegralInRange<size_t>(0, paths.size() - 1)];
  // Beyond a chunk of the sums at times; a few logits of the input, over and over.
  const int vocab = data.ConsumeIntegralInRange<int>(1, data.ConsumeBool() ? 70 : 3 * kSumChunk);
  SampleParams params{some_float(data),
                      data.ConsumeIntegralInRange<int32_t>(-2, 2 * vocab),
                      some_float(data),
                      some_float(data),
                      data.ConsumeIntegral<uint64_t>(),
                      data.ConsumeIntegral<uint32_t>(),
                      data.ConsumeIntegral<uint32_t>(),
                      data.ConsumeIntegralInRange<int>(-1, 25),
                      nullptr};
  const FuzzedEdits edits(data, vocab);
  if (data.ConsumeBool()) {
    check_edits(edits.view, vocab);
    params.edits = &edits.view;
  }
  std::vector<float> some(data.ConsumeIntegralInRange<size_t>(1, 70));
  for (float& logit : some) logit = some_float(data);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = some[i % some.size()];

  SampleScratch scratch(vocab);
  const Sample first = sample(kernels, logits.data(), vocab, params, scratch);
  check_sample(first, vocab, params.n_logprobs);
  const Sample again = sample(kernels, logits.data(), vocab, params, scratch);
  REQUIRE(std::memcmp(&first, &again, sizeof first) == 0);

  const bool finite = std::all_of(logits.begin(), logits.end(), [](float logit) { return std::isfinite(logit); });
  if (params.edits == nullptr || !finite) return;
  const auto banned = [&](int token) {
    return std::find(edits.banned.begin(), edits.banned.end(), token) != edits.banned.end();
  };
  const auto allows = [&](int token) {
    return edits.view.allowed == nullptr || (edits.view.allowed[token / 32] >> (token % 32) & 1) != 0;
  };
  edit_logits(edits.view, logits.data(), vocab, scratch.counts.data());
  if (edits.view.allowed != nullptr) keep_allowed(edits.view, logits.data(), vocab, logits.data());
  bool free = true;
  bool choice = false;
  for (int token = 0; token < vocab; ++token) {
    free = free && (banned(token) || !allows(token) || std::isfinite(logits[static_cast<size_t>(token)]));
    choice = choice || (!banned(token) && allows(token));
  }
  REQUIRE(!free || !choice || !banned(first.token));
  REQUIRE(!free || allows(first.token));
}

}  // namespace

}  // namespace stoker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  try {
    stoker::fuzz(data);
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
