// Reserves the buffers of the largest step. stoker.engine.native.sizing.scratch_bytes counts them before there is a
// model.
#include "model_scratch.h"

#include <algorithm>

namespace stoker {

namespace {

size_t padded(int n) { return (static_cast<size_t>(n) + kLanes - 1) / kLanes * kLanes; }

ExpertScratch make_expert_scratch(const ModelShape& s, size_t rows) {
  ExpertScratch scratch;
  if (!s.experts) return scratch;
  const auto used = static_cast<size_t>(s.experts->n_used);
  const auto width = static_cast<size_t>(s.width);
  scratch.scores = FloatRows(rows, padded(s.experts->n_experts));
  scratch.shares = FloatRows(rows, used);
  scratch.chosen.resize(rows * used);
  scratch.places.resize(rows * used);
  scratch.sources.resize(rows * used);
  scratch.starts.resize(static_cast<size_t>(s.experts->n_experts) + 1);
  scratch.gathered = ActivationForms(rows * used, width);
  scratch.outputs = FloatRows(rows * used, width);
  return scratch;
}

ThreadScratch make_thread_scratch(const ModelShape& s) {
  const auto head = static_cast<size_t>(s.head_size);
  const size_t tile_columns = std::max<size_t>(head, 2 * kGroup);
  return {.tile = Memory(kRowBlock * tile_columns * sizeof(float)),
          .halves = Memory(2 * kRowBlock * kLanes * sizeof(float)),
          .attention = Memory(attend_scratch_floats(s.group(), s.head_size) * sizeof(float)),
          .partials = Memory(2 * partial_floats(kAttentionRows, s) * sizeof(float)),
          .ahead = {},
          .sampling = SampleScratch(s.vocab_size),
          .expert_sums = std::vector<double>(s.experts ? padded(s.experts->n_experts) / kSumChunk + 1 : 0)};
}

}  // namespace

std::unique_ptr<Scratch> make_scratch(const ModelShape& s, const ModelOptions& o) {
  auto scratch = std::make_unique<Scratch>();
  const auto rows = static_cast<size_t>(o.max_step_tokens);
  const auto width = static_cast<size_t>(s.width);
  const auto query_width = static_cast<size_t>(s.query_width());
  const size_t inner_rows = s.experts ? rows * static_cast<size_t>(s.experts->n_used) : rows;
  scratch->residual = FloatRows(rows, width);
  if (s.post_norms || s.experts) scratch->branch = FloatRows(rows, width);
  scratch->queries = FloatRows(rows, query_width);
  if (s.qk_norm == QkNorm::row) scratch->keys = FloatRows(rows, static_cast<size_t>(s.kv_width()));
  for (const RotaryShape& rotary : s.rotaries) {
    const size_t n_pairs = rotary.frequencies.size();
    scratch->angles.push_back({FloatRows(rows, 2 * n_pairs), n_pairs});
  }
  scratch->normed = ActivationForms(rows, width);
  scratch->attended = ActivationForms(rows, query_width);
  scratch->inner = ActivationForms(inner_rows, static_cast<size_t>(s.ffn_width));
  scratch->ones.assign(padded(kMaxAdapterRank + 1), 1.0f);
  scratch->experts = make_expert_scratch(s, rows);
  if (s.sinks) scratch->no_value.resize(static_cast<size_t>(s.head_size));
  scratch->logits = Memory(static_cast<size_t>(o.max_step_seqs) * padded(s.vocab_size) * sizeof(float));
  const size_t whole_partials = kPartialsPerThread * partial_floats(kAttentionRows, s) * sizeof(float);
  scratch->partials = Memory(static_cast<size_t>(o.n_threads) * std::max(kLeastPartialBytes, whole_partials));
  for (int thread = 0; thread < o.n_threads; ++thread) scratch->threads.push_back(make_thread_scratch(s));
  return scratch;
}

size_t Model::step_bytes() const {
  const Scratch& s = *scratch_;
  size_t total = s.logits.size() + s.partials.size() + s.experts.gathered.size();
  for (const FloatRows* rows : {&s.low, &s.added, &s.residual, &s.branch, &s.queries, &s.keys, &s.experts.scores,
                                &s.experts.shares, &s.experts.outputs}) {
    total += rows->memory.size();
  }
  for (const Angles& angles : s.angles) total += angles.rows.memory.size();
  for (const ActivationForms* forms : {&s.normed, &s.attended, &s.inner}) total += forms->size();
  return total;
}

}  // namespace stoker
