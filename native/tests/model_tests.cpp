// The forward pass of tiny models: a sequence's bits do not depend on the batch, the chunking or the threads.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "support.h"
#include "tests.h"
#include "tiny_models.h"

namespace stoker {

namespace {

void test_model(const TinyModel& tiny, const std::vector<int>& lengths, const std::string& isa, int max_threads) {
  constexpr int kStepTokens = 128;
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  const int kv_blocks =
      std::accumulate(lengths.begin(), lengths.end(), 0) / kBlockTokens + static_cast<int>(lengths.size()) + 3;
  Random random(tiny.seed + 1);
  std::vector<Sequence> sequences(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (int n = 0; n < lengths[i]; ++n) sequences[i].tokens.push_back(random.below(tiny.shape.vocab_size));
  }
  // Each alone, whole where it fits one step, on one thread; and the same out of a pack.
  std::vector<std::vector<float>> alone;
  {
    const auto model = tiny.build(isa, 1, (longest + 15) / kBlockTokens, std::max(longest, 1), 1);
    MappedModel mapped(tiny, isa, (longest + 15) / kBlockTokens, std::max(longest, 1));
    for (Sequence& sequence : sequences) {
      std::vector<Sequence> one{sequence};
      deal_blocks(one, (longest + 15) / kBlockTokens, random);
      BatchBuilder batch;
      batch.add(one[0], static_cast<int>(sequence.tokens.size()));
      std::vector<float> logits(sequence.tokens.size() * static_cast<size_t>(tiny.shape.vocab_size));
      model->logits(batch.view(), logits.data());
      alone.push_back(logits);
      mapped.model.logits(batch.view(), logits.data());
      CHECK(same_bits(logits, alone.back()));
      for (const float x : logits) CHECK(std::isfinite(x));
    }
  }
  for (int n_threads = 1; n_threads <= max_threads; ++n_threads) {
    const auto model = tiny.build(isa, n_threads, kv_blocks, kStepTokens, static_cast<int>(lengths.size()));
    deal_blocks(sequences, kv_blocks, random);
    compute(*model, sequences, random, static_cast<int>(lengths.size()), kStepTokens);
    for (size_t i = 0; i < sequences.size(); ++i) CHECK(same_bits(sequences[i].logits, alone[i]));
  }
}

// Between them, every part that a shape can have.
std::vector<ModelShape> rich_shapes() {
  ModelShape dense = plain_shape(3, 64, 4, 2, 32);
  dense.layers = {{.window = 24, .rotary = 0}, {.window = 100, .rotary = -1}, {.window = 0, .rotary = 1}};
  dense.rotaries.push_back({{1.0f, 0.3f, 0.1f, 0.03f, 0.01f}, 1.25f});
  dense.tied_embeddings = false;
  dense.activation = Activation::gelu_tanh;
  dense.post_norms = true;
  dense.qk_norm = QkNorm::head;
  dense.qkv_bias = dense.attention_output_bias = dense.sinks = true;
  dense.score_softcap = 20.0f;
  dense.logit_softcap = 10.0f;
  dense.embedding_scale = 8.0f;
  dense.residual_scale = 0.5f;
  dense.logit_scale = 0.25f;
  ModelShape mixture = dense;
  mixture.layers = {{.window = 0, .rotary = 0}, {.window = 30, .rotary = 0}};
  mixture.activation = Activation::clamped_swiglu;
  mixture.pre_norms = false;
  mixture.qk_norm = QkNorm::row;
  mixture.experts = ExpertsShape{.n_experts = 20, .n_used = 3, .normalized = true, .biases = true};
  ModelShape few_experts = plain_shape(1, 64, 2, 1, 64);
  few_experts.experts = ExpertsShape{.n_experts = 3, .n_used = 3, .normalized = false, .biases = false};
  return {dense, mixture, few_experts};
}

// Attention in more pieces than there is memory for the partial results of: cut less, it has the same bits. What lies
// before the rows is whatever the KV cache holds, here zeros.
void test_many_pieces(const std::string& isa, const std::string& kv_type) {
  ModelShape shape = plain_shape(1, 32, 16, 1, 256);
  shape.context_length = 3040;
  const int first = 2992;
  const TinyModel tiny{shape, "Q4_1", "Q8_0", false, 31, kv_type};
  std::vector<std::vector<float>> results;
  for (const int n_threads : {1, 2, 3}) {
    const auto model = tiny.build(isa, n_threads, shape.context_length / kBlockTokens, 48, 1);
    Random random(32);
    Sequence sequence;
    for (int i = 0; i < shape.context_length; ++i) sequence.tokens.push_back(random.below(shape.vocab_size));
    for (int i = 0; i < shape.context_length / kBlockTokens; ++i) sequence.table.push_back(i);
    sequence.computed = first;
    std::vector<float> logits;
    for (const int n : {48, 16, 31, 1}) {  // computed over and over, to the same places
      BatchBuilder batch;
      sequence.computed = sequence.computed == shape.context_length ? first : sequence.computed;
      batch.add(sequence, n);
      std::vector<float> some(static_cast<size_t>(n * shape.vocab_size));
      model->logits(batch.view(), some.data());
      logits.insert(logits.end(), some.begin(), some.end());
      sequence.computed += n;
    }
    const auto half = logits.begin() + 48 * shape.vocab_size;
    CHECK(same_bits({logits.begin(), half}, {half, logits.end()}));
    results.push_back(logits);
  }
  CHECK(same_bits(results[0], results[1]) && same_bits(results[0], results[2]));
}

}  // namespace

void test_models(const std::string& isa, int max_threads) {
  const char* const kv_types[] = {"auto", "bf16", "q8", "f16"};
  for (const char* kv_type : {"auto", "q8"}) test_many_pieces(isa, kv_type);
  int index = 0;
  for (const std::string type : kTypes) {
    ModelShape shape = plain_shape(2, 64, 2 * (1 + index % 3), 2, 32 * (1 + index % 2));
    shape.tied_embeddings = index % 2 == 0;
    const TinyModel tiny{
        shape, type, kTypes[(index + 2) % 6], false, static_cast<uint64_t>(index), kv_types[index % 4]};
    test_model(tiny, {1, 15, 16, 17, 33, 64, 65}, isa, max_threads);
    ++index;
  }
  for (const ModelShape& shape : rich_shapes()) {
    test_model(
        {shape, index % 2 == 0 ? "Q8_0" : "BF16", "Q4_1", false, static_cast<uint64_t>(index), kv_types[index % 3]},
        {1, 17, 65, 120}, isa, max_threads);
    ++index;
  }
  const ModelShape shape = plain_shape(1, 32, 2, 1, 32);
  test_model({shape, "Q4_1", "Q8_0", false, 21, "bf16"}, {511, 530}, isa, max_threads);  // two pieces of keys
  ModelShape windowed = shape;
  windowed.layers = {{.window = 40, .rotary = 0}, {.window = 515, .rotary = 0}};
  windowed.sinks = true;
  for (const char* kv_type : {"f16", "bf16", "q8"}) {
    test_model({windowed, "Q4_1", "Q8_0", false, 22, kv_type}, {511, 570}, isa, max_threads);
  }
  test_model({shape, "F16", "BF16", true, 23}, {20, 40}, isa, max_threads);  // the float path
}

// Blocks that went through slots give the bits of those that were computed; the first and last of both among them.
void test_kv_transfer() {
  constexpr int kBlocks = 8;
  constexpr size_t kSlots = 5;
  Random random(42);
  const char* const kv_types[] = {"auto", "f16", "bf16", "q8"};
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    const TinyModel tiny{plain_shape(3, 64, 4, 2, 32), "Q4_1", "Q8_0", false, 41, kv_types[n_threads - 1]};
    const auto model = tiny.build("auto", n_threads, kBlocks, 64, 1);
    Sequence sequence;
    for (int n = 0; n < 50; ++n) sequence.tokens.push_back(random.below(tiny.shape.vocab_size));
    const auto rest_with = [&](std::vector<int32_t> table, int computed) {
      sequence.table = std::move(table);
      sequence.computed = computed;
      BatchBuilder batch;
      const int n_tokens = static_cast<int>(sequence.tokens.size()) - computed;
      batch.add(sequence, n_tokens);
      std::vector<float> logits(static_cast<size_t>(n_tokens * tiny.shape.vocab_size));
      model->logits(batch.view(), logits.data());
      return std::vector<float>(logits.end() - tiny.shape.vocab_size, logits.end());
    };
    const std::vector<float> whole = rest_with({0, 7, 3, 1}, 0);
    std::vector<uint8_t> memory(kSlots * model->kv_block_bytes());
    const int32_t from[] = {0, 7, 3}, slots[] = {4, 0, 2}, to[] = {6, 5, 4};
    model->save_blocks(from, slots, 3, memory.data(), memory.size());
    model->load_blocks(to, slots, 3, memory.data(), memory.size());
    CHECK(same_bits(rest_with({6, 5, 4, 2}, 48), whole));
    const int32_t beyond[] = {kBlocks}, slot_beyond[] = {kSlots}, first[] = {0};
    CHECK(refuses([&] { model->save_blocks(beyond, first, 1, memory.data(), memory.size()); }));
    CHECK(refuses([&] { model->load_blocks(first, slot_beyond, 1, memory.data(), memory.size()); }));
    CHECK(refuses([&] { model->save_blocks(first, slots, 1, memory.data(), memory.size() - 1); }));
    model->save_blocks(nullptr, nullptr, 0, nullptr, 0);
  }
}

}  // namespace stoker
