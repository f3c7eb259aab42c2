// Tests of the compute library without Python, meant to run under sanitizers: every path with random work, and the
// promise that a sequence's bits do not depend on the batch, the chunking or the threads.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "float_mode.h"
#include "fp16.h"
#include "kernels.h"
#include "model.h"
#include "philox.h"
#include "sampler.h"
#include "thread_pool.h"
#include "weights.h"

#define CHECK(condition)                                                                 \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: CHECK(%s) failed\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                      \
    }                                                                                    \
  } while (false)

namespace stoker {

namespace {

class Random {
 public:
  explicit Random(uint64_t seed) : seed_(seed) {}
  uint32_t bits() { return philox({count_++, 0, 0, 0}, seed_)[0]; }
  int below(int n) { return static_cast<int>(bits() % static_cast<uint32_t>(n)); }
  int between(int low, int high) { return low + below(high - low + 1); }
  float unit() { return static_cast<float>(bits() >> 8) * 0x1p-23f - 1.0f; }  // in [-1, 1)
  void shuffle(std::vector<int>& values) {
    for (size_t i = values.size(); i > 1; --i)
      std::swap(values[i - 1], values[static_cast<size_t>(below(static_cast<int>(i)))]);
  }

 private:
  uint64_t seed_;
  uint32_t count_ = 0;
};

bool refuses(const std::function<void()>& call) {
  try {
    call();
  } catch (const std::invalid_argument&) {
    return true;
  }
  return false;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void append16(std::vector<uint8_t>& out, uint16_t value) {
  out.push_back(static_cast<uint8_t>(value & 255));
  out.push_back(static_cast<uint8_t>(value >> 8));
}

const char* const kTypes[] = {"Q4_0", "Q4_1", "Q8_0", "F16", "BF16", "F32"};

// A random matrix as stored in a file, and its values.
struct Stored {
  std::vector<uint8_t> bytes;
  std::vector<float> values;
};

Stored random_matrix(Random& random, const std::string& type, int n, int k) {
  Stored out;
  const float size = 1.0f / std::sqrt(static_cast<float>(k));
  const bool blocks = type[0] == 'Q';
  for (int i = 0; i < n * k / (blocks ? kGroup : 1); ++i) {
    if (type == "F32") {
      const float value = random.unit() * size;
      uint8_t raw[4];
      std::memcpy(raw, &value, 4);
      out.bytes.insert(out.bytes.end(), raw, raw + 4);
      out.values.push_back(value);
      continue;
    }
    if (!blocks) {
      const float value = random.unit() * size;
      const uint16_t half =
          type == "F16" ? half_from_float(value) : static_cast<uint16_t>(bits_from_float(value) >> 16);
      append16(out.bytes, half);
      out.values.push_back(type == "F16" ? float_from_half(half) : float_from_bfloat(half));
      continue;
    }
    const uint16_t scale = half_from_float(random.unit() * size / (type == "Q8_0" ? 127.0f : 8.0f));
    const uint16_t minimum = half_from_float(random.unit() * size);
    append16(out.bytes, scale);
    if (type == "Q4_1") append16(out.bytes, minimum);
    uint8_t raw[kGroup];
    for (uint8_t& byte : raw) byte = static_cast<uint8_t>(random.bits());
    const int n_raw = type == "Q8_0" ? 32 : 16;
    out.bytes.insert(out.bytes.end(), raw, raw + n_raw);
    const float s = float_from_half(scale);
    for (int j = 0; j < kGroup; ++j) {
      const int nibble = j < 16 ? raw[j % 16] & 15 : raw[j % 16] >> 4;
      if (type == "Q4_0") out.values.push_back(s * static_cast<float>(nibble - 8));
      if (type == "Q4_1") out.values.push_back(s * static_cast<float>(nibble) + float_from_half(minimum));
      if (type == "Q8_0") out.values.push_back(s * static_cast<float>(static_cast<int8_t>(raw[j])));
    }
  }
  return out;
}

void test_thread_pool() {
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    ThreadPool pool(n_threads);
    CHECK(pool.size() == n_threads);
    Random random(static_cast<uint64_t>(n_threads));
    std::vector<int> counts(64);  // not atomic: run() orders each region after the one before
    for (int region = 0; region < 4000; ++region) {
      const int n_chunks = random.below(64);
      std::atomic<int> calls{0};
      pool.run(n_chunks, [&](int chunk, int thread) {
        CHECK(chunk >= 0 && chunk < n_chunks && thread >= 0 && thread < n_threads);
        counts[static_cast<size_t>(chunk)] += 1;
        calls.fetch_add(1);
      });
      CHECK(calls.load() == n_chunks);
      for (int chunk = 0; chunk < n_chunks; ++chunk) CHECK(counts[static_cast<size_t>(chunk)] == 1);
      std::fill(counts.begin(), counts.end(), 0);
      // Long enough for the workers to fall asleep, or just about to.
      if (region % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random.between(30, 150)));
    }
  }
  for (int i = 0; i < 60; ++i) {  // ends while its workers start, spin or sleep
    ThreadPool pool(1 + i % 4);
    std::atomic<int> sum{0};
    if (i % 3 != 0) pool.run(10, [&](int chunk, int) { sum.fetch_add(chunk); });
    CHECK(sum.load() == (i % 3 != 0 ? 45 : 0));
    if (i % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

void test_halves() {
  for (uint32_t half = 0; half < 65536; ++half) {
    const auto bits = static_cast<uint16_t>(half);
    const float value = float_from_half(bits);
    if (std::isnan(value)) {
      CHECK(std::isnan(float_from_half(half_from_float(value))));
    } else {
      CHECK(half_from_float(value) == bits);
    }
  }
  CHECK(half_from_float(65519.0f) == 0x7bff);  // the last that rounds to the largest half
  CHECK(half_from_float(65520.0f) == 0x7c00);
  CHECK(half_from_float(0x1p-25f) == 0);  // a tie, to even
  CHECK(half_from_float(0x1.8p-25f) == 1);
  CHECK(half_from_float(1.0f + 0x1p-11f) == 0x3c00);
  CHECK(half_from_float(1.0f + 3 * 0x1p-11f) == 0x3c02);
}

void test_packing() {
  Random random(5);
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    ThreadPool pool(n_threads);
    for (const std::string type : kTypes) {
      for (const int n : {1, 15, 16, 17, 96}) {
        const int k = 32 * random.between(1, 5);
        const Stored stored = random_matrix(random, type, n, k);
        for (const bool dequantize : {false, true}) {
          const int heads = n == 96 ? 3 : 0;
          const PackedMatrix matrix = pack(source_type(type), stored.bytes.data(), n, k,
                                           {.dequantize = dequantize, .rotary_heads = heads}, pool);
          std::vector<float> row(static_cast<size_t>(k));
          for (int r = 0; r < n; ++r) {
            // Head rows (0, 1), (2, 3), ... become (0, half), (1, half + 1), ...
            const int from = heads == 0 ? r : r / 32 * 32 + (r % 32 < 16 ? 2 * (r % 32) : 2 * (r % 32 - 16) + 1);
            unpack_row(matrix, r, row.data());
            for (int i = 0; i < k; ++i) {
              CHECK(row[static_cast<size_t>(i)] == stored.values[static_cast<size_t>(from * k + i)]);
            }
          }
        }
      }
    }
    const std::vector<uint8_t> zeros(4096);
    CHECK(refuses([&] { source_type("Q4_K"); }));
    CHECK(refuses([&] { source_row_size(SourceType::f32, 33); }));
    CHECK(refuses([&] { source_row_size(SourceType::q4_0, -32); }));
    CHECK(refuses([&] { pack(SourceType::q4_0, zeros.data(), 0, 32, {}, pool); }));
    CHECK(refuses([&] { pack(SourceType::q4_0, zeros.data(), 6, 32, {.rotary_heads = 4}, pool); }));
    for (const uint16_t scale : {0x7c00, 0xfc01, 0x7bff}) {  // infinite, NaN, too large for -128 times
      std::vector<uint8_t> bad(zeros);
      bad[0] = static_cast<uint8_t>(scale & 255);
      bad[1] = static_cast<uint8_t>(scale >> 8);
      CHECK(refuses([&] { pack(SourceType::q8_0, bad.data(), 1, 32, {}, pool); }));
    }
  }
}

// Kernels on values that no healthy model makes: any result will do, undefined behaviour will not.
void test_extreme_values(const Kernels& kernels) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Random random(7);
  const float specials[] = {0.0f,   -0.0f,  1e38f,    -1e38f,    3.4e38f, -3.4e38f,
                            1e-38f, 1e-44f, infinity, -infinity, nan,     1.0f};
  for (int round = 0; round < 300; ++round) {
    std::vector<float> x(64), y(64), out(64);
    const int n_specials = round % 3 == 0 ? 1 : 12;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = round % 3 == 2 ? random.unit() : specials[(random.below(n_specials) + round) % 12];
      y[i] = specials[random.below(12)];
    }
    if (round % 3 == 2) x[static_cast<size_t>(random.below(64))] = specials[round % 12];
    std::vector<int8_t> codes(64);
    std::vector<GroupMeta> meta(2);
    kernels.quantize(x.data(), 64, codes.data(), meta.data());
    kernels.rms_norm(x.data(), y.data(), 64, 1e-5f, out.data());
    kernels.swiglu(x.data(), y.data(), 64, out.data());
    kernels.rotate(out.data(), x.data(), y.data(), 32, 1.0f);
    kernels.divide(x.data(), y[0], 64, out.data());
    std::vector<uint8_t> block(2 * 16 * 64 * 4);
    for (const KvType type : {KvType::f16, KvType::f32}) {
      kernels.store_key(x.data(), 64, round % 16, type, block.data());
      kernels.store_value(x.data(), 64, round % 16, type, block.data());
    }
    SampleScratch scratch(64);
    const SampleParams params{round % 4 == 0 ? 1e-42f : 1.0f, round % 5, 0.9f, 0.05f, 3, 0,
                              static_cast<uint32_t>(round),   5};
    const Sample chosen = sample(kernels, x.data(), 64, params, scratch);
    CHECK(chosen.token >= 0 && chosen.token < 64);
    for (int i = 0; i < 5; ++i) CHECK(chosen.top_tokens[i] >= 0 && chosen.top_tokens[i] < 64);
  }
}

void test_sampler(const Kernels& kernels) {
  Random random(11);
  for (int round = 0; round < 400; ++round) {
    const int vocab = random.between(1, round % 10 == 0 ? 5000 : 80);
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (float& x : logits) x = round % 7 == 0 ? 0.5f : random.unit() * 8.0f;
    for (size_t i = 1; i < logits.size(); i += 3) logits[i] = -std::numeric_limits<float>::infinity();
    SampleScratch scratch(vocab);
    const SampleParams params{static_cast<float>(round % 5) * 0.5f,
                              random.below(4) * random.below(vocab + 2),
                              static_cast<float>(random.below(11)) * 0.1f,
                              static_cast<float>(random.below(6)) * 0.2f,
                              random.bits(),
                              static_cast<uint32_t>(round % 3),
                              random.bits(),
                              round % 22 - 1};
    const Sample a = sample(kernels, logits.data(), vocab, params, scratch);
    const Sample b = sample(kernels, logits.data(), vocab, params, scratch);
    CHECK(a.token >= 0 && a.token < vocab && std::isfinite(logits[static_cast<size_t>(a.token)]));
    CHECK(a.token == b.token && a.logprob == b.logprob);
  }
}

struct TinyModel {
  ModelShape shape;
  std::string type;
  std::string embedding_type;
  bool tied;
  bool float_path;
  uint64_t seed;

