// Tiny models with random weights, and sequences that are computed with them bit by bit.
#pragma once
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "float_mode.h"
#include "model.h"
#include "support.h"

namespace stoker {

struct TinyModel {
  ModelShape shape;
  std::string type;
  std::string embedding_type;
  bool float_path;
  uint64_t seed;
  std::string kv_type = "auto";

  // The same weights whatever the options.
  std::unique_ptr<Model> build(const std::string& isa, int n_threads, int kv_blocks, int step_tokens,
                               int step_seqs) const {
    auto model = std::make_unique<Model>(
        shape, ModelOptions{isa, n_threads, kv_blocks, step_tokens, step_seqs, float_path, kv_type});
    Random random(seed);
    Random bits(seed + 1);
    for (const MatrixSlot& slot : model->matrices()) {
      model->set_activation_bits(slot.name, slot.layer, bits.below(2) == 0 ? 8 : 16);
      const std::string& stored_as = slot.layer < 0 ? embedding_type : type;
      const Stored stored = random_matrix(random, stored_as, slot.rows, slot.columns);
      model->set_matrix(slot.name, slot.layer, stored_as, stored.bytes.data(), stored.bytes.size(),
                        random.below(2) == 0);
    }
    for (const VectorSlot& slot : model->vectors()) {
      std::vector<float> values(static_cast<size_t>(slot.size));
      for (float& value : values) value = 1.0f + 0.1f * random.unit();
      model->set_vector(slot.name, slot.layer, values.data(), values.size(), random.below(2) == 0);
    }
    model->finish();
    return model;
  }
};

// A model that holds another one's matrices in memory that is neither's, as it does out of a pack.
class MappedModel {
 public:
  MappedModel(const TinyModel& tiny, const std::string& isa, int kv_blocks, int step_tokens)
      : model(tiny.shape, ModelOptions{isa, 1, kv_blocks, step_tokens, 1, tiny.float_path, tiny.kv_type}) {
    const auto packed = tiny.build(isa, 1, 1, 1, 1);
    for (const MatrixSlot& slot : packed->matrices()) {
      const PackedMatrix& matrix = packed->packed_matrix(slot.name, slot.layer);
      pack_.emplace_back(matrix.bytes());
      std::memcpy(pack_.back().as<uint8_t>(), matrix.block(0), matrix.bytes());
      model.set_activation_bits(slot.name, slot.layer, packed->activation_bits(slot.name, slot.layer));
      model.map_matrix(slot.name, slot.layer, weight_type_name(matrix.type), pack_.back().as<const uint8_t>(),
                       matrix.bytes());
    }
    for (const VectorSlot& slot : packed->vectors()) {
      model.set_vector(slot.name, slot.layer, slot.values->data(), slot.values->size(), false);
    }
    model.finish();
  }

 private:
  std::vector<Memory> pack_;

 public:
  Model model;
};

// A sequence whose tokens are computed bit by bit, and its logits so far.
struct Sequence {
  std::vector<int32_t> tokens;
  std::vector<int32_t> table;
  int computed = 0;
  std::vector<float> logits;
};

// Owns what a Batch points to.
struct BatchBuilder {
  std::vector<int32_t> tokens, run_starts{0}, first_positions, tables, table_starts{0};
  std::vector<int32_t> samples;
  std::vector<SampleParams> params;

