// Adapters: their kernels against a plain loop, a model with one against the model that it makes, and the promise that
// a sequence's bits depend neither on the other sequences' adapters nor on the order of the rows.
#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>

#include "adapter.h"
#include "support.h"
#include "tests.h"
#include "tiny_models.h"

namespace stoker {

namespace {

struct Pair {
  std::vector<float> down, up;  // [rank][inputs], [outputs][rank], numbers of bf16
};

std::vector<float> random_floats(Random& random, int count, float size) {
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = float_from_bfloat(bfloat_from_float(random.unit() * size));
  return values;
}

Pair random_pair(Random& random, int rank, int inputs, int outputs, float size = 1.0f) {
  return {random_floats(random, rank * inputs, 1.0f / std::sqrt(static_cast<float>(inputs))),
          random_floats(random, outputs * rank, size / std::sqrt(static_cast<float>(rank)))};
}

// Rows in any order, some of a larger matrix, against sums in double; each alone, and columns in pieces, to the bit.
void test_products(const Kernels& kernels, bool float_path, int rank, int inputs, int outputs) {
  Random random(static_cast<uint64_t>(rank * 1000 + inputs + outputs));
  const Pair pair = random_pair(random, rank, inputs, outputs);
  const float scale = 1.75f;
  Adapter adapter(1, float_path);
  adapter.set("q", 0, pair.down.data(), pair.up.data(), rank, inputs, outputs, scale);
  const AdapterMatrix& matrix = adapter.at(0, Target::q);
  CHECK(matrix.rank() == rank && adapter.max_rank() == rank && adapter.at(0, Target::k).rank() == 0);

  constexpr int kRows = 13;
  const int padded = (rank + kLanes - 1) / kLanes * kLanes;
  const int stride = inputs + 16;
  const auto values = random_floats(random, kRows * stride, 1.0f);
  std::vector<int> order(kRows);
  std::iota(order.begin(), order.end(), 0);
  random.shuffle(order);
  order.resize(kRows - 2);  // two rows have no adapter
  const std::vector<int32_t> rows(order.begin(), order.end());
  std::vector<float> low(static_cast<size_t>(kRows * padded), 77.0f);
  kernels.adapt_down(matrix.down, scale, values.data(), stride, rows.data(), static_cast<int>(rows.size()), low.data(),
                     padded);
  std::vector<float> alone(static_cast<size_t>(kRows * padded), 77.0f);
  for (const int32_t& row : rows) {
    kernels.adapt_down(matrix.down, scale, values.data(), stride, &row, 1, alone.data(), padded);
  }
  CHECK(same_bits(low, alone));
  for (int row = 0; row < kRows; ++row) {
    const bool listed = std::find(order.begin(), order.end(), row) != order.end();
    for (int r = 0; r < padded; ++r) {
      double sum = 0.0;
      for (int i = 0; i < inputs && r < rank; ++i) {
        sum += static_cast<double>(pair.down[static_cast<size_t>(r * inputs + i)]) *
               static_cast<double>(values[static_cast<size_t>(row * stride + i)]);
      }
      const double expected = listed ? static_cast<double>(scale) * sum : 77.0;
      CHECK(std::abs(static_cast<double>(low[static_cast<size_t>(row * padded + r)]) - expected) < 1e-5);
    }
  }

  const int n_blocks = outputs / kLanes;
  const auto before = random_floats(random, outputs, 1.0f);
  for (const int row : order) {
    const float* of_row = low.data() + row * padded;
    std::vector<float> whole = before, pieces = before;
    kernels.adapt_up(matrix.up, of_row, 0, n_blocks, whole.data());
    for (int b = 0; b < n_blocks; ++b) {
      kernels.adapt_up(matrix.up, of_row, b, b + 1, pieces.data() + static_cast<ptrdiff_t>(b) * kLanes);
    }
    CHECK(same_bits(whole, pieces));
    for (int n = 0; n < outputs; ++n) {
      double expected = static_cast<double>(before[static_cast<size_t>(n)]);
      for (int r = 0; r < rank; ++r) {
        expected += static_cast<double>(pair.up[static_cast<size_t>(n * rank + r)]) * static_cast<double>(of_row[r]);
      }
      CHECK(std::abs(static_cast<double>(whole[static_cast<size_t>(n)]) - expected) < 1e-5);
    }
  }
}

// Parts are all of what is to be fetched, each piece once, and products that fetch it are the same.
void test_fetching(const Kernels& kernels) {
  const std::vector<uint8_t> wanted(10 * kAheadPiece + 1);
  Ahead ahead;
  clear_ahead(ahead);
  for (size_t part = 0; part < 4; ++part) add_ahead(ahead, wanted.data(), wanted.size(), part, 4);
  CHECK(ahead.n_pieces == 11);
  for (int i = 0; i < ahead.n_pieces; ++i) {
    CHECK(ahead.pieces[static_cast<size_t>(i)] == wanted.data() + static_cast<size_t>(i) * kAheadPiece);
  }
  for (int i = 0; i < kMostPieces; ++i) add_ahead(ahead, wanted.data(), 1);
  CHECK(ahead.n_pieces == kMostPieces);

  Random random(77);
  ThreadPool pool(1);
  const int k = 64, n = 48;
  for (const char* type : {"Q4_1", "Q8_0", "BF16"}) {
    const PackedMatrix matrix = pack(source_type(type), random_matrix(random, type, n, k).bytes.data(), n, k, {}, pool);
    for (const int m : {1, 7, 16, 40}) {
      const auto x = random_floats(random, m * k, 1.0f);
      std::vector<int8_t> codes(x.size());
      std::vector<GroupMeta> meta(x.size() / kGroup);
      kernels.quantize(x.data(), m * k, codes.data(), meta.data());
      std::vector<float> expected(static_cast<size_t>(m * n)), got(expected.size());
      kernels.matmul(matrix, {x.data(), codes.data(), meta.data(), k}, 0, m, 0, matrix.n_blocks(), expected.data(), n);
      clear_ahead(ahead);
      add_ahead(ahead, wanted.data(), 2 * kAheadPiece);
      kernels.matmul(matrix, {x.data(), codes.data(), meta.data(), k, &ahead}, 0, m, 0, matrix.n_blocks(), got.data(),
                     n);
      CHECK(same_bits(got, expected));
      CHECK(ahead.next == (matrix.wants_int8() ? 2 : 0));
    }
  }
}

std::shared_ptr<Adapter> random_adapter(Random& random, const Model& model, const std::vector<std::string>& targets,
                                        int rank, bool float_path) {
  auto adapter = std::make_shared<Adapter>(model.shape().n_layers(), float_path);
  for (const MatrixSlot& slot : model.matrices()) {
    if (std::find(targets.begin(), targets.end(), slot.name) == targets.end()) continue;
    const Pair pair = random_pair(random, rank, slot.columns, slot.rows);
    adapter->set(slot.name, slot.layer, pair.down.data(), pair.up.data(), rank, slot.columns, slot.rows, 0.5f);
  }
  return adapter;
}

// Behind every half, of all kinds; some read the stream if they may.
void add_bottlenecks(Random& random, Adapter& adapter, int width, bool of_stream) {
  int kind = 0;
  for (int layer = 0; layer < adapter.n_layers(); ++layer) {
    for (const char* half : kHalfNames) {
      const int rank = random.between(1, 40);
      const Pair pair = random_pair(random, rank, width, width);
      const std::vector<float> bias = random_floats(random, rank, 1.0f);
      const std::vector<float> up_bias = random_floats(random, width, 1.0f);
      adapter.set_bottleneck(half, layer, pair.down.data(), bias.data(), pair.up.data(), up_bias.data(), rank, width,
                             kind % 2 == 0 ? 1.0f : 0.5f, kBendNames[static_cast<size_t>(kind % kBends)],
                             of_stream && kind % 2 == 0);
      ++kind;
    }
  }
}

std::vector<float> logits_of(Model& model, const std::vector<Sequence>& sequences, const std::vector<int32_t>& slots) {
  BatchBuilder builder;
  for (const Sequence& sequence : sequences) {
    builder.add(sequence, static_cast<int>(sequence.tokens.size()) - sequence.computed);
  }
  Batch batch = builder.view();
  if (!slots.empty()) batch.adapters = slots.data();
  std::vector<float> logits(builder.tokens.size() * static_cast<size_t>(model.shape().vocab_size));
  model.logits(batch, logits.data());
  return logits;
}

std::vector<Sequence> random_sequences(Random& random, const std::vector<int>& lengths, int vocab_size) {
  std::vector<Sequence> sequences(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (int n = 0; n < lengths[i]; ++n) sequences[i].tokens.push_back(random.below(vocab_size));
  }
  return sequences;
}

// One whose down product is nothing adds the same to every row, as an output bias does.
void test_constant_bottleneck(const std::string& isa) {
  ModelShape shape = plain_shape(2, 64, 4, 2, 32);
  shape.attention_output_bias = true;
  const ModelOptions options{isa, 1, 4, 64, 1, true};
  Model base(shape, options), biased(shape, options);
  Random random(52);
  for (const MatrixSlot& slot : base.matrices()) {
    const Stored stored = random_matrix(random, "F32", slot.rows, slot.columns);
    for (Model* model : {&base, &biased}) {
      model->set_matrix(slot.name, slot.layer, "F32", stored.bytes.data(), stored.bytes.size(), false);
    }
  }
  constexpr int kRank = 5;
  const auto adapter = std::make_shared<Adapter>(shape.n_layers(), true);
  std::vector<std::vector<float>> added;
  for (int layer = 0; layer < shape.n_layers(); ++layer) {
    const std::vector<float> down(static_cast<size_t>(kRank * shape.width));
    const std::vector<float> bias = {1.0f, -2.0f, 0.5f, -0.25f, 3.0f};
    const std::vector<float> up = random_floats(random, shape.width * kRank, 0.3f);
    const std::vector<float> up_bias = random_floats(random, shape.width, 0.3f);
    adapter->set_bottleneck("attention", layer, down.data(), bias.data(), up.data(), up_bias.data(), kRank, shape.width,
                            0.5f, "relu", layer == 0);
    std::vector<float> sums;
    for (int n = 0; n < shape.width; ++n) {
      const float* row = up.data() + static_cast<ptrdiff_t>(n) * kRank;
      sums.push_back(0.5f * (row[0] + 0.5f * row[2] + 3.0f * row[4] + up_bias[static_cast<size_t>(n)]));
    }
    added.push_back(sums);
  }
  for (const VectorSlot& slot : base.vectors()) {
    const bool is_bias = std::string(slot.name) == "o_bias";
    std::vector<float> values(static_cast<size_t>(slot.size), is_bias ? 0.0f : 1.0f);
    base.set_vector(slot.name, slot.layer, values.data(), values.size(), false);
    if (is_bias) values = added[static_cast<size_t>(slot.layer)];
    biased.set_vector(slot.name, slot.layer, values.data(), values.size(), false);
  }
  base.finish();
  biased.finish();
  base.set_adapter(0, adapter);
  std::vector<Sequence> sequences = random_sequences(random, {40}, shape.vocab_size);
  deal_blocks(sequences, 4, random);
  const std::vector<float> found = logits_of(base, sequences, {0});
  const std::vector<float> expected = logits_of(biased, sequences, {});
  for (size_t i = 0; i < found.size(); ++i) CHECK(std::abs(found[i] - expected[i]) < 2e-4f);
}

void test_bad_bottlenecks() {
  const std::vector<float> values(64 * 64, 0.5f);
  std::vector<float> bad = values;
  bad[3] = std::nanf("");
  Adapter adapter(2, false);
  const auto set = [&](const char* half, int layer, const float* bias, int rank, int width, float scale,
                       const char* bend) {
    return [&adapter, &values, half, layer, bias, rank, width, scale, bend] {
      const float* some = values.data();
      adapter.set_bottleneck(half, layer, some, bias, some, some, rank, width, scale, bend, false);
    };
  };
  CHECK(refuses(set("middle", 0, values.data(), 4, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 2, values.data(), 4, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 0, bad.data(), 4, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 0, values.data(), 0, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 0, values.data(), 513, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 0, values.data(), 4, 33, 1.0f, "relu")));
  CHECK(refuses(set("attention", 0, values.data(), 4, 64, INFINITY, "relu")));
  CHECK(refuses(set("attention", 0, values.data(), 4, 64, 1.0f, "sine")));
  CHECK(!refuses(set("attention", 0, values.data(), 4, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 0, values.data(), 4, 64, 1.0f, "relu")));
  CHECK(refuses(set("attention", 1, values.data(), 4, 32, 1.0f, "relu")));
  const auto placed = std::make_shared<Adapter>(1, false);
  placed->set_bottleneck("attention", 0, values.data(), values.data(), values.data(), values.data(), 4, 64, 1.0f,
                         "relu", false);
  const auto of_stream = std::make_shared<Adapter>(1, false);
  of_stream->set_bottleneck("attention", 0, values.data(), values.data(), values.data(), values.data(), 4, 64, 1.0f,
                            "relu", true);
  for (const int width : {32, 64}) {
    for (const bool post_norms : {false, true}) {
      ModelShape shape = plain_shape(1, width, 2, 1, 32);
      shape.post_norms = post_norms;
      Model model(shape, ModelOptions{"auto", 1, 4, 16, 1, false});
      CHECK(refuses([&] { model.set_adapter(0, placed); }) == (width != 64));
      CHECK(refuses([&] { model.set_adapter(0, of_stream); }) == (width != 64 || post_norms));
      shape.residual_scale = 0.5f;
      Model scaled(shape, ModelOptions{"auto", 1, 4, 16, 1, false});
      CHECK(refuses([&] { scaled.set_adapter(0, placed); }));
    }
  }
}

// A model with an adapter of all matrices computes what one does whose matrices have the addition in them.
void test_merged_matrices(const std::string& isa) {
  const ModelShape shape = plain_shape(2, 64, 4, 2, 32);
  const ModelOptions options{isa, 1, 4, 64, 1, true};
  Model base(shape, options), merged(shape, options);
  Random random(51);
  const auto adapter = std::make_shared<Adapter>(shape.n_layers(), true);
  for (const MatrixSlot& slot : base.matrices()) {
    Stored stored = random_matrix(random, "F32", slot.rows, slot.columns);
    base.set_matrix(slot.name, slot.layer, "F32", stored.bytes.data(), stored.bytes.size(), false);
    if (slot.layer >= 0) {
      const int rank = random.between(1, 20);
      const float scale = 0.25f + 0.5f * std::abs(random.unit());
      const Pair pair = random_pair(random, rank, slot.columns, slot.rows);
      adapter->set(slot.name, slot.layer, pair.down.data(), pair.up.data(), rank, slot.columns, slot.rows, scale);
      for (int n = 0; n < slot.rows; ++n) {
        for (int i = 0; i < slot.columns; ++i) {
          double sum = 0.0;
          for (int r = 0; r < rank; ++r) {
            sum += static_cast<double>(pair.up[static_cast<size_t>(n * rank + r)]) *
                   static_cast<double>(pair.down[static_cast<size_t>(r * slot.columns + i)]);
          }
          const size_t at = static_cast<size_t>(n * slot.columns + i);
          const auto value =
              static_cast<float>(static_cast<double>(stored.values[at]) + static_cast<double>(scale) * sum);
          std::memcpy(stored.bytes.data() + at * sizeof(float), &value, sizeof(float));
        }
      }
    }
    merged.set_matrix(slot.name, slot.layer, "F32", stored.bytes.data(), stored.bytes.size(), false);
  }
  for (const VectorSlot& slot : base.vectors()) {
    const std::vector<float> ones(static_cast<size_t>(slot.size), 1.0f);
    base.set_vector(slot.name, slot.layer, ones.data(), ones.size(), false);
    merged.set_vector(slot.name, slot.layer, ones.data(), ones.size(), false);
  }
  base.finish();
  merged.finish();
  base.set_adapter(0, adapter);
  std::vector<Sequence> sequences = random_sequences(random, {40}, shape.vocab_size);
  deal_blocks(sequences, 4, random);
  const std::vector<float> found = logits_of(base, sequences, {0});
  const std::vector<float> expected = logits_of(merged, sequences, {});
  const std::vector<float> plain = logits_of(base, sequences, {-1});
  float apart = 0.0f;
  for (size_t i = 0; i < found.size(); ++i) {
    CHECK(std::abs(found[i] - expected[i]) < 2e-4f);
    apart = std::max(apart, std::abs(found[i] - plain[i]));
  }
  CHECK(apart > 0.1f);
}

void test_batches(const TinyModel& tiny, const std::string& isa, int max_threads) {
  const std::vector<int> lengths = {17, 1, 33, 5, 16, 1, 24, 9, 18, 1};
  const std::vector<int32_t> slots = {0, 2, -1, 5, 0, -1, 2, 0, 7, 7};
  constexpr int kBlocks = 20, kStepTokens = 160;
  const int n_seqs = static_cast<int>(lengths.size());
  const auto vocab = static_cast<size_t>(tiny.shape.vocab_size);
  Random random(tiny.seed + 7);
  std::vector<Sequence> sequences = random_sequences(random, lengths, tiny.shape.vocab_size);
  std::vector<std::vector<float>> alone;
  for (int n_threads = 1; n_threads <= max_threads; ++n_threads) {
    const auto model = tiny.build(isa, n_threads, kBlocks, kStepTokens, n_seqs);
    Random weights(tiny.seed + 8);
    const bool dense = !tiny.shape.experts;
    using Names = std::vector<std::string>;
    const Names all = dense ? Names{"q", "k", "v", "o", "gate", "up", "down"} : Names{"q", "k", "v", "o"};
    const Names some = dense ? Names{"v", "down"} : Names{"v"};
    deal_blocks(sequences, kBlocks, random);
    std::vector<std::vector<float>> without;
    for (const Sequence& sequence : sequences) without.push_back(logits_of(*model, {sequence}, {}));
    model->set_adapter(0, random_adapter(weights, *model, all, 16, tiny.float_path));
    model->set_adapter(2, random_adapter(weights, *model, {"q", "o"}, 3, tiny.float_path));
    const auto with_bottlenecks = random_adapter(weights, *model, some, 40, tiny.float_path);
    add_bottlenecks(weights, *with_bottlenecks, tiny.shape.width, !tiny.shape.post_norms);
    model->set_adapter(5, with_bottlenecks);
    const auto bottlenecks = std::make_shared<Adapter>(tiny.shape.n_layers(), tiny.float_path);
    add_bottlenecks(weights, *bottlenecks, tiny.shape.width, !tiny.shape.post_norms);
    model->set_adapter(7, bottlenecks);
    for (size_t i = 0; i < sequences.size(); ++i) {
      const std::vector<float> logits = logits_of(*model, {sequences[i]}, {slots[i]});
      CHECK(same_bits(logits, without[i]) == (slots[i] < 0));
      if (n_threads == 1) alone.push_back(logits);
      CHECK(same_bits(logits, alone[i]));
    }
    for (int turn = 0; turn < 3; ++turn) {
      std::vector<int> order(lengths.size());
      std::iota(order.begin(), order.end(), 0);
      random.shuffle(order);
      std::vector<Sequence> shuffled;
      std::vector<int32_t> their_slots;
      for (const int index : order) {
        shuffled.push_back(sequences[static_cast<size_t>(index)]);
        their_slots.push_back(slots[static_cast<size_t>(index)]);
        // What is behind the cut is computed anew, what is before it was computed with the same adapter.
        const int length = lengths[static_cast<size_t>(index)];
        shuffled.back().computed = turn == 0 ? 0 : random.below(length);
      }
      const std::vector<float> together = logits_of(*model, shuffled, their_slots);
      auto from = together.begin();
      for (size_t i = 0; i < order.size(); ++i) {
        const std::vector<float>& expected = alone[static_cast<size_t>(order[i])];
        const auto skipped = static_cast<ptrdiff_t>(static_cast<size_t>(shuffled[i].computed) * vocab);
        const auto n = static_cast<ptrdiff_t>(expected.size()) - skipped;
        CHECK(same_bits({from, from + n}, {expected.begin() + skipped, expected.end()}));
        from += n;
      }
    }
    model->set_adapter(0, nullptr);
    CHECK(same_bits(logits_of(*model, {sequences[3]}, {5}), alone[3]));
  }
}

}  // namespace

void test_adapter_products(const Kernels& kernels) {
  test_fetching(kernels);
  for (const bool float_path : {false, true}) {
    for (const int rank : {1, 3, 16, 17, 40, 64}) {
      test_products(kernels, float_path, rank, 32, 16);
      test_products(kernels, float_path, rank, 160, 80);
    }
  }
}

void test_adapters(const std::string& isa, int max_threads) {
  test_merged_matrices(isa);
  test_constant_bottleneck(isa);
  test_bad_bottlenecks();
  uint64_t seed = 60;
  for (const char* type : {"Q4_1", "Q8_0", "BF16"}) {
    test_batches({plain_shape(2, 64, 4, 2, 32), type, "Q8_0", false, ++seed}, isa, max_threads);
  }
  test_batches({plain_shape(1, 64, 4, 2, 32), "F32", "F32", true, ++seed}, isa, max_threads);
  ModelShape mixture = plain_shape(2, 64, 4, 2, 32);
  mixture.experts = ExpertsShape{.n_experts = 4, .n_used = 2, .normalized = true, .biases = false};
  test_batches({mixture, "Q4_1", "Q8_0", false, ++seed}, isa, max_threads);
  ModelShape normed = plain_shape(2, 64, 4, 2, 32);
  normed.post_norms = true;
  test_batches({normed, "Q4_1", "Q8_0", false, ++seed}, isa, max_threads);
}

}  // namespace stoker
