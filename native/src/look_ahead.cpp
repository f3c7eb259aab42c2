// Adapters' matrices are on their way to the caches while products of the base are computed.
#include <utility>

#include "ahead.h"
#include "model.h"
#include "model_scratch.h"
#include "parallel.h"

namespace stoker {

namespace {

// The targets whose input the products of others lead to, so many layers later.
struct NextTargets {
  Target first, last;
  int layers;
};

NextTargets targets_after(Target target) {
  switch (target) {
    case Target::q:
    case Target::k:
    case Target::v: return {Target::o, Target::o, 0};
    case Target::o: return {Target::gate, Target::up, 0};
    case Target::gate:
    case Target::up: return {Target::down, Target::down, 0};
    default: return {Target::q, Target::v, 1};
  }
}

}  // namespace

// What the adapters will want while a unit of products of targets `first` to `last` is computed: what is to be added to
// these, and the unit's share of the matrices that the next region of low-rank activations reads.
void Model::look_ahead(int layer, Target first, Target last, int block_begin, int block_end, const Chunks& chunks,
                       int chunk, int unit, int thread) {
  Scratch& scratch = *scratch_;
  if (scratch.adapter_groups.empty()) return;
  Ahead& ahead = scratch.threads[static_cast<size_t>(thread)].ahead;
  clear_ahead(ahead);
  const int row_begin = chunks.row_begin(chunk), row_end = chunks.row_end(chunk);
  for (int target = static_cast<int>(first); target <= static_cast<int>(last); ++target) {
    const Adapter* before = nullptr;
    for (int row = row_begin; row < row_end; ++row) {
      const Adapter* adapter = scratch.rows[static_cast<size_t>(row)].adapter;
      if (adapter == nullptr || !adapter->has_matrices() || std::exchange(before, adapter) == adapter) continue;
      const PackedMatrix& up = adapter->at(layer, static_cast<Target>(target)).up;
      if (up.k > 0)
        add_ahead(ahead, up.block(block_begin), static_cast<size_t>(block_end - block_begin) * up.block_size);
    }
  }
  const NextTargets next = targets_after(last);
  const int of_layer = layer + next.layers;
  if (of_layer == shape_.n_layers()) return;
  const auto part = static_cast<size_t>(row_begin / kRowBlock * chunks.n_units + unit);
  const auto n_parts = static_cast<size_t>(chunks.row_blocks * chunks.n_units);
  for (const AdapterGroup& group : scratch.adapter_groups) {
    if (!group.adapter->has_matrices()) continue;
    for (int target = static_cast<int>(next.first); target <= static_cast<int>(next.last); ++target) {
      const PackedMatrix& down = group.adapter->at(of_layer, static_cast<Target>(target)).down;
      if (down.k > 0) add_ahead(ahead, down.block(0), down.bytes(), part, n_parts);
    }
  }
}

}  // namespace stoker