  void add(const Sequence& sequence, int n_tokens) {
    const auto from = sequence.tokens.begin() + sequence.computed;
    tokens.insert(tokens.end(), from, from + n_tokens);
    run_starts.push_back(static_cast<int32_t>(tokens.size()));
    first_positions.push_back(sequence.computed);
    tables.insert(tables.end(), sequence.table.begin(), sequence.table.end());
    table_starts.push_back(static_cast<int32_t>(tables.size()));
    samples.push_back(1);
    params.push_back({0.8f, 40, 0.95f, 0.01f, 17, 0, static_cast<uint32_t>(sequence.computed + n_tokens), 5, nullptr});
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

// Computes all sequences, in random chunks of random sequences at a time.
inline void compute(Model& model, std::vector<Sequence>& sequences, Random& random, int max_seqs, int max_tokens) {
  const auto vocab = static_cast<size_t>(model.shape().vocab_size);
  for (;;) {
    std::vector<int> order;
    for (size_t i = 0; i < sequences.size(); ++i) {
      if (sequences[i].computed < static_cast<int>(sequences[i].tokens.size())) order.push_back(static_cast<int>(i));
    }
    if (order.empty()) return;
    random.shuffle(order);
    order.resize(std::min(order.size(), static_cast<size_t>(random.between(1, max_seqs))));
    BatchBuilder batch;
    std::vector<int> counts;
    int left = max_tokens;
    for (const int index : order) {
      const Sequence& sequence = sequences[static_cast<size_t>(index)];
      const int rest = std::min(left, static_cast<int>(sequence.tokens.size()) - sequence.computed);
      if (rest == 0) break;
      counts.push_back(random.below(3) == 0 ? rest : random.between(1, std::min(rest, 20)));
      left -= counts.back();
      batch.add(sequence, counts.back());
    }
    std::vector<float> logits(batch.tokens.size() * vocab);
    model.logits(batch.view(), logits.data());
    // Sampling computes the same tokens again, into the same places.
    std::vector<Sample> samples(counts.size());
    std::vector<int32_t> scored_rows, scored_tokens, n_tops;
    for (size_t i = 0; i < batch.tokens.size(); i += static_cast<size_t>(random.between(1, 3))) {
      for (int n = random.below(4) == 0 ? random.between(2, 9) : 1; n > 0; --n) {
        scored_rows.push_back(static_cast<int32_t>(i));
        scored_tokens.push_back(random.below(model.shape().vocab_size));
        n_tops.push_back(random.between(0, kMaxLogprobs));
      }
    }
    std::vector<Sample> scored(scored_rows.size());
    const PromptScores scores{static_cast<int>(scored_rows.size()), scored_rows.data(), scored_tokens.data(),
                              n_tops.data(), scored.data()};
    Batch with_scores = batch.view();
    with_scores.scores = &scores;
    model.forward(with_scores, samples.data());
    for (size_t i = 0; i < scored.size(); ++i) {
      SampleScratch scratch(model.shape().vocab_size);
      const FloatMode float_mode;
      Sample expected;
      score(find_kernels(model.isa()), &logits[static_cast<size_t>(scored_rows[i]) * vocab], model.shape().vocab_size,
            1, &scored_tokens[i], &n_tops[i], scratch, &expected);
      CHECK(scored[i].logprob == expected.logprob);
      CHECK(std::equal(expected.top_logprobs, expected.top_logprobs + n_tops[i], scored[i].top_logprobs));
      CHECK(std::equal(expected.top_tokens, expected.top_tokens + n_tops[i], scored[i].top_tokens));
    }
    size_t row = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      Sequence& sequence = sequences[static_cast<size_t>(order[i])];
      const auto n = static_cast<size_t>(counts[i]);
      const auto from = logits.begin() + static_cast<ptrdiff_t>(row * vocab);
      sequence.logits.insert(sequence.logits.end(), from, from + static_cast<ptrdiff_t>(n * vocab));
      sequence.computed += counts[i];
      row += n;
      const float* last = logits.data() + (row - 1) * vocab;
      SampleScratch scratch(model.shape().vocab_size);
      const FloatMode float_mode;
      const Sample expected =
          sample(find_kernels(model.isa()), last, model.shape().vocab_size, batch.params[i], scratch);
      CHECK(samples[i].token == expected.token && samples[i].logprob == expected.logprob);
    }
  }
}

inline void deal_blocks(std::vector<Sequence>& sequences, int kv_blocks, Random& random) {
  std::vector<int> blocks(static_cast<size_t>(kv_blocks));
  std::iota(blocks.begin(), blocks.end(), 0);
  random.shuffle(blocks);
  size_t next = 0;
  for (Sequence& sequence : sequences) {
    sequence.table.clear();
    sequence.computed = 0;
    sequence.logits.clear();
    for (size_t n = 0; n < sequence.tokens.size(); n += kBlockTokens) sequence.table.push_back(blocks.at(next++));
  }
}

inline ModelShape plain_shape(int n_layers, int width, int n_heads, int n_kv_heads, int head_size) {
  ModelShape shape;
  shape.layers.assign(static_cast<size_t>(n_layers), {.window = 0, .rotary = 0});
  shape.width = width;
  shape.n_heads = n_heads;
  shape.n_kv_heads = n_kv_heads;
  shape.head_size = head_size;
  shape.ffn_width = 96;
  shape.vocab_size = 75;
  shape.context_length = 640;
  RotaryShape rotary;
  for (int pair = 0; pair < head_size / 2; ++pair) {
    rotary.frequencies.push_back(std::pow(1e4f, -2.0f * static_cast<float>(pair) / static_cast<float>(head_size)));
  }
  shape.rotaries.push_back(rotary);
  shape.norm_epsilon = 1e-5f;
  shape.tied_embeddings = true;
  shape.score_scale = 0.2f;
  return shape;
}

}  // namespace stoker
