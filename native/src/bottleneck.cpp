// Bottlenecks of adapters: small networks behind the halves of a layer, for the rows that ask for them.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "adapter.h"
#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

constexpr int kRowsPerTask = 16;
constexpr int kMostWidth = 1 << 24;

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

template <size_t n>
int place_of(const std::array<const char*, n>& names, const std::string& name) {
  const auto found = std::find(names.begin(), names.end(), name);
  require(found != names.end(), "a bottleneck has no '" + name + "'");
  return static_cast<int>(found - names.begin());
}

}  // namespace

void Adapter::set_bottleneck(const std::string& half, int layer, const float* down, const float* bias, const float* up,
                             const float* up_bias, int rank, int width, float scale, const std::string& bend,
                             bool of_stream) {
  Bottleneck made;
  const int place = place_of(kHalfNames, half);
  made.bend = static_cast<Bend>(place_of(kBendNames, bend));
  require(layer >= 0 && layer < n_layers_, "layer " + std::to_string(layer) + " is out of range");
  require(rank > 0 && rank <= kMaxAdapterRank, "a bottleneck's size must be within 1 and 512");
  require(width > 0 && width <= kMostWidth && width % kGroup == 0, "the width must be a multiple of 32");
  require(bottleneck_width_ == 0 || bottleneck_width_ == width, "bottlenecks must have one width");
  require(std::isfinite(scale), "a bottleneck's scale must be finite");
  Bottleneck& bottleneck = bottlenecks_[static_cast<size_t>(layer) * kHalves + static_cast<size_t>(place)];
  require(bottleneck.rank() == 0, half + " of layer " + std::to_string(layer) + " is given twice");
  for (int r = 0; r < rank; ++r) require(std::isfinite(bias[r]), "a bias has a number that is not finite");
  made.bias.assign(bias, bias + rank);
  made.bias.resize(static_cast<size_t>((rank + kLanes) / kLanes * kLanes));
  made.down = pack_floats(down, rank, width, half);
  std::vector<float> with_bias;
  with_bias.reserve(static_cast<size_t>(width) * static_cast<size_t>(rank + 1));
  for (int n = 0; n < width; ++n) {
    with_bias.insert(with_bias.end(), up + ptrdiff_t{n} * rank, up + ptrdiff_t{n + 1} * rank);
    with_bias.push_back(up_bias[n]);
  }
  made.up = pack_floats(with_bias.data(), width, rank + 1, half);
  made.scale = scale;
  made.of_stream = of_stream;
  bytes_ += made.down.bytes() + made.up.bytes() + made.bias.size() * sizeof(float);
  max_rank_ = std::max(max_rank_, rank + 1);
  bottleneck_width_ = width;
  reads_stream_ = reads_stream_ || of_stream;
  bottleneck = std::move(made);
}

// Room for what halves add. Throws for an adapter whose bottlenecks do not fit.
void Model::want_bottlenecks(const Adapter& adapter) {
  if (adapter.bottleneck_width() == 0) return;
  require(adapter.bottleneck_width() == shape_.width, "the adapter's bottlenecks are for another width");
  require(shape_.residual_scale == 1.0f && !(shape_.post_norms && shape_.experts),
          "this architecture cannot have bottlenecks");
  require(!shape_.post_norms || !adapter.reads_stream(), "bottlenecks of this architecture cannot read the stream");
  FloatRows& added = scratch_->added;
  if (added.k == 0) {
    added = FloatRows(static_cast<size_t>(options_.max_step_tokens), static_cast<size_t>(shape_.width));
  }
}

