// What the fuzz targets share. A target turns any bytes into a call of the library: it must return or throw
// std::invalid_argument, and what it returns must keep the promises of its header.
#pragma once
#include <fuzzer/FuzzedDataProvider.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "logit_edits.h"
#include "stored_blocks.h"

// A trap that libFuzzer reports with the input that led to it.
#define REQUIRE(condition)                                                          \
  do {                                                                              \
    if (!(condition)) {                                                             \
      std::fprintf(stderr, "%s:%d: REQUIRE(%s)\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                 \
    }                                                                               \
  } while (false)

namespace stoker {

inline const char* const kTypeNames[] = {"F32",  "F16",  "BF16", "Q4_0", "Q4_1", "Q5_0",   "Q5_1",   "Q8_0",
                                         "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS", "MXFP4"};

// Any bits, infinities and NaNs among them.
inline float any_float(FuzzedDataProvider& data) {
  const auto bits = data.ConsumeIntegral<uint32_t>();
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Mostly what a file or a request would hold, so that a run gets past the first comparison.
inline float some_float(FuzzedDataProvider& data) {
  return data.ConsumeIntegralInRange<int>(0, 7) == 0 ? any_float(data)
                                                     : static_cast<float>(data.ConsumeIntegral<int16_t>()) / 256.0f;
}

// `size` bytes: a few from the input, over and over.
inline std::vector<uint8_t> stretched(FuzzedDataProvider& data, size_t size) {
  const std::vector<uint8_t> seed = data.ConsumeBytes<uint8_t>(data.ConsumeIntegralInRange<size_t>(0, 256));
  std::vector<uint8_t> bytes(size);
  for (size_t i = 0; i < size && !seed.empty(); ++i) bytes[i] = seed[i % seed.size()];
  return bytes;
}

// Token ids, mostly of the vocabulary.
inline std::vector<int32_t> some_tokens(FuzzedDataProvider& data, int vocab, size_t most) {
  std::vector<int32_t> tokens(data.ConsumeIntegralInRange<size_t>(0, most));
  for (int32_t& token : tokens) token = data.ConsumeIntegralInRange<int32_t>(0, vocab - 1);
  if (!tokens.empty() && data.ConsumeIntegralInRange<int>(0, 15) == 0) tokens[0] = data.ConsumeIntegral<int32_t>();
  return tokens;
}

// Owns what a LogitEdits points to.
struct FuzzedEdits {
  std::vector<int32_t> history, bias_tokens, banned;
  std::vector<float> bias;
  std::vector<uint32_t> allowed;
  LogitEdits view{};

  FuzzedEdits(FuzzedDataProvider& data, int vocab)
      : history(some_tokens(data, vocab, 24)),
        bias_tokens(some_tokens(data, vocab, 8)),
        banned(some_tokens(data, vocab, 8)),
        bias(bias_tokens.size()) {
    for (float& value : bias) value = some_float(data);
    view.history = history.data();
    view.n_history = static_cast<int>(history.size());
    view.n_prompt = data.ConsumeIntegralInRange<int>(-1, static_cast<int>(history.size()) + 1);
    view.presence = some_float(data);
    view.frequency = some_float(data);
    view.repetition = some_float(data);
    view.bias_tokens = bias_tokens.data();
    view.bias = bias.data();
    view.n_bias = static_cast<int>(bias.size());
    view.banned = banned.data();
    view.n_banned = static_cast<int>(banned.size());
    if (data.ConsumeBool()) return;
    const auto n_words = static_cast<size_t>(allowed_words(vocab));
    allowed.resize(data.ConsumeIntegralInRange<int>(0, 15) == 0 ? n_words + 1 : n_words);
    for (uint32_t& word : allowed) word = data.ConsumeIntegral<uint32_t>();
    view.allowed = allowed.data();
    view.n_allowed_words = static_cast<int>(allowed.size());
  }
};

}  // namespace stoker
