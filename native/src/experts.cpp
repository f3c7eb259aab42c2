// The feed-forward half of a layer whose network is a mixture of experts.
//
//   router scores of every row -> each row's best experts and their shares -> rows put in order of experts
//   -> gate and up products with their activation -> down product -> each row's weighted sum
//
// In order of experts, all rows that go through an expert are one product, so that its matrices are read once a step.
// A row's choice depends on its own scores, its products on its own values, and its sum runs in the order of its own
// ranking: nothing tells it which rows it shares an expert with.
#include <algorithm>
#include <cfloat>
#include <cstring>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

// Not a number is the lowest of scores, so that they can be ordered.
float finite(float score) { return score > -FLT_MAX ? std::min(score, FLT_MAX) : -FLT_MAX; }

// The highest score below the last one chosen, in the order of (score, then lowest index).
int next_best(const float* scores, int n, int last) {
  int best = -1;
  for (int i = 0; i < n; ++i) {
    const bool later = last < 0 || scores[i] < scores[last] || (scores[i] == scores[last] && i > last);
    if (later && (best < 0 || scores[i] > scores[best])) best = i;
  }
  return best;
}

// Cuts the column units of every block of rows into chunks.
struct ExpertChunks {
  ExpertChunks(const std::vector<ExpertBlock>& blocks, int n_units, int n_threads)
      : blocks(blocks),
        units_per_chunk(static_cast<int>(std::max<int64_t>(
            1, static_cast<int64_t>(blocks.size()) * n_units / (int64_t{n_threads} * kChunksPerThread)))),
        column_chunks((n_units + units_per_chunk - 1) / units_per_chunk),
        n_units(n_units) {}
  int count() const { return static_cast<int>(blocks.size()) * column_chunks; }
  const ExpertBlock& block(int chunk) const { return blocks[static_cast<size_t>(chunk / column_chunks)]; }
  int unit_begin(int chunk) const { return chunk % column_chunks * units_per_chunk; }
  int unit_end(int chunk) const { return std::min(n_units, unit_begin(chunk) + units_per_chunk); }

  const std::vector<ExpertBlock>& blocks;
  int units_per_chunk, column_chunks, n_units;
};

}  // namespace

// The experts of one row, best first, and their shares.
void Model::choose_experts(const Layer& layer, int row, int thread) {
  ExpertScratch& experts = scratch_->experts;
  const int n_experts = shape_.experts->n_experts;
  const int n_used = shape_.experts->n_used;
  float* scores = experts.scores.row(row);
  float* shares = experts.shares.row(row);
  int* chosen = &experts.chosen[static_cast<size_t>(row) * static_cast<size_t>(n_used)];
  std::vector<double>& sums = scratch_->threads[static_cast<size_t>(thread)].expert_sums;
  for (int i = 0; i < n_experts; ++i) {
    scores[i] = finite(layer.router_bias.empty() ? scores[i] : scores[i] + layer.router_bias[static_cast<size_t>(i)]);
  }
  for (int rank = 0; rank < n_used; ++rank) {
    chosen[rank] = next_best(scores, n_experts, rank == 0 ? -1 : chosen[rank - 1]);
    shares[rank] = scores[chosen[rank]];
  }
  const float highest = shares[0];
  kernels_->exp_terms(shares, n_used, highest, 1.0f, shares, sums.data());
  double total = 0.0;
  if (shape_.experts->normalized) {
    for (int rank = 0; rank < n_used; ++rank) total += static_cast<double>(shares[rank]);
  } else {
    kernels_->exp_terms(scores, n_experts, highest, 1.0f, scores, sums.data());
    for (int chunk = 0; chunk * kSumChunk < n_experts; ++chunk) total += sums[static_cast<size_t>(chunk)];
  }
  for (int rank = 0; rank < n_used; ++rank) {
    shares[rank] = static_cast<float>(static_cast<double>(shares[rank]) / total);
  }
}

void Model::route(const Layer& layer) {
  ExpertScratch& experts = scratch_->experts;
  const auto stride = static_cast<ptrdiff_t>(experts.scores.k);
  const Chunks chunks(scratch_->n_rows, layer.router.n_blocks(), pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int) {
    const int begin = chunks.unit_begin(chunk);
    kernels_->matmul(layer.router, scratch_->normed.once.view(), chunks.row_begin(chunk), chunks.row_end(chunk), begin,
                     chunks.unit_end(chunk), experts.scores.row(chunks.row_begin(chunk)) + ptrdiff_t{begin} * kLanes,
                     stride);
  });
  for_rows(pool_, scratch_->n_rows, [&](int row, int thread) { choose_experts(layer, row, thread); });
}

