// Whole models out of any bytes: shapes, weights, vectors, then batches, some of which break the rules.
#include <algorithm>
#include <memory>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"
#include "model.h"
#include "support.h"

namespace stoker {

namespace {

// Mostly `good`, at times anything small.
int mostly(FuzzedDataProvider& data, int good) {
  return data.ConsumeIntegralInRange<int>(0, 63) == 0 ? data.ConsumeIntegralInRange<int>(-40, 100) : good;
}

RotaryShape some_rotary(FuzzedDataProvider& data, int head_size) {
  const int n_pairs = data.ConsumeBool() ? head_size / 2 : data.ConsumeIntegralInRange<int>(0, 16);
  RotaryShape rotary{std::vector<float>(static_cast<size_t>(std::max(0, mostly(data, n_pairs)))), 1.0f};
  for (float& frequency : rotary.frequencies) frequency = some_float(data);
  if (data.ConsumeBool()) rotary.magnitude = some_float(data);
  return rotary;
}

LayerShape some_layer(FuzzedDataProvider& data, int n_rotaries) {
  const int window = data.ConsumeBool() ? 0 : data.ConsumeIntegralInRange<int>(0, 110);
  return {mostly(data, window), mostly(data, data.ConsumeIntegralInRange<int>(-1, n_rotaries - 1))};
}

// Mostly `good`, at times any float.
float mostly_factor(FuzzedDataProvider& data, float good) {
  return data.ConsumeIntegralInRange<int>(0, 15) == 0 ? some_float(data) : good;
}

ExpertsShape some_experts(FuzzedDataProvider& data) {
  const int n_experts = data.ConsumeIntegralInRange<int>(1, 20);
  return {mostly(data, n_experts), mostly(data, data.ConsumeIntegralInRange<int>(1, std::min(n_experts, 4))),
          data.ConsumeBool(), data.ConsumeBool()};
}

ModelShape some_shape(FuzzedDataProvider& data) {
  const int n_kv_heads = data.ConsumeIntegralInRange<int>(1, 3);
  ModelShape shape;
  shape.width = mostly(data, kGroup * data.ConsumeIntegralInRange<int>(1, 3));
  shape.n_heads = mostly(data, n_kv_heads * data.ConsumeIntegralInRange<int>(1, 3));
  shape.n_kv_heads = mostly(data, n_kv_heads);
  shape.head_size = mostly(data, kGroup * data.ConsumeIntegralInRange<int>(1, 2));
  shape.ffn_width = mostly(data, kGroup * data.ConsumeIntegralInRange<int>(1, 4));
  shape.vocab_size = mostly(data, data.ConsumeIntegralInRange<int>(1, 70));
  shape.context_length = mostly(data, data.ConsumeIntegralInRange<int>(1, 100));
  const int n_rotaries = data.ConsumeIntegralInRange<int>(0, 2);
  for (int i = 0; i < n_rotaries; ++i) shape.rotaries.push_back(some_rotary(data, shape.head_size));
  const int n_layers = std::max(0, mostly(data, data.ConsumeIntegralInRange<int>(1, 2)));
  for (int i = 0; i < std::min(n_layers, 4); ++i) shape.layers.push_back(some_layer(data, n_rotaries));
  shape.norm_epsilon = mostly_factor(data, 1e-5f);
  shape.tied_embeddings = data.ConsumeBool();
  shape.activation = data.PickValueInArray({Activation::silu, Activation::gelu_tanh, Activation::clamped_swiglu});
  shape.qk_norm = data.PickValueInArray({QkNorm::none, QkNorm::head, QkNorm::row});
  shape.pre_norms = data.ConsumeBool();
  shape.post_norms = data.ConsumeBool();
  shape.qkv_bias = data.ConsumeBool();
  shape.attention_output_bias = data.ConsumeBool();
  shape.sinks = data.ConsumeBool();
  shape.score_scale = mostly_factor(data, 0.2f);
  shape.score_softcap = mostly_factor(data, data.ConsumeBool() ? 0.0f : 5.0f);
  shape.logit_softcap = mostly_factor(data, data.ConsumeBool() ? 0.0f : 5.0f);
  shape.embedding_scale = mostly_factor(data, 1.0f);
  shape.residual_scale = mostly_factor(data, 1.0f);
  shape.logit_scale = mostly_factor(data, 1.0f);
  if (data.ConsumeBool()) shape.experts = some_experts(data);
  return shape;
}

ModelOptions some_options(FuzzedDataProvider& data) {
  static const std::vector<const Kernels*> paths = available_kernels();
  return {.isa = paths[data.ConsumeIntegralInRange<size_t>(0, paths.size() - 1)]->name,
          .n_threads = data.ConsumeIntegralInRange<int>(0, 7) == 0 ? 2 : 1,
          .kv_blocks = mostly(data, data.ConsumeIntegralInRange<int>(1, 20)),
          .max_step_tokens = mostly(data, data.ConsumeIntegralInRange<int>(1, 60)),
          .max_step_seqs = mostly(data, data.ConsumeIntegralInRange<int>(1, 4)),
          .float_path = data.ConsumeIntegralInRange<int>(0, 7) == 0,
          .kv_type = data.PickValueInArray({"auto", "f16", "bf16", "q8", "f32", "q4"})};
}

class FuzzedModel {
 public:
  explicit FuzzedModel(FuzzedDataProvider& data)
      : data_(data), shape_(some_shape(data)), options_(some_options(data)), model_(shape_, options_) {
    for (const MatrixSlot& slot : model_.matrices()) set_matrix(slot);
    for (const VectorSlot& slot : model_.vectors()) set_vector(slot);
    model_.finish();
  }

  Model& model() { return model_; }
  const ModelOptions& options() const { return options_; }

