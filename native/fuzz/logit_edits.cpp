// What a request wants done to its logits: any history, biases and bans.
#include <algorithm>
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
  const auto allows = [&](size_t token) {
    return edits.view.allowed == nullptr || (edits.view.allowed[token / 32] >> (token % 32) & 1) != 0;
  };
  const auto banned = [&](size_t token) {
    return std::find(edits.banned.begin(), edits.banned.end(), static_cast<int32_t>(token)) != edits.banned.end();
  };
  bool spared = edits.view.allowed == nullptr;
  for (size_t token = 0; token < logits.size(); ++token) {
    REQUIRE(counts[token] == 0);
    REQUIRE(named[token] || !allows(token) || std::memcmp(&logits[token], &before[token], sizeof(float)) == 0);
    REQUIRE(allows(token) || logits[token] == -std::numeric_limits<float>::infinity());
    spared = spared || (allows(token) && !banned(token));
  }
  for (const int32_t token : edits.banned) {
    REQUIRE(!spared || logits[static_cast<size_t>(token)] == -std::numeric_limits<float>::infinity());
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
