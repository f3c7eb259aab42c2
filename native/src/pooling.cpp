// Sums of hidden states over a prompt's tokens, of which an embedding is made.
#include <stdexcept>

#include "model.h"
#include "model_scratch.h"
#include "parallel.h"

namespace stoker {

void Model::check_pools(const Batch& batch) const {
  if (batch.pools == nullptr) return;
  const Pools& pools = *batch.pools;
  for (int i = 0; i < pools.n; ++i) {
    const int begin = pools.begins[i], end = pools.ends[i];
    if (begin < 0 || begin >= end || end > batch.run_starts[batch.n_seqs]) {
      throw std::invalid_argument("rows to pool must be within the batch's tokens");
    }
  }
}

// Adds the rows behind the last norm to the sums, each element on its own, row after row in fp64: so however a prompt
// is cut into chunks and work among threads, the sums have the same bits. Leaves the residual stream as it is.
void Model::pool_prompts(const Batch& batch) {
  if (batch.pools == nullptr) return;
  const Pools& pools = *batch.pools;
  normalize(output_norm_, scratch_->n_rows, {});
  for_rows(pool_, pools.n, [&](int i, int) {
    double* sums = pools.sums + static_cast<ptrdiff_t>(i) * shape_.width;
    for (int row = pools.begins[i]; row < pools.ends[i]; ++row) {
      const float* values = scratch_->normed.once.row_values(row);
      for (int k = 0; k < shape_.width; ++k) sums[k] += static_cast<double>(values[k]);
    }
  });
}

}  // namespace stoker
