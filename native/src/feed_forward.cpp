// The feed-forward half of a layer that is one network; experts.cpp has those that are several.
#include "model.h"
#include "model_scratch.h"

namespace stoker {

// One group of inner values of rows [row_begin, row_end): gate and up products, activation, and codes for the down
// product. `expert` is 0 where there is one network.
void Model::inner_group(const Layer& layer, const ActivationForms& input, int row_begin, int row_end, int expert,
                        int unit, int thread) {
  const ActivationForms& inner = scratch_->inner;
  constexpr int n = kGroup;
  const int begin = unit * n;
  float* gate = scratch_->threads[static_cast<size_t>(thread)].tile.as<float>();
  float* up = gate + n;
  const ptrdiff_t first = ptrdiff_t{expert} * shape_.ffn_width + begin;
  const auto block = static_cast<int>(first / kLanes);
  const int block_end = block + n / kLanes;
  product(layer.gate, input, row_begin, row_end, block, block_end, thread, gate, 2 * n);
  product(layer.up, input, row_begin, row_end, block, block_end, thread, up, 2 * n);
  if (!shape_.experts) {
    adapt(layer.index, Target::gate, 0, row_begin, row_end, block, block_end, gate, 2 * n);
    adapt(layer.index, Target::up, 1, row_begin, row_end, block, block_end, up, 2 * n);
  }
  for (int row = row_begin; row < row_end; ++row, gate += 2 * n, up += 2 * n) {
    if (!layer.gate_bias.empty()) {
      kernels_->add(gate, layer.gate_bias.data() + first, n);
      kernels_->add(up, layer.up_bias.data() + first, n);
    }
    float* out = inner.once.row_values(row) + begin;
    activate_(gate, up, n, out);
    quantize_for(layer.down, inner, row, begin, n);
  }
}

void Model::feed_forward(const Layer& layer) {
  const PhaseTimer timer(phases_, Phase::feed_forward);
  adapt_down(layer.index, {Target::gate, Target::up}, scratch_->normed.once);
  // A unit is one group of inner values.
  const Chunks chunks(scratch_->n_rows, shape_.ffn_width / kGroup, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      inner_group(layer, scratch_->normed, chunks.row_begin(chunk), chunks.row_end(chunk), 0, unit, thread);
    }
  });
  add_product(layer, Target::down, scratch_->inner);
}

}  // namespace stoker
