// The feed-forward half of a layer that is one network; experts.cpp has those that are several.
#include <cstring>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

// One group of inner values of rows [row_begin, row_end): gate and up products, activation, and codes for the down
// product. `expert` is 0 where there is one network.
void Model::inner_group(const Layer& layer, const ActivationForms& input, int row_begin, int row_end, int expert,
                        int unit, int thread) {
  constexpr int n = kGroup;
  const int begin = unit * n;
  float* gate = scratch_->threads[static_cast<size_t>(thread)].tile.as<float>();
  float* up = gate + n;
  const ptrdiff_t first = ptrdiff_t{expert} * shape_.ffn_width + begin;
  const auto block = static_cast<int>(first / kLanes);
  const int block_end = block + n / kLanes;
  product(layer.gate, input, row_begin, row_end, block, block_end, thread, gate, 2 * n);
  product(layer.up, input, row_begin, row_end, block, block_end, thread, up, 2 * n);
  float* values = gate;  // the rows' inner values take the place of gate and up products, without gaps
  if (!shape_.experts) {
    adapt(layer.index, Target::gate, 0, row_begin, row_end, block, block_end, gate, 2 * n);
    adapt(layer.index, Target::up, 1, row_begin, row_end, block, block_end, up, 2 * n);
  }
  for (int row = row_begin; row < row_end; ++row, gate += 2 * n, up += 2 * n) {
    if (!layer.gate_bias.empty()) {
      kernels_->add(gate, layer.gate_bias.data() + first, n);
      kernels_->add(up, layer.up_bias.data() + first, n);
    }
    activate_(gate, up, n, values + ptrdiff_t{row - row_begin} * n);
  }
  keep_group(layer.down, scratch_->inner, row_begin, row_end, begin, values);
}

// Group `begin` of inner values of rows [row_begin, row_end), in the form that the matrix wants. The codes of all rows
// are made together; floats are written only for who reads them, matrices of floats and adapters, since a step's do not
// fit the cache.
void Model::keep_group(const PackedMatrix& matrix, const ActivationForms& forms, int row_begin, int row_end, int begin,
                       const float* values) {
  const int n_rows = row_end - row_begin;
  if (matrix.wants_int8()) {
    int8_t codes[kRowBlock * kGroup];
    GroupMeta meta[kRowBlock];
    kernels_->quantize(values, n_rows * kGroup, codes, meta);
    for (int row = 0; row < n_rows; ++row) {
      std::memcpy(forms.once.row_codes(row_begin + row) + begin, codes + row * kGroup, kGroup);
      forms.once.row_meta(row_begin + row)[begin / kGroup] = meta[row];
    }
    if (scratch_->adapter_groups.empty()) return;
  }
  for (int row = 0; row < n_rows; ++row) {
    std::memcpy(forms.once.row_values(row_begin + row) + begin, values + row * kGroup, kGroup * sizeof(float));
    if (!matrix.wants_int8()) quantize_for(matrix, forms, row_begin + row, begin, kGroup);
  }
}

void Model::feed_forward(const Layer& layer) {
  const PhaseTimer timer(phases_, Phase::feed_forward);
  adapt_down(layer.index, {Target::gate, Target::up}, scratch_->normed.once);
  // A unit is one group of inner values.
  const Chunks chunks(scratch_->n_rows, shape_.ffn_width / kGroup, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      look_ahead(layer.index, Target::gate, Target::up, 2 * unit, 2 * unit + 2, chunks, chunk, unit, thread);
      inner_group(layer, scratch_->normed, chunks.row_begin(chunk), chunks.row_end(chunk), 0, unit, thread);
    }
  });
  add_product(layer, Target::down, scratch_->inner);
}

}  // namespace stoker
