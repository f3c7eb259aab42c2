// Whole models out of any bytes: shapes, weights, norms, then batches, some of which break the rules.
#include <algorithm>
#include <memory>
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

ModelShape some_shape(FuzzedDataProvider& data) {
  const int n_kv_heads = data.ConsumeIntegralInRange<int>(1, 3);
  const int head_size = mostly(data, kGroup * data.ConsumeIntegralInRange<int>(1, 2));
  std::vector<float> frequencies(static_cast<size_t>(std::max(0, mostly(data, head_size / 2))));
  for (float& frequency : frequencies) frequency = some_float(data);
  return {.n_layers = mostly(data, data.ConsumeIntegralInRange<int>(1, 2)),
          .width = mostly(data, kGroup * data.ConsumeIntegralInRange<int>(1, 3)),
          .n_heads = mostly(data, n_kv_heads * data.ConsumeIntegralInRange<int>(1, 3)),
          .n_kv_heads = mostly(data, n_kv_heads),
          .head_size = head_size,
          .ffn_width = mostly(data, kGroup * data.ConsumeIntegralInRange<int>(1, 4)),
          .vocab_size = mostly(data, data.ConsumeIntegralInRange<int>(1, 70)),
          .context_length = mostly(data, data.ConsumeIntegralInRange<int>(1, 100)),
          .frequencies = std::move(frequencies),
          .norm_epsilon = some_float(data)};
}

ModelOptions some_options(FuzzedDataProvider& data) {
  static const std::vector<const Kernels*> paths = available_kernels();
  return {.isa = paths[data.ConsumeIntegralInRange<size_t>(0, paths.size() - 1)]->name,
          .n_threads = data.ConsumeIntegralInRange<int>(0, 7) == 0 ? 2 : 1,
          .kv_blocks = mostly(data, data.ConsumeIntegralInRange<int>(1, 20)),
          .max_step_tokens = mostly(data, data.ConsumeIntegralInRange<int>(1, 60)),
          .max_step_seqs = mostly(data, data.ConsumeIntegralInRange<int>(1, 4)),
          .float_path = data.ConsumeIntegralInRange<int>(0, 7) == 0};
}

class FuzzedModel {
 public:
  explicit FuzzedModel(FuzzedDataProvider& data)
      : data_(data), shape_(some_shape(data)), options_(some_options(data)), model_(shape_, options_) {
    const int q_width = shape_.n_heads * shape_.head_size;
    const int kv_width = shape_.n_kv_heads * shape_.head_size;
    set_matrix("embedding", 0, shape_.vocab_size, shape_.width);
    if (data.ConsumeBool()) set_matrix("output", 0, shape_.vocab_size, shape_.width);
    set_norm("output_norm", 0);
    for (int layer = 0; layer < shape_.n_layers; ++layer) {
      set_norm("attn_norm", layer);
      set_norm("ffn_norm", layer);
      set_matrix("q", layer, q_width, shape_.width);
      set_matrix("k", layer, kv_width, shape_.width);
      set_matrix("v", layer, kv_width, shape_.width);
      set_matrix("o", layer, shape_.width, q_width);
      set_matrix("gate", layer, shape_.ffn_width, shape_.width);
      set_matrix("up", layer, shape_.ffn_width, shape_.width);
      set_matrix("down", layer, shape_.width, shape_.ffn_width);
    }
    model_.finish();
  }

  Model& model() { return model_; }
  const ModelOptions& options() const { return options_; }

 private:
  void set_matrix(const std::string& name, int layer, int n, int k) {
    if (data_.ConsumeIntegralInRange<int>(0, 63) == 0) return;  // something is missing: finish must say so
    const char* type = data_.PickValueInArray(kTypeNames);
    size_t row_size = 0;
    try {
      row_size = source_row_size(source_type(type), k);
    } catch (const std::invalid_argument&) {  // super-blocks do not fit this width
      type = data_.PickValueInArray({"Q4_1", "Q8_0", "F32"});
      row_size = source_row_size(source_type(type), k);
    }
    const size_t change = data_.ConsumeIntegralInRange<int>(0, 127) == 0 ? 1 : 0;
    const std::vector<uint8_t> stored = stretched(data_, row_size * static_cast<size_t>(n) + change);
    model_.set_matrix(name, layer, type, stored.data(), stored.size(), data_.ConsumeBool());
  }

  void set_norm(const std::string& name, int layer) {
    std::vector<float> values(static_cast<size_t>(shape_.width));
    const float value = some_float(data_);
    for (size_t i = 0; i < values.size(); ++i) values[i] = value * static_cast<float>(i % 3);
    model_.set_norm(name, layer, values.data(), values.size());
  }

  FuzzedDataProvider& data_;
  ModelShape shape_;
  ModelOptions options_;
  Model model_;
};

// Owns what a Batch points to. Starts ascend from 0 to the arrays' lengths, as the bindings check.
struct FuzzedBatch {
  std::vector<int32_t> tokens, run_starts{0}, first_positions, tables, table_starts{0};
  std::vector<uint8_t> samples;
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
      samples.push_back(data.ConsumeBool() ? 1 : 0);
      params.push_back({some_float(data), data.ConsumeIntegralInRange<int>(0, 80), some_float(data), some_float(data),
                        data.ConsumeIntegral<uint64_t>(), 0, static_cast<uint32_t>(end),
                        data.ConsumeIntegralInRange<int>(-1, kMaxLogprobs), nullptr});
      if (data.ConsumeIntegralInRange<int>(0, 3) == 0) {
        edits.push_back(std::make_unique<FuzzedEdits>(data, shape.vocab_size));
        params.back().edits = &edits.back()->view;
      }
    }
  }

  Batch view() const {
    return {static_cast<int>(first_positions.size()),
            tokens.data(),
            run_starts.data(),
            first_positions.data(),
            tables.data(),
            table_starts.data(),
            samples.data(),
            params.data()};
  }
};

void fuzz(FuzzedDataProvider& data) {
  FuzzedModel fuzzed(data);
  Model& model = fuzzed.model();
  const ModelShape& shape = model.shape();
  for (int step = 0; step < 3 && data.remaining_bytes() > 0; ++step) {
    const FuzzedBatch batch(data, shape, fuzzed.options());
    std::vector<Sample> sampled(batch.samples.size());
    try {
      model.forward(batch.view(), sampled.data());
    } catch (const std::invalid_argument&) {  // a batch that breaks the rules leaves the model as it was
      continue;
    }
    for (size_t s = 0; s < sampled.size(); ++s) {
      REQUIRE(batch.samples[s] == 0 || (sampled[s].token >= 0 && sampled[s].token < shape.vocab_size));
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
