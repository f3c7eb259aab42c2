// Shape and arithmetic of a decoder-only transformer: everything that differs between architectures.
// stoker.models.config.ModelConfig says what each means; here windows and contexts are those that are served.
#pragma once
#include <optional>
#include <string>
#include <vector>

namespace stoker {

// A head's first 2 * frequencies.size() elements turn, the others stay.
struct RotaryShape {
  std::vector<float> frequencies;  // radians a position, one for each pair
  float magnitude = 1.0f;          // factor of cosine and sine
};

struct LayerShape {
  int window = 0;   // positions that a token sees, itself included; 0 for all before it
  int rotary = -1;  // index into the rotaries; -1 for a layer without positions
};

enum class Activation { silu, gelu_tanh, clamped_swiglu };
enum class QkNorm { none, head, row };

struct ExpertsShape {
  int n_experts = 0;
  int n_used = 0;           // by one token
  bool normalized = false;  // shares are a softmax over the used ones, else over all
  bool biases = false;      // of router and experts
};

struct ModelShape {
  std::vector<LayerShape> layers;
  int width = 0;
  int n_heads = 0;
  int n_kv_heads = 0;
  int head_size = 0;
  int ffn_width = 0;
  int vocab_size = 0;
  int context_length = 0;
  std::vector<RotaryShape> rotaries;
  float norm_epsilon = 0.0f;
  bool tied_embeddings = false;
  Activation activation = Activation::silu;
  bool pre_norms = true;
  bool post_norms = false;
  QkNorm qk_norm = QkNorm::none;
  bool qkv_bias = false;
  bool attention_output_bias = false;
  bool sinks = false;
  float score_scale = 0.0f;
  float score_softcap = 0.0f;  // 0: none
  float logit_softcap = 0.0f;  // 0: none
  float embedding_scale = 1.0f;
  float residual_scale = 1.0f;
  float logit_scale = 1.0f;
  std::optional<ExpertsShape> experts;

  int n_layers() const { return static_cast<int>(layers.size()); }
  int group() const { return n_heads / n_kv_heads; }
  int query_width() const { return n_heads * head_size; }
  int kv_width() const { return n_kv_heads * head_size; }
  // Pairs of a head that turn in the layer.
  int rotary_pairs(int layer) const {
    const int rotary = layers[static_cast<size_t>(layer)].rotary;
    return rotary < 0 ? 0 : static_cast<int>(rotaries[static_cast<size_t>(rotary)].frequencies.size());
  }
};

// Throws std::invalid_argument for a shape that the kernels cannot run.
void check_shape(const ModelShape& shape);

// By the names of ModelConfig. Throw std::invalid_argument for another one.
Activation activation_named(const std::string& name);
QkNorm qk_norm_named(const std::string& name);

}  // namespace stoker
