// Several tokens of a sequence in one call, by several steps or by drafts, against as many calls.
#include <string>
#include <vector>

#include "decode.h"
#include "support.h"
#include "tests.h"

namespace stoker {

namespace {

constexpr int kSeqs = 3;
constexpr int kSteps = 4;

std::unique_ptr<Model> build_model() {
  ModelShape shape;
  shape.layers = {{.window = 0, .rotary = -1}, {.window = 20, .rotary = -1}};
  shape.width = shape.ffn_width = 64;
  shape.n_heads = 2;
  shape.n_kv_heads = 1;
  shape.head_size = 32;
  shape.vocab_size = 50;
  shape.context_length = 40;
  shape.norm_epsilon = 1e-5f;
  shape.tied_embeddings = true;
  shape.score_scale = 0.2f;
  auto model = std::make_unique<Model>(shape, ModelOptions{"auto", 2, 3 * kSeqs, 60, kSeqs, false});
  Random random(5);
  for (const MatrixSlot& slot : model->matrices()) {
    const Stored stored = random_matrix(random, "Q4_1", slot.rows, slot.columns);
    model->set_matrix(slot.name, slot.layer, "Q4_1", stored.bytes.data(), stored.bytes.size(), false);
  }
  for (const VectorSlot& slot : model->vectors()) {
    const std::vector<float> ones(static_cast<size_t>(slot.size), 1.0f);
    model->set_vector(slot.name, slot.layer, ones.data(), ones.size(), false);
  }
  model->finish();
  return model;
}

// Sequences after a prompt of 15 tokens, so that the second step begins a block; the last one with edits.
struct Decoding {
  std::vector<int32_t> tokens = {7, 8, 9}, run_starts = {0, 1, 2, 3}, positions = {15, 15, 15};
  std::vector<int32_t> tables = {0, 1, 2, 3, 4, 5, 6, 7, 8}, table_starts = {0, 3, 6, 9};
  std::vector<int32_t> samples = {1, 1, 1};
  std::vector<int32_t> history = {1, 2, 3, 9};
  LogitEdits edits{history.data(), 4, 2, 1.0f, 0.5f, 1.5f, nullptr, nullptr, 0, nullptr, 0};
  std::vector<SampleParams> params = {{0.0f, 0, 1.0f, 0.0f, 1, 0, 16, 3, nullptr},
                                      {0.9f, 0, 0.9f, 0.0f, 2, 0, 16, -1, nullptr},
                                      {0.9f, 20, 1.0f, 0.0f, 3, 1, 16, 0, &edits}};

