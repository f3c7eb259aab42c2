// Setting a model up: its KV cache, its buffers, and what is to be set by name. The forward pass is in forward.cpp.
#include "model.h"

#include <algorithm>
#include <limits>
#include <new>
#include <stdexcept>

#include "model_scratch.h"

namespace stoker {

namespace {

constexpr int kMostStepRows = 1 << 20;  // what a parallel region can count

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// The shape as it is served: a window that no position reaches beyond is none, so that its layers share their plans
// with the others.
ModelShape served(ModelShape shape, const ModelOptions& o) {
  check_shape(shape);
  require(o.n_threads > 0 && o.kv_blocks > 0 && o.max_step_tokens > 0 && o.max_step_seqs > 0,
          "threads, KV blocks and step limits must be positive");
  const int rows_of_a_token = shape.experts ? shape.experts->n_used : 1;
  require(o.max_step_tokens <= kMostStepRows / rows_of_a_token && o.max_step_seqs <= kMostStepRows,
          "step limits are too large");
  for (LayerShape& layer : shape.layers) {
    if (layer.window >= shape.context_length) layer.window = 0;
  }
  return shape;
}

KvType choose_kv_type(const ModelOptions& options, const Kernels& kernels) {
  if (options.kv_type != "auto") return kv_type_named(options.kv_type);
  return options.float_path ? KvType::f32 : kernels.kv_type;
}

Memory kv_memory(const ModelShape& shape, const ModelOptions& options, KvType type) {
  const size_t block = static_cast<size_t>(shape.n_kv_heads) * kv_part_bytes(type, shape.head_size);
  const size_t layer_blocks = shape.layers.size() * static_cast<size_t>(options.kv_blocks);
  if (layer_blocks > std::numeric_limits<size_t>::max() / block) throw std::bad_alloc();
  return Memory(layer_blocks * block);
}

}  // namespace

Model::Model(const ModelShape& shape, const ModelOptions& options)
    : shape_(served(shape, options)),
      options_(options),
      kernels_(&find_kernels(options.isa)),
      activate_(activation_of(*kernels_, shape.activation)),
      pool_(options.n_threads),
      kv_type_(choose_kv_type(options, *kernels_)),
      keys_(kv_memory(shape_, options, kv_type_)),
      values_(kv_memory(shape_, options, kv_type_)),
      layers_(shape_.layers.size()),
      scratch_(make_scratch(shape_, options)) {
  std::vector<AttentionPlan>& plans = scratch_->plans;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const int window = shape_.layers[i].window;
    const auto same = std::find_if(plans.begin(), plans.end(), [=](const auto& plan) { return plan.window == window; });
    layers_[i].index = static_cast<int>(i);
    layers_[i].attention_plan = static_cast<int>(same - plans.begin());
    if (same == plans.end()) plans.push_back({window, {}, {}, {}});
  }
  list_slots();
}

Model::~Model() = default;

void Model::list_slots() {
  const auto matrix = [&](const char* name, PackedMatrix& into) {
    matrices_.push_back({name, -1, &into, shape_.vocab_size, shape_.width, {.dequantize = options_.float_path}});
  };
  matrix("embedding", embedding_);
  if (!shape_.tied_embeddings) matrix("output", output_);
  vectors_.push_back({"output_norm", -1, &output_norm_, shape_.width, 0, 0});
  for (int index = 0; index < shape_.n_layers(); ++index) list_layer_slots(index);
  for (const MatrixSlot& slot : matrices_) {
    const std::string name = slot.name;
    const bool gives_logits = name == (shape_.tied_embeddings ? "embedding" : "output");
    if (gives_logits || name == "v") set_activation_bits(name, slot.layer, 16);
  }
}

void Model::list_layer_slots(int index) {
  Layer& l = layers_[static_cast<size_t>(index)];
  const ModelShape& s = shape_;
  const int width = s.width, query_width = s.query_width(), kv_width = s.kv_width(), head = s.head_size;
  const int pairs = s.rotary_pairs(index);
  const int n_networks = s.experts ? s.experts->n_experts : 1;
  const int inner = n_networks * s.ffn_width;
  const auto matrix = [&](const char* name, PackedMatrix& into, int rows, int columns, int rotary_heads = 0) {
    const PackOptions options{options_.float_path, rotary_heads, rotary_heads > 0 ? pairs : 0};
    matrices_.push_back({name, index, &into, rows, columns, options});
  };
  const auto vector = [&](bool wanted, const char* name, std::vector<float>& into, int size, int rotary_head = 0) {
    if (wanted) vectors_.push_back({name, index, &into, size, rotary_head, rotary_head > 0 ? pairs : 0});
  };
  matrix("q", l.q, query_width, width, s.n_heads);
  matrix("k", l.k, kv_width, width, s.n_kv_heads);
  matrix("v", l.v, kv_width, width);
  matrix("o", l.o, width, query_width);
  if (s.experts) {  // the few weights that decide where a row goes are never worth less than fp32
    matrices_.push_back({"router", index, &l.router, n_networks, width, {.dequantize = true}});
  }
  matrix("gate", l.gate, inner, width);
  matrix("up", l.up, inner, width);
  matrix("down", l.down, n_networks * width, s.ffn_width);

  const bool of_rows = s.qk_norm == QkNorm::row;
  vector(s.pre_norms, "attn_norm", l.attn_norm, width);
  vector(s.pre_norms, "ffn_norm", l.ffn_norm, width);
  vector(s.post_norms, "post_attn_norm", l.post_attn_norm, width);
  vector(s.post_norms, "post_ffn_norm", l.post_ffn_norm, width);
  vector(s.qk_norm != QkNorm::none, "q_norm", l.q_norm, of_rows ? query_width : head, head);
  vector(s.qk_norm != QkNorm::none, "k_norm", l.k_norm, of_rows ? kv_width : head, head);
  vector(s.qkv_bias, "q_bias", l.q_bias, query_width, head);
  vector(s.qkv_bias, "k_bias", l.k_bias, kv_width, head);
  vector(s.qkv_bias, "v_bias", l.v_bias, kv_width);
  vector(s.attention_output_bias, "o_bias", l.o_bias, width);
  vector(s.sinks, "sinks", l.sinks, s.n_heads);
  const bool expert_biases = s.experts && s.experts->biases;
  vector(expert_biases, "router_bias", l.router_bias, n_networks);
  vector(expert_biases, "gate_bias", l.gate_bias, inner);
  vector(expert_biases, "up_bias", l.up_bias, inner);
  vector(expert_biases, "down_bias", l.down_bias, n_networks * width);
}

}  // namespace stoker
