// What a request wants done to its logits: any history, biases and bans.
#include <cmath>
#include <limits>
#include <stdexcept>

#include "support.h"

namespace stoker {

namespace {

void fuzz(FuzzedDataProvider& data) {
  const int vocab = data.ConsumeIntegralInRange<int>(1, 80);
  const FuzzedEdits edits(data, vocab);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& logit : logits) logit = some_float(data);
  const std::vector<float> before = logits;
  std::vector<int32_t> counts(static_cast<size_t>(vocab));

  check_edits(edits.view, vocab);
  edit_logits(edits.view, logits.data(), vocab, counts.data());

  std::vector<bool> named(static_cast<size_t>(vocab));
  for (const auto* tokens : {&edits.history, &edits.bias_tokens, &edits.banned}) {
    for (const int32_t token : *tokens) named[static_cast<size_t>(token)] = true;
  }
  for (size_t token = 0; token < logits.size(); ++token) {
    REQUIRE(counts[token] == 0);
    REQUIRE(named[token] || std::memcmp(&logits[token], &before[token], sizeof(float)) == 0);
  }
  for (const int32_t token : edits.banned) {
    REQUIRE(logits[static_cast<size_t>(token)] == -std::numeric_limits<float>::infinity());
  }
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