// Gives every choice of every row its place in the order of (expert, row), and copies the rows there.
void Model::group_by_expert(const Layer& layer) {
  ExpertScratch& experts = scratch_->experts;
  const int n_experts = shape_.experts->n_experts;
  const int n_used = shape_.experts->n_used;
  const int n_places = scratch_->n_rows * n_used;
  std::fill(experts.starts.begin(), experts.starts.end(), 0);
  for (int i = 0; i < n_places; ++i) experts.starts[static_cast<size_t>(experts.chosen[static_cast<size_t>(i)]) + 1]++;
  experts.blocks.clear();
  for (int expert = 0; expert < n_experts; ++expert) {
    const int begin = experts.starts[static_cast<size_t>(expert)];
    const int end = experts.starts[static_cast<size_t>(expert) + 1] += begin;
    for (int at = begin; at < end; at += kRowBlock) {
      experts.blocks.push_back({expert, at, std::min(end, at + kRowBlock)});
    }
  }
  for (int i = 0; i < n_places; ++i) {
    const int place = experts.starts[static_cast<size_t>(experts.chosen[static_cast<size_t>(i)])]++;
    experts.places[static_cast<size_t>(i)] = place;
    experts.sources[static_cast<size_t>(place)] = i / n_used;
  }
  const ActivationForms& from = scratch_->normed;
  const ActivationForms& to = experts.gathered;
  const bool codes = layer.gate.wants_int8() || layer.up.wants_int8();
  const bool twice = layer.gate.wants_int16() || layer.up.wants_int16();
  const bool values = !layer.gate.quantized() || !layer.up.quantized();
  const auto width = static_cast<size_t>(shape_.width);
  for_rows(pool_, n_places, [&](int place, int) {
    const int row = experts.sources[static_cast<size_t>(place)];
    const auto copy_codes = [&](const ActivationBuffer& into, int at, const ActivationBuffer& out_of, int of) {
      std::memcpy(into.row_codes(at), out_of.row_codes(of), width);
      std::memcpy(into.row_meta(at), out_of.row_meta(of),
                  static_cast<size_t>(shape_.width / kGroup) * sizeof(GroupMeta));
    };
    if (values) std::memcpy(to.once.row_values(place), from.once.row_values(row), width * sizeof(float));
    if (codes) copy_codes(to.once, place, from.once, row);
    for (int half = 0; half < 2 && twice; ++half) copy_codes(to.twice, 2 * place + half, from.twice, 2 * row + half);
  });
}

void Model::feed_experts(const Layer& layer) {
  const PhaseTimer timer(phases_, Phase::feed_forward);
  Scratch& scratch = *scratch_;
  ExpertScratch& experts = scratch.experts;
  route(layer);
  group_by_expert(layer);
  const int width = shape_.width;
  const ExpertChunks inner(experts.blocks, shape_.ffn_width / kGroup, pool_.size());
  pool_.run(inner.count(), [&](int chunk, int thread) {
    const ExpertBlock& block = inner.block(chunk);
    for (int unit = inner.unit_begin(chunk); unit < inner.unit_end(chunk); ++unit) {
      inner_group(layer, experts.gathered, block.begin, block.end, block.expert, unit, thread);
    }
  });
  const ExpertChunks outer(experts.blocks, width / kGroup, pool_.size());
  pool_.run(outer.count(), [&](int chunk, int thread) {
    const ExpertBlock& block = outer.block(chunk);
    const ptrdiff_t first = ptrdiff_t{block.expert} * width;
    const int begin = outer.unit_begin(chunk) * kGroup;
    const int n = outer.unit_end(chunk) * kGroup - begin;
    const auto column = static_cast<int>((first + begin) / kLanes);
    product(layer.down, scratch.inner, block.begin, block.end, column, column + n / kLanes, thread,
            experts.outputs.row(block.begin) + begin, width);
    for (int place = block.begin; place < block.end && !layer.down_bias.empty(); ++place) {
      kernels_->add(experts.outputs.row(place) + begin, layer.down_bias.data() + first + begin, n);
    }
  });
  const int n_used = shape_.experts->n_used;
  for_rows(pool_, scratch.n_rows, [&](int row, int) {
    float* sum = scratch.branch.row(row);
    std::memset(sum, 0, static_cast<size_t>(width) * sizeof(float));
    for (int rank = 0; rank < n_used; ++rank) {
      float* output = experts.outputs.row(
          experts.places[static_cast<size_t>(row) * static_cast<size_t>(n_used) + static_cast<size_t>(rank)]);
      kernels_->scale(output, experts.shares.row(row)[rank], width);
      kernels_->add(sum, output, width);
    }
  });
  add_branch(layer.post_ffn_norm);
}

}  // namespace stoker
