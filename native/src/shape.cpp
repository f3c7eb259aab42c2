#include "shape.h"

#include <cmath>
#include <cstdint>
#include <stdexcept>

#include "kernels.h"

namespace stoker {

namespace {

// Rows of a matrix, and so every width: what a parallel region can count in column blocks.
constexpr int64_t kMostRows = int64_t{1} << 24;
constexpr int kMostLayers = 1 << 16;
constexpr int kLongestContext = 1 << 30;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

bool countable(int64_t a, int64_t b = 1) { return a * b < kMostRows; }

void check_factor(float value, const char* name) {
  require(std::isfinite(value) && value > 0.0f, std::string(name) + " must be positive and finite");
}

void check_cap(float value, const char* name) {
  require(std::isfinite(value) && value >= 0.0f, std::string(name) + " must be positive and finite, or 0 for none");
}

void check_sizes(const ModelShape& s) {
  require(!s.layers.empty() && s.width > 0 && s.n_heads > 0 && s.n_kv_heads > 0 && s.ffn_width > 0 &&
              s.vocab_size > 0 && s.context_length > 0,
          "every size of the model must be positive");
  require(s.n_heads % s.n_kv_heads == 0, "query heads must be a multiple of key-value heads");
  require(s.head_size > 0 && s.head_size % kGroup == 0, "head size must be a multiple of 32");
  require(s.width % kGroup == 0 && s.ffn_width % kGroup == 0, "widths must be multiples of 32");
  require(s.layers.size() <= kMostLayers && countable(s.width) && countable(s.ffn_width) && countable(s.vocab_size) &&
              countable(s.n_heads, s.head_size) && s.context_length <= kLongestContext,
          "a size of the model is too large");
}

void check_layers(const ModelShape& s) {
  for (const RotaryShape& rotary : s.rotaries) {
    require(rotary.frequencies.size() <= static_cast<size_t>(s.head_size / 2),
            "a rotary embedding turns more pairs than a head has");
    for (const float frequency : rotary.frequencies) {
      require(std::isfinite(frequency), "rotary frequencies must be finite");
    }
    check_factor(rotary.magnitude, "a rotary embedding's magnitude");
  }
  for (const LayerShape& layer : s.layers) {
    require(layer.window >= 0, "a layer's window must be positive, or 0 for none");
    require(layer.rotary >= -1 && layer.rotary < static_cast<int>(s.rotaries.size()),
            "a layer names a rotary embedding that is not there");
  }
}

}  // namespace

void check_shape(const ModelShape& s) {
  check_sizes(s);
  check_layers(s);
  require(std::isfinite(s.norm_epsilon) && s.norm_epsilon >= 0.0f, "norm epsilon must be finite and not negative");
  check_factor(s.score_scale, "score scale");
  check_cap(s.score_softcap, "score soft cap");
  check_cap(s.logit_softcap, "logit soft cap");
  check_factor(s.embedding_scale, "embedding scale");
  check_factor(s.residual_scale, "residual scale");
  check_factor(s.logit_scale, "logit scale");
  if (!s.experts) return;
  const ExpertsShape& experts = *s.experts;
  require(experts.n_experts > 0 && experts.n_used > 0 && experts.n_used <= experts.n_experts,
          "a token must use at least one expert, and no more than there are");
  require(countable(experts.n_experts, s.width) && countable(experts.n_experts, s.ffn_width),
          "a size of the model is too large");
}

Activation activation_named(const std::string& name) {
  if (name == "silu") return Activation::silu;
  if (name == "gelu_tanh") return Activation::gelu_tanh;
  if (name == "clamped_swiglu") return Activation::clamped_swiglu;
  throw std::invalid_argument("unknown activation '" + name + "'; known are silu, gelu_tanh, clamped_swiglu");
}

QkNorm qk_norm_named(const std::string& name) {
  if (name == "none") return QkNorm::none;
  if (name == "head") return QkNorm::head;
  if (name == "row") return QkNorm::row;
  throw std::invalid_argument("unknown qk_norm '" + name + "'; known are none, head, row");
}

}  // namespace stoker