  // The same weights whatever the options.
  std::unique_ptr<Model> build(const std::string& isa, int n_threads, int kv_blocks, int step_tokens,
                               int step_seqs) const {
    auto model =
        std::make_unique<Model>(shape, ModelOptions{isa, n_threads, kv_blocks, step_tokens, step_seqs, float_path});
    Random random(seed);
    const auto matrix = [&](const char* name, int layer, const std::string& stored_as, int n, int k) {
      const Stored stored = random_matrix(random, stored_as, n, k);
      model->set_matrix(name, layer, stored_as, stored.bytes.data(), stored.bytes.size(), true);
    };
    const auto norm = [&](const char* name, int layer) {
      std::vector<float> values(static_cast<size_t>(shape.width));
      for (float& value : values) value = 1.0f + 0.1f * random.unit();
      model->set_norm(name, layer, values.data(), values.size());
    };
    const int q_width = shape.n_heads * shape.head_size;
    const int kv_width = shape.n_kv_heads * shape.head_size;
    matrix("embedding", 0, embedding_type, shape.vocab_size, shape.width);
    if (!tied) matrix("output", 0, embedding_type, shape.vocab_size, shape.width);
    norm("output_norm", 0);
    for (int layer = 0; layer < shape.n_layers; ++layer) {
      norm("attn_norm", layer);
      norm("ffn_norm", layer);
      matrix("q", layer, type, q_width, shape.width);
      matrix("k", layer, type, kv_width, shape.width);
      matrix("v", layer, type, kv_width, shape.width);
      matrix("o", layer, type, shape.width, q_width);
      matrix("gate", layer, type, shape.ffn_width, shape.width);
      matrix("up", layer, type, shape.ffn_width, shape.width);
      matrix("down", layer, type, shape.width, shape.ffn_width);
    }
    model->finish();
    return model;
  }
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
    params.push_back({0.8f, 40, 0.95f, 0.01f, 17, 0, static_cast<uint32_t>(sequence.computed + n_tokens), 5});
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
    model.forward(batch.view(), samples.data());
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

void test_model(const TinyModel& tiny, const std::vector<int>& lengths, const std::string& isa) {
  constexpr int kStepTokens = 128;
  const int longest = *std::max_element(lengths.begin(), lengths.end());
  const int kv_blocks =
      std::accumulate(lengths.begin(), lengths.end(), 0) / kBlockTokens + static_cast<int>(lengths.size()) + 3;
  Random random(tiny.seed + 1);
  std::vector<Sequence> sequences(lengths.size());
  for (size_t i = 0; i < lengths.size(); ++i) {
    for (int n = 0; n < lengths[i]; ++n) sequences[i].tokens.push_back(random.below(tiny.shape.vocab_size));
  }
  // Each alone, whole where it fits one step, on one thread.
  std::vector<std::vector<float>> alone;
  {
    const auto model = tiny.build(isa, 1, (longest + 15) / kBlockTokens, std::max(longest, 1), 1);
    for (Sequence& sequence : sequences) {
      std::vector<Sequence> one{sequence};
      deal_blocks(one, (longest + 15) / kBlockTokens, random);
      BatchBuilder batch;
      batch.add(one[0], static_cast<int>(sequence.tokens.size()));
      std::vector<float> logits(sequence.tokens.size() * static_cast<size_t>(tiny.shape.vocab_size));
      model->logits(batch.view(), logits.data());
      alone.push_back(logits);
      for (const float x : logits) CHECK(std::isfinite(x));
    }
  }
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    const auto model = tiny.build(isa, n_threads, kv_blocks, kStepTokens, static_cast<int>(lengths.size()));
    deal_blocks(sequences, kv_blocks, random);
    compute(*model, sequences, random, static_cast<int>(lengths.size()), kStepTokens);
    for (size_t i = 0; i < sequences.size(); ++i) CHECK(same_bits(sequences[i].logits, alone[i]));
  }
}

void test_models(const std::string& isa) {
  int index = 0;
  for (const std::string type : kTypes) {
    const int group = 1 + index % 3;
    const ModelShape shape{.n_layers = 2,
                           .width = 64,
                           .n_heads = 2 * group,
                           .n_kv_heads = 2,
                           .head_size = 32 * (1 + index % 2),
                           .ffn_width = 96,
                           .vocab_size = 75,
                           .context_length = 640,
                           .rope_base = 1e4f,
                           .norm_epsilon = 1e-5f};
    const TinyModel tiny{shape, type, kTypes[(index + 2) % 6], index % 2 == 0, false, static_cast<uint64_t>(index)};
    test_model(tiny, {1, 15, 16, 17, 33, 64, 65}, isa);
    ++index;
  }
  const ModelShape shape{1, 32, 2, 1, 32, 32, 40, 640, 1e4f, 1e-5f};
  test_model({shape, "Q4_1", "Q8_0", true, false, 21}, {511, 530}, isa);  // two pieces of keys
  test_model({shape, "F16", "BF16", false, true, 22}, {20, 40}, isa);     // the float path
}

void test_bad_arguments() {
  const ModelShape shape{1, 32, 2, 1, 32, 32, 40, 64, 1e4f, 1e-5f};
  const TinyModel tiny{shape, "Q4_0", "Q4_0", true, false, 31};
  const auto with = [&](const std::function<void(ModelShape&, ModelOptions&)>& change) {
    ModelShape changed = shape;
    ModelOptions options{"auto", 1, 4, 16, 2, false};
    change(changed, options);
    return [=] { const Model model(changed, options); };
  };
  CHECK(!refuses(with([](ModelShape&, ModelOptions&) {})));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.n_layers = 0; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.n_heads = 3, s.n_kv_heads = 2; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.head_size = 48; })));
  CHECK(refuses(with([](ModelShape& s, ModelOptions&) { s.width = 40; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.n_threads = 0; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.kv_blocks = 0; })));
  CHECK(refuses(with([](ModelShape&, ModelOptions& o) { o.isa = "avx1024"; })));

  Model unfinished(shape, {"auto", 2, 4, 16, 2, false});
  const std::vector<uint8_t> bytes(32 * 18);
  const std::vector<float> norm(32, 1.0f);
  CHECK(refuses([&] { unfinished.finish(); }));
  CHECK(refuses([&] { unfinished.set_matrix("q", 0, "Q4_0", bytes.data(), bytes.size(), true); }));  // q has 64 rows
  CHECK(refuses([&] { unfinished.set_matrix("k", 1, "Q4_0", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_matrix("k", -1, "Q4_0", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_matrix("z", 0, "Q4_0", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_matrix("k", 0, "Q6_K", bytes.data(), bytes.size(), true); }));
  CHECK(refuses([&] { unfinished.set_norm("attn_norm", 0, norm.data(), 31); }));
  CHECK(refuses([&] { unfinished.set_norm("attn_norm", 1, norm.data(), 32); }));
  CHECK(refuses([&] { unfinished.set_norm("norm", 0, norm.data(), 32); }));

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

void run(const char* name, const std::function<void()>& test) {
  const auto start = std::chrono::steady_clock::now();
  test();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::printf("%-28s ok, %.1f s\n", name, taken.count());
  std::fflush(stdout);
}

}  // namespace

}  // namespace stoker

int main() {
  using namespace stoker;
  run("thread pool", test_thread_pool);
  run("halves", test_halves);
  run("packing", test_packing);
  run("bad arguments", test_bad_arguments);
  for (const Kernels* kernels : available_kernels()) {
    const std::string isa = kernels->name;
    run(("extreme values " + isa).c_str(), [&] { test_extreme_values(*kernels); });
    run(("sampler " + isa).c_str(), [&] { test_sampler(*kernels); });
    run(("models " + isa).c_str(), [&] { test_models(isa); });
  }
  return 0;
}
