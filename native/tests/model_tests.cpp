// The forward pass of tiny models: a sequence's bits do not depend on the batch, the chunking or the threads.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "float_mode.h"
#include "kernels.h"
#include "model.h"
#include "support.h"
#include "tests.h"

namespace stoker {

namespace {

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
  std::vector<uint8_t> samples;
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
void compute(Model& model, std::vector<Sequence>& sequences, Random& random, int max_seqs, int max_tokens) {
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
      scored_rows.push_back(static_cast<int32_t>(i));
      scored_tokens.push_back(random.below(model.shape().vocab_size));
      n_tops.push_back(random.between(0, kMaxLogprobs));
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
      const Sample expected = score(find_kernels(model.isa()), &logits[static_cast<size_t>(scored_rows[i]) * vocab],
                                    model.shape().vocab_size, scored_tokens[i], n_tops[i], scratch);
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

void deal_blocks(std::vector<Sequence>& sequences, int kv_blocks, Random& random) {
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

}  // namespace

namespace {

ModelShape plain_shape(int n_layers, int width, int n_heads, int n_kv_heads, int head_size) {
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

void test_bad_arguments() {
  ModelShape shape = plain_shape(1, 32, 2, 1, 32);
  shape.ffn_width = 32;
  shape.vocab_size = 40;
  shape.context_length = 64;
  const TinyModel tiny{shape, "Q4_0", "Q4_0", false, 31};
  const auto with = [&](const std::function<void(ModelShape&, ModelOptions&)>& change) {
    ModelShape changed = shape;
    ModelOptions options{"auto", 1, 4, 16, 2, false};
    change(changed, options);
    return [=] { const Model model(changed, options); };
  };
  CHECK(!refuses(with([](ModelShape&, ModelOptions&) {})));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.layers.clear(); })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.n_heads = 3, s.n_kv_heads = 2; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.head_size = 48; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.width = 40; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.layers[0].rotary = 1; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.layers[0].window = -1; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.rotaries[0].frequencies.resize(17); })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.score_scale = 0.0f; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.experts = ExpertsShape{.n_experts = 2, .n_used = 3}; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.n_threads = 0; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.kv_blocks = 0; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.isa = "avx1024"; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.kv_type = "q4"; })));

  Model unfinished(shape, {"auto", 2, 4, 16, 2, false});
  const std::vector<uint8_t> bytes(32 * 18);
  const std::vector<float> norm(32, 1.0f);
  CHECK(refuses([&] { unfinished.finish(); }));
  CHECK(refuses([&] { unfinished.packed_matrix("v", 0); }));  // not set
  const std::vector<uint8_t> packed(2 * 320);                 // 32 rows of 32 in u4
  CHECK(!refuses([&] { unfinished.map_matrix("v", 0, "u4", packed.data(), packed.size()); }));
  CHECK(refuses([&] { unfinished.map_matrix("v", 0, "u4", packed.data(), packed.size() - 1); }));
  CHECK(refuses([&] { unfinished.map_matrix("v", 0, "u8", packed.data(), packed.size()); }));
  CHECK(refuses([&] { unfinished.map_matrix("v", 0, "u5", packed.data(), packed.size()); }));
  CHECK(refuses([&] { unfinished.map_matrix("v", 1, "u4", packed.data(), packed.size()); }));
  Model exact(shape, {"auto", 1, 4, 16, 2, true});
  CHECK(refuses([&] { exact.map_matrix("v", 0, "u4", packed.data(), packed.size()); }));
  CHECK(refuses([&] { unfinished.set_matrix("q", 0, "Q4_0", bytes.data(), bytes.size(), true); }));  // q has 64 rows
  CHECK(refuses([&] { unfinished.set_matrix("k", 1, "Q4_0", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_matrix("k", -1, "Q4_0", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_matrix("z", 0, "Q4_0", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_matrix("k", 0, "Q8_K", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_vector("attn_norm", 0, norm.data(), 31, true); }));
  CHECK(refuses([&] { unfinished.set_vector("attn_norm", 1, norm.data(), 32, true); }));
  CHECK(refuses([&] { unfinished.set_vector("norm", 0, norm.data(), 32, true); }));

  const auto model = tiny.build("auto", 2, 4, 16, 2);
  const Sequence good{{1, 2, 3}, {2}, 0, {}};
  const auto logits_of = [&](const std::vector<Sequence>& sequences, const std::function<void(BatchBuilder&)>& change) {
    BatchBuilder batch;
    for (const Sequence& sequence : sequences)
      batch.add(sequence, static_cast<int>(sequence.tokens.size()) - sequence.computed);
    change(batch);
    std::vector<float> logits(batch.tokens.size() * 40);
    model->logits(batch.view(), logits.data());
    return logits;
  };
  const auto nothing = [](BatchBuilder&) {};
  const std::vector<float> before = logits_of({good}, nothing);
  const auto refused = [&](const std::vector<Sequence>& sequences, const std::function<void(BatchBuilder&)>& change) {
    return refuses([&] { logits_of(sequences, change); });
  };
  CHECK(refused({}, nothing));
  CHECK(refused({good, good, good}, nothing));                                        // more than two sequences
  CHECK(refused({{std::vector<int32_t>(17, 1), {0, 1}, 0, {}}}, nothing));            // more than 16 tokens
  CHECK(refused({{std::vector<int32_t>(65, 1), {0, 1, 2, 3, 0}, 60, {}}}, nothing));  // beyond the context
  CHECK(refused({{{1, 40}, {0}, 0, {}}}, nothing));                                   // not in the vocabulary
  CHECK(refused({{{1, -1}, {0}, 0, {}}}, nothing));
  CHECK(refused({{{1}, {4}, 0, {}}}, nothing));  // no such block
  CHECK(refused({{{1}, {-1}, 0, {}}}, nothing));
  CHECK(refused({{std::vector<int32_t>(17, 1), {0}, 12, {}}}, nothing));  // the table is too short
  CHECK(refused({good}, [](BatchBuilder& b) { b.first_positions[0] = -1; }));
  CHECK(refused({good}, [](BatchBuilder& b) { b.first_positions[0] = std::numeric_limits<int32_t>::max(); }));
  CHECK(refused({good, good}, [](BatchBuilder& b) { b.run_starts[1] = 0; }));  // no tokens
  CHECK(same_bits(logits_of({good}, nothing), before));
}

}  // namespace stoker