  Batch view() const {
    return {kSeqs,         tokens.data(),       run_starts.data(), positions.data(),
            tables.data(), table_starts.data(), samples.data(),    params.data()};
  }
  // Puts drafts behind every run.
  void draft(const std::vector<int32_t> (&drafts)[kSeqs]) {
    std::vector<int32_t> drafted;
    for (size_t s = 0; s < kSeqs; ++s) {
      const auto n = static_cast<int32_t>(drafts[s].size());
      drafted.push_back(tokens[s]);
      drafted.insert(drafted.end(), drafts[s].begin(), drafts[s].end());
      run_starts[s + 1] = static_cast<int32_t>(drafted.size());
      samples[s] = n + 1;
      params[s].position += static_cast<uint32_t>(n);
    }
    tokens = drafted;
  }
  void advance(const Sample* latest) {
    for (size_t s = 0; s < kSeqs; ++s) {
      tokens[s] = latest[s].token;
      ++positions[s];
      ++params[s].position;
    }
    history.push_back(latest[2].token);
    edits.history = history.data();
    ++edits.n_history;
  }
};

bool same(const Sample& a, const Sample& b) { return a.token == b.token && a.logprob == b.logprob; }

// Forwards with drafts of which `n_right` tokens of each sequence are those expected, then comes a wrong one.
void test_drafts(Model& model, const std::vector<Sample>& expected) {
  for (int n_right = 0; n_right < kSteps; ++n_right) {
    std::vector<int32_t> drafts[kSeqs];
    for (size_t s = 1; s < kSeqs; ++s) {  // the first sequence has none
      for (int i = 0; i < kSteps - 1; ++i) {
        const int32_t token = expected[static_cast<size_t>(i) * kSeqs + s].token;
        drafts[s].push_back(i == n_right ? (token + 1) % 50 : token);
      }
    }
    Decoding drafted;
    drafted.draft(drafts);
    std::vector<Sample> samples(1 + (kSeqs - 1) * kSteps);
    model.forward(drafted.view(), samples.data());
    CHECK(same(samples[0], expected[0]));
    for (size_t s = 1; s < kSeqs; ++s) {
      for (int i = 0; i < kSteps; ++i) {
        const auto step = static_cast<size_t>(i);
        const Sample& sample = samples[1 + (s - 1) * kSteps + step];
        CHECK(i <= n_right ? same(sample, expected[step * kSeqs + s]) : sample.token == -1);
      }
    }
  }
  Decoding refused;
  refused.samples[1] = 2;  // of a run of one token
  std::vector<Sample> samples(kSeqs + 1);
  CHECK(refuses([&] { model.forward(refused.view(), samples.data()); }));
  refused.samples[1] = -1;
  CHECK(refuses([&] { model.forward(refused.view(), samples.data()); }));
}

// A decode whose first step computes runs of two tokens, those expected.
void test_runs(Model& model, const std::vector<Sample>& expected) {
  Decoding runs;
  std::vector<int32_t> tokens, run_starts{0};
  for (size_t s = 0; s < kSeqs; ++s) {
    tokens.push_back(runs.tokens[s]);
    tokens.push_back(expected[s].token);
    run_starts.push_back(static_cast<int32_t>(tokens.size()));
    ++runs.params[s].position;
  }
  runs.tokens = tokens;
  runs.run_starts = run_starts;
  runs.history.push_back(expected[2].token);
  runs.edits.history = runs.history.data();
  ++runs.edits.n_history;
  const std::vector<int32_t> no_stops(1), no_starts(kSeqs + 1);
  const DecodeLimits limits{kSteps - 1, no_stops.data(), no_starts.data(), nullptr};
  const auto samples = decode(model, runs.view(), limits);
  CHECK(samples.size() == expected.size() - kSeqs);
  for (size_t i = 0; i < samples.size(); ++i) CHECK(same(samples[i], expected[i + kSeqs]));
  runs.run_starts[1] = 0;
  CHECK(refuses([&] { decode(model, runs.view(), limits); }));
}

// Steps without a layer are other steps, and leave nothing that a whole one does not compute anew.
void test_skipped(Model& model, const std::vector<Sample>& expected) {
  Decoding skipping;
  Batch batch = skipping.view();
  const std::vector<uint8_t> skipped = {0, 1};
  batch.skipped = skipped.data();
  const std::vector<int32_t> no_stops(1), no_starts(kSeqs + 1);
  const auto guesses = decode(model, batch, {kSteps, no_stops.data(), no_starts.data(), nullptr});
  bool differs = false;
  for (size_t s = 0; s < kSeqs; ++s) differs = differs || !same(guesses[s], expected[s]);
  CHECK(differs);
  const Decoding whole;
  const auto again = decode(model, whole.view(), {kSteps, no_stops.data(), no_starts.data(), nullptr});
  for (size_t i = 0; i < again.size(); ++i) CHECK(same(again[i], expected[i]));
}

}  // namespace

void test_decode() {
  const auto model = build_model();
  Decoding stepwise;
  std::vector<Sample> expected(kSeqs * kSteps);
  for (size_t step = 0; step < kSteps; ++step) {
    model->forward(stepwise.view(), &expected[step * kSeqs]);
    stepwise.advance(&expected[step * kSeqs]);
  }
  test_drafts(*model, expected);
  test_runs(*model, expected);
  test_skipped(*model, expected);
  const std::vector<int32_t> no_stops(1), no_starts(kSeqs + 1);
  uint8_t flag = 0;
  const Decoding start;
  const auto whole = decode(*model, start.view(), {kSteps, no_stops.data(), no_starts.data(), &flag});
  CHECK(whole.size() == expected.size());
  for (size_t i = 0; i < whole.size(); ++i) CHECK(same(whole[i], expected[i]));

  const std::vector<int32_t> stops = {expected[kSeqs + 1].token}, starts = {0, 0, 1, 1};
  const size_t n_ended = expected[1].token == stops[0] ? 1 : 2;
  const auto ended = decode(*model, start.view(), {kSteps, stops.data(), starts.data(), nullptr});
  CHECK(ended.size() == n_ended * kSeqs && same(ended.back(), expected[n_ended * kSeqs - 1]));

  flag = 1;
  CHECK(decode(*model, start.view(), {kSteps, no_stops.data(), no_starts.data(), &flag}).size() == kSeqs);
  CHECK(refuses([&] { decode(*model, start.view(), {0, no_stops.data(), no_starts.data(), &flag}); }));
  CHECK(refuses([&] { decode(*model, start.view(), {26, no_stops.data(), no_starts.data(), &flag}); }));
}

}  // namespace stoker
