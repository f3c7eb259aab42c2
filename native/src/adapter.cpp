#include "adapter.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>

#include "fp16.h"
#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

constexpr int kMostWidth = 1 << 24;
constexpr int kRowsPerTask = 16;
constexpr size_t kCacheLine = 64;
constexpr size_t kPieceBytes = size_t{2} << 20;
constexpr int kRowsAhead = 2;  // whose weights are fetched while a row is computed

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace

Adapter::Adapter(int n_layers, bool float_path) : n_layers_(n_layers), float_path_(float_path) {
  require(n_layers > 0 && n_layers <= 1 << 16, "the number of layers is out of range");
  matrices_.resize(static_cast<size_t>(n_layers) * kTargets);
  bottlenecks_.resize(static_cast<size_t>(n_layers) * kHalves);
}

// Zeroed bytes on a cache line of their own.
uint8_t* Adapter::take(size_t size) {
  const size_t rounded = (size + kCacheLine - 1) / kCacheLine * kCacheLine;
  if (pieces_.empty() || piece_used_ + rounded > pieces_.back().size()) {
    pieces_.emplace_back(std::max(rounded, kPieceBytes));
    piece_used_ = 0;
  }
  uint8_t* bytes = pieces_.back().as<uint8_t>() + piece_used_;
  piece_used_ += rounded;
  return bytes;
}

// [n][k] floats as column blocks of 16 outputs, the last one padded with zeros.
PackedMatrix Adapter::pack_floats(const float* values, int n, int k, const std::string& label) {
  PackedMatrix packed;
  packed.type = float_path_ ? WeightType::f32 : WeightType::bf16;
  packed.n = n;
  packed.k = k;
  const size_t element = float_path_ ? sizeof(float) : sizeof(uint16_t);
  packed.block_size = static_cast<size_t>(k) * kLanes * element;
  uint8_t* bytes = take(packed.bytes());
  packed.memory = Memory::borrowed(bytes, packed.bytes());
  for (int row = 0; row < n; ++row) {
    uint8_t* block = bytes + static_cast<size_t>(row / kLanes) * packed.block_size;
    for (int i = 0; i < k; ++i) {
      const float value = values[static_cast<size_t>(row) * static_cast<size_t>(k) + static_cast<size_t>(i)];
      const size_t at = static_cast<size_t>(i) * kLanes + static_cast<size_t>(row % kLanes);
      if (!std::isfinite(value)) throw std::invalid_argument(label + " has a number that is not finite");
      if (float_path_) {
        std::memcpy(block + at * element, &value, element);
        continue;
      }
      const uint16_t half = bfloat_from_float(value);
      if ((half & 0x7f80) == 0x7f80) throw std::invalid_argument(label + " has a number that is too large for bf16");
      std::memcpy(block + at * element, &half, element);
    }
  }
  return packed;
}

void Adapter::set(const std::string& target, int layer, const float* down, const float* up, int rank, int n_inputs,
                  int n_outputs, float scale) {
  const auto named = std::find(kTargetNames.begin(), kTargetNames.end(), target);
  require(named != kTargetNames.end(), "an adapter cannot change a matrix '" + target + "'");
  require(layer >= 0 && layer < n_layers_, "layer " + std::to_string(layer) + " is out of range");
  require(rank > 0 && rank <= kMaxAdapterRank, "an adapter's rank must be within 1 and 512");
  require(n_inputs > 0 && n_inputs <= kMostWidth && n_inputs % kGroup == 0, "inputs must be a multiple of 32");
  require(n_outputs > 0 && n_outputs <= kMostWidth && n_outputs % kLanes == 0, "outputs must be a multiple of 16");
  require(std::isfinite(scale), "an adapter's scale must be finite");
  AdapterMatrix& matrix =
      matrices_[static_cast<size_t>(layer) * kTargets + static_cast<size_t>(named - kTargetNames.begin())];
  require(matrix.rank() == 0, target + " of layer " + std::to_string(layer) + " is given twice");
  AdapterMatrix made;
  made.down = pack_floats(down, rank, n_inputs, target);
  made.up = pack_floats(up, n_outputs, rank, target);
  made.scale = scale;
  bytes_ += made.down.bytes() + made.up.bytes();
  max_rank_ = std::max(max_rank_, rank);
  has_matrices_ = true;
  matrix = std::move(made);
}

void Model::set_adapter(int slot, std::shared_ptr<const Adapter> adapter) {
  require(slot >= 0 && slot < kMaxAdapters, "an adapter's slot must be within 0 and 1023");
  if (adapter != nullptr) {
    require(adapter->n_layers() == shape_.n_layers(), "the adapter is for another number of layers");
    for (const MatrixSlot& matrix : matrices_) {
      const auto named = std::find(kTargetNames.begin(), kTargetNames.end(), std::string(matrix.name));
      if (named == kTargetNames.end()) continue;
      const auto target = static_cast<Target>(named - kTargetNames.begin());
      const AdapterMatrix& of_it = adapter->at(matrix.layer, target);
      if (of_it.rank() == 0) continue;
      require(!shape_.experts || target <= Target::o, "experts cannot have adapters");
      require(of_it.down.k == matrix.columns && of_it.up.n == matrix.rows,
              "the adapter's " + std::string(matrix.name) + " is for another shape");
    }
    want_bottlenecks(*adapter);
    want_low(adapter->max_rank());
  }
  if (static_cast<size_t>(slot) >= adapters_.size()) adapters_.resize(static_cast<size_t>(slot) + 1);
  adapters_[static_cast<size_t>(slot)] = std::move(adapter);
}