 private:
  void set_matrix(const MatrixSlot& slot) {
    if (data_.ConsumeIntegralInRange<int>(0, 63) == 0) return;  // something is missing: finish must say so
    const char* type = data_.PickValueInArray(kTypeNames);
    size_t row_size = 0;
    try {
      row_size = source_row_size(source_type(type), slot.columns);
    } catch (const std::invalid_argument&) {  // super-blocks do not fit this width
      type = data_.PickValueInArray({"Q4_1", "Q8_0", "F32"});
      row_size = source_row_size(source_type(type), slot.columns);
    }
    const size_t change = data_.ConsumeIntegralInRange<int>(0, 127) == 0 ? 1 : 0;
    const std::vector<uint8_t> stored = stretched(data_, row_size * static_cast<size_t>(slot.rows) + change);
    model_.set_matrix(slot.name, slot.layer, type, stored.data(), stored.size(), data_.ConsumeBool());
  }

  void set_vector(const VectorSlot& slot) {
    std::vector<float> values(static_cast<size_t>(slot.size));
    const float value = some_float(data_);
    for (size_t i = 0; i < values.size(); ++i) values[i] = value * static_cast<float>(i % 3);
    model_.set_vector(slot.name, slot.layer, values.data(), values.size(), data_.ConsumeBool());
  }

  FuzzedDataProvider& data_;
  ModelShape shape_;
  ModelOptions options_;
  Model model_;
};

// Owns what a Batch points to. Starts ascend from 0 to the arrays' lengths, as the bindings check.
struct FuzzedBatch {
  std::vector<int32_t> tokens, run_starts{0}, first_positions, tables, table_starts{0};
  std::vector<int32_t> samples;
  std::vector<uint8_t> skipped;  // mostly empty
  std::vector<SampleParams> params;
  std::vector<std::unique_ptr<FuzzedEdits>> edits;

  FuzzedBatch(FuzzedDataProvider& data, const ModelShape& shape, const ModelOptions& options) {
    const int n_seqs = mostly(data, data.ConsumeIntegralInRange<int>(1, options.max_step_seqs));
    for (int s = 0; s < n_seqs; ++s) {
      const int n = mostly(data, data.ConsumeIntegralInRange<int>(1, options.max_step_tokens / n_seqs + 1));
      for (int i = 0; i < n; ++i) {
        tokens.push_back(mostly(data, data.ConsumeIntegralInRange<int>(0, shape.vocab_size - 1)));
      }
      run_starts.push_back(static_cast<int32_t>(tokens.size()));
      first_positions.push_back(
          mostly(data, data.ConsumeIntegralInRange<int>(0, std::max(0, shape.context_length - n))));
      const int end = first_positions.back() + std::max(n, 0);
      const int n_blocks = mostly(data, (std::max(end, 0) + kBlockTokens - 1) / kBlockTokens);
      for (int i = 0; i < n_blocks; ++i) {
        tables.push_back(mostly(data, data.ConsumeIntegralInRange<int>(0, options.kv_blocks - 1)));
      }
      table_starts.push_back(static_cast<int32_t>(tables.size()));
      // Now and then behind drafts, and more than there are tokens.
      samples.push_back(data.ConsumeBool() ? 1 : data.ConsumeIntegralInRange<int>(0, std::clamp(n, 0, 8) + 1));
      params.push_back({some_float(data), data.ConsumeIntegralInRange<int>(0, 80), some_float(data), some_float(data),
                        data.ConsumeIntegral<uint64_t>(), 0, static_cast<uint32_t>(end),
                        data.ConsumeIntegralInRange<int>(-1, kMaxLogprobs), nullptr});
      if (data.ConsumeIntegralInRange<int>(0, 3) == 0) {
        edits.push_back(std::make_unique<FuzzedEdits>(data, shape.vocab_size));
        params.back().edits = &edits.back()->view;
      }
    }
    if (data.ConsumeIntegralInRange<int>(0, 7) == 0) {
      for (int layer = 0; layer < shape.n_layers(); ++layer) skipped.push_back(data.ConsumeBool() ? 1 : 0);
    }
  }

  Batch view() const {
    Batch batch{static_cast<int>(first_positions.size()),
                tokens.data(),
                run_starts.data(),
                first_positions.data(),
                tables.data(),
                table_starts.data(),
                samples.data(),
                params.data()};
    if (!skipped.empty()) batch.skipped = skipped.data();
    return batch;
  }
};

void fuzz(FuzzedDataProvider& data) {
  FuzzedModel fuzzed(data);
  Model& model = fuzzed.model();
  const ModelShape& shape = model.shape();
  for (int step = 0; step < 3 && data.remaining_bytes() > 0; ++step) {
    const FuzzedBatch batch(data, shape, fuzzed.options());
    std::vector<Sample> sampled(static_cast<size_t>(std::accumulate(batch.samples.begin(), batch.samples.end(), 0)));
    try {
      model.forward(batch.view(), sampled.data());
    } catch (const std::invalid_argument&) {  // a batch that breaks the rules leaves the model as it was
      continue;
    }
    const Sample* next = sampled.data();
    for (const int32_t n : batch.samples) {
      for (int i = 0; i < n; ++i, ++next) {  // there is none behind a wrong draft
        REQUIRE(next->token >= (i == 0 ? 0 : -1) && next->token < shape.vocab_size);
      }
    }
    const size_t n_logits = batch.tokens.size() * static_cast<size_t>(shape.vocab_size);
    std::vector<float> logits(n_logits), again(n_logits);
    model.logits(batch.view(), logits.data());
    model.logits(batch.view(), again.data());
    REQUIRE(std::memcmp(logits.data(), again.data(), n_logits * sizeof(float)) == 0);
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
