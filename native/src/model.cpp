// Setting a model up: shape, weights, tables, buffers. The forward pass is in forward.cpp.
#include "model.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "model_scratch.h"

namespace stoker {

namespace {

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

void check_shape(const ModelShape& s, const ModelOptions& o) {
  require(s.n_layers > 0 && s.width > 0 && s.n_heads > 0 && s.n_kv_heads > 0 && s.ffn_width > 0 && s.vocab_size > 0 &&
              s.context_length > 0,
          "every size of the model must be positive");
  require(s.n_heads % s.n_kv_heads == 0, "query heads must be a multiple of key-value heads");
  require(s.head_size > 0 && s.head_size % kGroup == 0, "head size must be a multiple of 32");
  require(s.frequencies.size() == static_cast<size_t>(s.head_size / 2), "every rotary pair needs its frequency");
  require(s.width % kGroup == 0 && s.ffn_width % kGroup == 0, "widths must be multiples of 32");
  require(o.n_threads > 0 && o.kv_blocks > 0 && o.max_step_tokens > 0 && o.max_step_seqs > 0,
          "threads, KV blocks and step limits must be positive");
}

Scratch* make_scratch(const ModelShape& s, const ModelOptions& o) {
  auto scratch = std::make_unique<Scratch>();
  const auto rows = static_cast<size_t>(o.max_step_tokens);
  const auto width = static_cast<size_t>(s.width);
  const auto heads_width = static_cast<size_t>(s.n_heads) * static_cast<size_t>(s.head_size);
  const size_t padded_vocab = (static_cast<size_t>(s.vocab_size) + kLanes - 1) / kLanes * kLanes;
  scratch->residual = Memory(rows * width * sizeof(float));
  scratch->queries = Memory(rows * heads_width * sizeof(float));
  scratch->normed = ActivationBuffer(rows, width);
  scratch->normed_twice = ActivationBuffer(2 * rows, width, Form::codes);
  scratch->attended = ActivationBuffer(rows, heads_width);
  scratch->inner = ActivationBuffer(rows, static_cast<size_t>(s.ffn_width));
  scratch->logits = Memory(static_cast<size_t>(o.max_step_seqs) * padded_vocab * sizeof(float));
  const size_t tile_columns = std::max<size_t>(static_cast<size_t>(s.head_size), 2 * kGroup);
  const auto head = static_cast<size_t>(s.head_size);
  const size_t pairs = static_cast<size_t>(kAttentionRows) * static_cast<size_t>(s.group());
  for (int thread = 0; thread < o.n_threads; ++thread) {
    scratch->threads.push_back({Memory(kRowBlock * tile_columns * sizeof(float)),
                                Memory(2 * kRowBlock * kLanes * sizeof(float)),
                                Memory(2 * kTileTokens * head * sizeof(float)),
                                Memory(2 * pairs * (head + 2) * sizeof(float)), SampleScratch(s.vocab_size)});
  }
  return scratch.release();
}

}  // namespace

Model::Model(const ModelShape& shape, const ModelOptions& options)
    : shape_((check_shape(shape, options), shape)),
      options_(options),
      kernels_(&find_kernels(options.isa)),
      pool_(options.n_threads),
      kv_type_(options.float_path ? KvType::f32 : KvType::f16),
      layers_(static_cast<size_t>(shape.n_layers)),
      scratch_(make_scratch(shape, options)) {
  const size_t element = kv_type_ == KvType::f32 ? sizeof(float) : sizeof(uint16_t);
  const size_t elements = static_cast<size_t>(shape.n_layers) * static_cast<size_t>(options.kv_blocks) *
                          static_cast<size_t>(shape.n_kv_heads) * static_cast<size_t>(shape.head_size) * kBlockTokens;
  keys_ = Memory(elements * element);
  values_ = Memory(elements * element);
  const int half = shape.head_size / 2;
  cosine_.resize(static_cast<size_t>(shape.context_length) * static_cast<size_t>(half));
  sine_.resize(cosine_.size());
  for (int i = 0; i < half; ++i) {
    for (int position = 0; position < shape.context_length; ++position) {
      // Rounded to fp32, as the published models round it.
      const float angle = static_cast<float>(position) * shape.frequencies[static_cast<size_t>(i)];
      const size_t at = static_cast<size_t>(position) * static_cast<size_t>(half) + static_cast<size_t>(i);
      cosine_[at] = static_cast<float>(std::cos(static_cast<double>(angle)));
      sine_[at] = static_cast<float>(std::sin(static_cast<double>(angle)));
    }
  }
}

Model::~Model() = default;

size_t Model::weight_bytes() const {
  size_t total = embedding_.memory.size() + output_.memory.size();
  for (const Layer& layer : layers_) {
    for (const PackedMatrix* m : {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      total += m->memory.size();
    }
  }
  return total;
}

Model::MatrixSlot Model::matrix_slot(const std::string& name, int layer) {
  const int q_width = shape_.n_heads * shape_.head_size;
  const int kv_width = shape_.n_kv_heads * shape_.head_size;
  MatrixSlot slot{};
  if (name == "embedding") {
    slot = {&embedding_, shape_.vocab_size, shape_.width, 0};
  } else if (name == "output") {
    slot = {&output_, shape_.vocab_size, shape_.width, 0};
  } else {
    require(layer >= 0 && layer < shape_.n_layers, "layer " + std::to_string(layer) + " is out of range");
    Layer& l = layers_[static_cast<size_t>(layer)];
    if (name == "q") slot = {&l.q, q_width, shape_.width, shape_.n_heads};
    if (name == "k") slot = {&l.k, kv_width, shape_.width, shape_.n_kv_heads};
    if (name == "v") slot = {&l.v, kv_width, shape_.width, 0};
    if (name == "o") slot = {&l.o, shape_.width, q_width, 0};
    if (name == "gate") slot = {&l.gate, shape_.ffn_width, shape_.width, 0};
    if (name == "up") slot = {&l.up, shape_.ffn_width, shape_.width, 0};
    if (name == "down") slot = {&l.down, shape_.width, shape_.ffn_width, 0};
  }
  require(slot.matrix != nullptr, "unknown matrix '" + name + "'");
  return slot;
}

void Model::set_matrix(const std::string& name, int layer, const std::string& type, const uint8_t* data, size_t size,
                       bool adjacent_pairs) {
  const MatrixSlot slot = matrix_slot(name, layer);
  const SourceType source = source_type(type);
  const size_t expected = source_row_size(source, slot.columns) * static_cast<size_t>(slot.rows);
  require(size == expected,
          name + ": expected " + std::to_string(expected) + " bytes of " + type + ", got " + std::to_string(size));
  *slot.matrix = pack(source, data, slot.rows, slot.columns,
                      {.dequantize = options_.float_path, .rotary_heads = adjacent_pairs ? slot.heads : 0}, pool_);
}

void Model::set_norm(const std::string& name, int layer, const float* data, size_t count) {
  std::vector<float>* norm = nullptr;
  if (name == "output_norm") {
    norm = &output_norm_;
  } else {
    require(layer >= 0 && layer < shape_.n_layers, "layer " + std::to_string(layer) + " is out of range");
    Layer& l = layers_[static_cast<size_t>(layer)];
    if (name == "attn_norm") norm = &l.attn_norm;
    if (name == "ffn_norm") norm = &l.ffn_norm;
  }
  require(norm != nullptr, "unknown norm '" + name + "'");
  require(count == static_cast<size_t>(shape_.width),
          name + ": expected " + std::to_string(shape_.width) + " values, got " + std::to_string(count));
  norm->assign(data, data + count);
}

void Model::finish() {
  require(embedding_.n > 0, "the embedding matrix is missing");
  require(!output_norm_.empty(), "the output norm is missing");
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& l = layers_[i];
    const bool whole = !l.attn_norm.empty() && !l.ffn_norm.empty() && l.q.n > 0 && l.k.n > 0 && l.v.n > 0 &&
                       l.o.n > 0 && l.gate.n > 0 && l.up.n > 0 && l.down.n > 0;
    require(whole, "layer " + std::to_string(i) + " is incomplete");
  }
}

}  // namespace stoker