// Room for the low-rank activations of a whole step, for the three matrices at most that share an input.
void Model::want_low(int rank) {
  Scratch& scratch = *scratch_;
  const int padded = (rank + kLanes - 1) / kLanes * kLanes;
  if (padded <= scratch.low_rank) return;
  scratch.low = FloatRows(static_cast<size_t>(options_.max_step_tokens), 3 * static_cast<size_t>(padded));
  scratch.low_rank = padded;
}

// Which rows have which adapter, so that an adapter's weights are read for all of its rows together.
void Model::plan_adapters(const Batch& batch) {
  Scratch& scratch = *scratch_;
  scratch.adapted.clear();
  scratch.adapter_groups.clear();
  if (batch.adapters == nullptr) return;
  for (int first = 0; first < batch.n_seqs; ++first) {
    const int slot = batch.adapters[first];
    const bool seen = std::find(batch.adapters, batch.adapters + first, slot) != batch.adapters + first;
    if (slot < 0 || seen) continue;
    const Adapter* adapter = adapters_[static_cast<size_t>(slot)].get();
    const auto begin = static_cast<int>(scratch.adapted.size());
    for (int s = first; s < batch.n_seqs; ++s) {
      if (batch.adapters[s] != slot) continue;
      for (int row = batch.run_starts[s]; row < batch.run_starts[s + 1]; ++row) {
        scratch.rows[static_cast<size_t>(row)].adapter = adapter;
        scratch.adapted.push_back(row);
      }
    }
    scratch.adapter_groups.push_back({adapter, begin, static_cast<int>(scratch.adapted.size())});
  }
}

// Low-rank activations of all rows that have an adapter, for matrices that share an input, at most three.
void Model::adapt_down(int layer, std::initializer_list<Target> targets, const ActivationBuffer& input) {
  Scratch& scratch = *scratch_;
  std::vector<AdapterTask>& tasks = scratch.adapter_tasks;
  tasks.clear();
  for (const AdapterGroup& group : scratch.adapter_groups) {
    int place = 0;
    for (const Target target : targets) {
      const AdapterMatrix& matrix = group.adapter->at(layer, target);
      for (int begin = group.begin; matrix.rank() > 0 && begin < group.end; begin += kRowsPerTask) {
        tasks.push_back({&matrix, place, begin, std::min(begin + kRowsPerTask, group.end)});
      }
      ++place;
    }
  }
  if (tasks.empty()) return;
  pool_.run(static_cast<int>(tasks.size()), [&](int chunk, int) {
    const AdapterTask& task = tasks[static_cast<size_t>(chunk)];
    kernels_->adapt_down(task.matrix->down, task.matrix->scale, input.row_values(0), input.k,
                         scratch.adapted.data() + task.begin, task.end - task.begin,
                         scratch.low.row(0) + ptrdiff_t{task.place} * scratch.low_rank,
                         static_cast<ptrdiff_t>(scratch.low.k));
  });
}

// Adds to a product what its rows' adapters add; `place` is the target's among those that share its input.
void Model::adapt(int layer, Target target, int place, int row_begin, int row_end, int block_begin, int block_end,
                  float* out, ptrdiff_t stride) const {
  const Scratch& scratch = *scratch_;
  if (scratch.adapter_groups.empty()) return;
  const auto matrix_of = [&](int row) -> const AdapterMatrix* {
    const Adapter* adapter = scratch.rows[static_cast<size_t>(row)].adapter;
    if (adapter == nullptr || !adapter->has_matrices() || adapter->at(layer, target).rank() == 0) return nullptr;
    return &adapter->at(layer, target);
  };
  const auto fetch = [&](int row) {
    const AdapterMatrix* matrix = row < row_end ? matrix_of(row) : nullptr;
    if (matrix == nullptr || (row > row_begin && matrix == matrix_of(row - 1))) return;
    const uint8_t* end = matrix->up.block(block_end);
    for (const uint8_t* line = matrix->up.block(block_begin); line < end; line += kCacheLine) __builtin_prefetch(line);
  };
  for (int row = row_begin; row < std::min(row_begin + kRowsAhead, row_end); ++row) fetch(row);
  for (int row = row_begin; row < row_end; ++row) {
    fetch(row + kRowsAhead);
    const AdapterMatrix* matrix = matrix_of(row);
    if (matrix == nullptr) continue;
    kernels_->adapt_up(matrix->up, scratch.low.row(row) + ptrdiff_t{place} * scratch.low_rank, block_begin, block_end,
                       out + (row - row_begin) * stride);
  }
}

}  // namespace stoker