// The rows' tasks behind a half, into Scratch::bottleneck_tasks; false if there are none.
bool Model::plan_bottlenecks(int layer, Half half) {
  Scratch& scratch = *scratch_;
  scratch.bottleneck_tasks.clear();
  for (const AdapterGroup& group : scratch.adapter_groups) {
    const Bottleneck& bottleneck = group.adapter->bottleneck(layer, half);
    for (int begin = group.begin; bottleneck.rank() > 0 && begin < group.end; begin += kRowsPerTask) {
      scratch.bottleneck_tasks.push_back({&bottleneck, begin, std::min(begin + kRowsPerTask, group.end)});
    }
  }
  return !scratch.bottleneck_tasks.empty();
}

// Before a half: keeps the residual stream of rows whose bottleneck reads what the half will add.
void Model::keep_streams(int layer, Half half) {
  Scratch& scratch = *scratch_;
  if (shape_.post_norms || scratch.adapter_groups.empty() || !plan_bottlenecks(layer, half)) return;
  pool_.run(static_cast<int>(scratch.bottleneck_tasks.size()), [&](int chunk, int) {
    const BottleneckTask& task = scratch.bottleneck_tasks[static_cast<size_t>(chunk)];
    for (int i = task.begin; i < task.end && !task.bottleneck->of_stream; ++i) {
      const int row = scratch.adapted[static_cast<size_t>(i)];
      const float* stream = scratch.residual.row(row);
      std::copy(stream, stream + shape_.width, scratch.added.row(row));
    }
  });
}

// Behind a half: adds what the rows' bottlenecks add, to the stream, or to the branch where that is normed before it is
// added. A row's sums have one order, whatever rows are beside it.
void Model::add_bottlenecks(int layer, Half half, FloatRows& out) {
  Scratch& scratch = *scratch_;
  if (scratch.adapter_groups.empty() || !plan_bottlenecks(layer, half)) return;
  pool_.run(static_cast<int>(scratch.bottleneck_tasks.size()), [&](int chunk, int) {
    const BottleneckTask& task = scratch.bottleneck_tasks[static_cast<size_t>(chunk)];
    const Bottleneck& bottleneck = *task.bottleneck;
    const int32_t* rows = scratch.adapted.data() + task.begin;
    const int n_rows = task.end - task.begin;
    const bool as_it_is = bottleneck.of_stream || shape_.post_norms;
    const FloatRows& input = as_it_is ? out : scratch.added;
    for (int i = 0; i < n_rows && !as_it_is; ++i) {
      const float* stream = scratch.residual.row(rows[i]);
      float* added = scratch.added.row(rows[i]);
      for (int n = 0; n < shape_.width; ++n) added[n] = stream[n] - added[n];
    }
    kernels_->adapt_down(bottleneck.down, 1.0f, input.row(0), static_cast<ptrdiff_t>(input.k), rows, n_rows,
                         scratch.low.row(0), static_cast<ptrdiff_t>(scratch.low.k));
    for (int i = 0; i < n_rows; ++i) {
      float* low = scratch.low.row(rows[i]);
      bend(bottleneck, low);
      kernels_->adapt_up(bottleneck.up, low, 0, shape_.width / kLanes, out.row(rows[i]));
    }
  });
}

// Of a row: bias, activation, scale, and the input of the up product's bias.
void Model::bend(const Bottleneck& bottleneck, float* low) const {
  const int rank = bottleneck.rank();
  const auto padded = static_cast<int>(bottleneck.bias.size());
  // Its down product fills whole column blocks of the rank alone.
  std::fill(low + rank, low + padded, 0.0f);
  kernels_->add(low, bottleneck.bias.data(), padded);
  switch (bottleneck.bend) {
    case Bend::relu:
      for (int r = 0; r < rank; ++r) low[r] = low[r] > 0.0f ? low[r] : 0.0f;
      break;
    case Bend::silu: kernels_->swiglu(low, scratch_->ones.data(), padded, low); break;
    case Bend::gelu_tanh: kernels_->geglu(low, scratch_->ones.data(), padded, low); break;
  }
  low[rank] = 1.0f;
  if (bottleneck.scale != 1.0f) kernels_->scale(low, bottleneck.scale, rank + 1);
}

}  // namespace stoker
