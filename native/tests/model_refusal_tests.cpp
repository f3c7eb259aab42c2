// What a model refuses, and that it is as good as before afterwards.
#include <limits>

#include "support.h"
#include "tests.h"
#include "tiny_models.h"

namespace stoker {

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
