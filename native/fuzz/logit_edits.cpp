// What a request wants done to its logits: any history, biases and bans.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "support.h"

namespace stoker {

namespace {

// Few allowed tokens are those that are kept of all, which is done to `logits`.
void check_mask(FuzzedDataProvider& data, const LogitEdits& edits, int vocab, std::vector<float>& logits) {
  const auto most = data.ConsumeIntegralInRange<size_t>(0, 120);
  std::vector<int32_t> tokens(most);
  std::vector<float> gathered(most);
  const int n = gather_allowed(edits, logits.data(), vocab, static_cast<int>(most), tokens.data(), gathered.data());
  REQUIRE(n <= static_cast<int>(most));
  const std::vector<float> before = logits;
  keep_allowed(edits, logits.data(), vocab, logits.data());
  int n_allowed = 0;
  for (int token = 0; token < vocab; ++token) {
    if ((edits.allowed[token / 32] >> (token % 32) & 1) == 0) continue;
    const auto at = static_cast<size_t>(n_allowed++);
    if (n == 0) continue;
    REQUIRE(tokens[at] == token);
    REQUIRE(std::memcmp(&gathered[at], &before[static_cast<size_t>(token)], sizeof(float)) == 0);
  }
  REQUIRE(n == n_allowed || (n == 0 && n_allowed > static_cast<int>(most) - 32));
}

void fuzz(FuzzedDataProvider& data) {
  const int vocab = data.ConsumeIntegralInRange<int>(1, 80);
  const FuzzedEdits edits(data, vocab);
  std::vector<float> logits(static_cast<size_t>(vocab));
  for (float& logit : logits) logit = some_float(data);
  const std::vector<float> before = logits;
  std::vector<int32_t> counts(static_cast<size_t>(vocab));

  check_edits(edits.view, vocab);
  edit_logits(edits.view, logits.data(), vocab, counts.data());
  REQUIRE(changes_logits(edits.view) || std::memcmp(logits.data(), before.data(), logits.size() * sizeof(float)) == 0);
  if (edits.view.allowed != nullptr) check_mask(data, edits.view, vocab, logits);

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
