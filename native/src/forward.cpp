// The forward pass over a batch. A layer of the plainest architecture is five or six parallel regions:
//
//   normalize -> q, k, v products with rotation and KV store -> attention -> output product + residual
//   -> normalize -> gate and up products with their activation -> down product + residual
//
// Products run over (row block, column range) chunks; what follows a product element-wise is done on the chunk's
// tile while it is in cache. The two halves of a layer are in attention.cpp, and feed_forward.cpp or experts.cpp.
#include <algorithm>
#include <cstring>

#include "float_mode.h"
#include "model.h"
#include "model_scratch.h"

namespace stoker {

// The residual stream's rows, normed unless `weight` is empty, into the forms that products want.
void Model::normalize(const std::vector<float>& weight, int n_rows, Precision wanted) {
  const PhaseTimer timer(phases_, Phase::normalize);
  const ActivationBuffer& once = scratch_->normed.once;
  const ActivationBuffer& twice = scratch_->normed.twice;
  for_rows(pool_, n_rows, [&](int row, int) {
    const float* x = scratch_->residual.row(row);
    float* values = once.row_values(row);
    if (weight.empty()) {
      std::memcpy(values, x, static_cast<size_t>(shape_.width) * sizeof(float));
    } else {
      kernels_->rms_norm(x, weight.data(), shape_.width, shape_.norm_epsilon, values);
    }
    if (wanted.int8) kernels_->quantize(values, shape_.width, once.row_codes(row), once.row_meta(row));
    if (wanted.int16) {
      kernels_->quantize_twice(values, shape_.width, twice.row_codes(2 * row), twice.row_meta(2 * row));
    }
  });
}

// Elements [begin, begin + n) of a row's floats, whole groups, into the form that the matrix wants.
void Model::quantize_for(const PackedMatrix& matrix, const ActivationForms& forms, int row, int begin, int n) {
  const float* x = forms.once.row_values(row) + begin;
  if (matrix.wants_int8()) {
    kernels_->quantize(x, n, forms.once.row_codes(row) + begin, forms.once.row_meta(row) + begin / kGroup);
  }
  if (!matrix.wants_int16()) return;
  // Rows of codes are apart by more than n, so a group at a time.
  for (int at = 0; at < n; at += kGroup) {
    int8_t codes[2 * kGroup];
    GroupMeta meta[2];
    kernels_->quantize_twice(x + at, kGroup, codes, meta);
    for (int half = 0; half < 2; ++half) {
      std::memcpy(forms.twice.row_codes(2 * row + half) + begin + at, codes + half * kGroup, kGroup);
      forms.twice.row_meta(2 * row + half)[(begin + at) / kGroup] = meta[half];
    }
  }
}

// Rows times column blocks of a matrix. At 16 bits, coarse and fine rows are multiplied like any others, then added in
// pairs: for matrices whose products at 8 bits would cost most of the model's accuracy
// (docs/adr/0007-asymmetric-activations.md).
void Model::product(const PackedMatrix& matrix, const ActivationForms& input, int row_begin, int row_end,
                    int block_begin, int block_end, int thread, float* out, ptrdiff_t stride) {
  ThreadScratch& scratch = scratch_->threads[static_cast<size_t>(thread)];
  Ahead* ahead = scratch_->adapter_groups.empty() ? nullptr : &scratch.ahead;
  if (!matrix.wants_int16()) {
    kernels_->matmul(matrix, input.once.view(ahead), row_begin, row_end, block_begin, block_end, out, stride);
    return;
  }
  float* halves = scratch.halves.as<float>();
  for (int block = block_begin; block < block_end; ++block) {
    kernels_->matmul(matrix, input.twice.view(ahead), 2 * row_begin, 2 * row_end, block, block + 1, halves, kLanes);
    for (int row = 0; row < row_end - row_begin; ++row) {
      float* sum = out + row * stride + ptrdiff_t{block - block_begin} * kLanes;
      std::memcpy(sum, halves + ptrdiff_t{2 * row} * kLanes, kLanes * sizeof(float));
      kernels_->add(sum, halves + ptrdiff_t{2 * row + 1} * kLanes, kLanes);
    }
  }
}

// Adds input * o or down + bias to the residual stream, by way of the branch where that is normed first.
void Model::add_product(const Layer& layer, Target target, const ActivationForms& input) {
  Scratch& scratch = *scratch_;
  const bool attention = target == Target::o;
  const PackedMatrix& matrix = attention ? layer.o : layer.down;
  const std::vector<float>& bias = attention ? layer.o_bias : layer.down_bias;
  const std::vector<float>& post_norm = attention ? layer.post_attn_norm : layer.post_ffn_norm;
  adapt_down(layer.index, {target}, input.once);
  const float factor = shape_.residual_scale;
  const Chunks chunks(scratch.n_rows, matrix.n / kGroup, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    float* tile = scratch.threads[static_cast<size_t>(thread)].tile.as<float>();
    const int row_begin = chunks.row_begin(chunk);
    const int row_end = chunks.row_end(chunk);
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      look_ahead(layer.index, target, target, 2 * unit, 2 * unit + 2, chunks, chunk, unit, thread);
      product(matrix, input, row_begin, row_end, 2 * unit, 2 * unit + 2, thread, tile, kGroup);
      adapt(layer.index, target, 0, row_begin, row_end, 2 * unit, 2 * unit + 2, tile, kGroup);
      for (int row = row_begin; row < row_end; ++row) {
        float* product = tile + ptrdiff_t{row - row_begin} * kGroup;
        if (!bias.empty()) kernels_->add(product, bias.data() + unit * kGroup, kGroup);
        if (shape_.post_norms) {
          std::memcpy(scratch.branch.row(row) + unit * kGroup, product, kGroup * sizeof(float));
          continue;
        }
        if (factor != 1.0f) kernels_->scale(product, factor, kGroup);
        kernels_->add(scratch.residual.row(row) + unit * kGroup, product, kGroup);
      }
    }
  });
  if (!shape_.post_norms) return;
  add_bottlenecks(layer.index, attention ? Half::attention : Half::feed_forward, scratch.branch);
  add_branch(post_norm);
}

// Adds the branch to the residual stream, normed unless `post_norm` is empty.
void Model::add_branch(const std::vector<float>& post_norm) {
  for_rows(pool_, scratch_->n_rows, [&](int row, int) {
    float* x = scratch_->branch.row(row);
    if (!post_norm.empty()) kernels_->rms_norm(x, post_norm.data(), shape_.width, shape_.norm_epsilon, x);
    if (shape_.residual_scale != 1.0f) kernels_->scale(x, shape_.residual_scale, shape_.width);
    kernels_->add(scratch_->residual.row(row), x, shape_.width);
  });
}

void Model::embed(const Batch& batch) {
  for_rows(pool_, scratch_->n_rows, [&](int row, int) {
    float* x = scratch_->residual.row(row);
    unpack_row(embedding_, batch.tokens[row], x);
    if (shape_.embedding_scale != 1.0f) kernels_->scale(x, shape_.embedding_scale, shape_.width);
  });
}

void Model::run_layers(const Batch& batch) {
  plan_rows(batch);
  plan_adapters(batch);
  plan_attention(batch);
  compute_angles();
  embed(batch);
  for (int index = 0; index < shape_.n_layers(); ++index) {
    if (batch.skipped != nullptr && batch.skipped[index] != 0) continue;
    const Layer& layer = layers_[static_cast<size_t>(index)];
    normalize(layer.attn_norm, scratch_->n_rows,
              {.int8 = layer.q.wants_int8() || layer.k.wants_int8() || layer.v.wants_int8(),
               .int16 = layer.q.wants_int16() || layer.k.wants_int16() || layer.v.wants_int16()});
    project_qkv(layer, index);
    attend(layer, index);
    {
      const PhaseTimer timer(phases_, Phase::output);
      keep_streams(index, Half::attention);
      add_product(layer, Target::o, scratch_->attended);
      if (!shape_.post_norms) add_bottlenecks(index, Half::attention, scratch_->residual);
    }
    normalize(layer.ffn_norm, scratch_->n_rows,
              {.int8 = layer.gate.wants_int8() || layer.up.wants_int8(),
               .int16 = layer.gate.wants_int16() || layer.up.wants_int16()});
    keep_streams(index, Half::feed_forward);
    if (shape_.experts) {
      feed_experts(layer);
    } else {
      feed_forward(layer);
    }
    if (!shape_.post_norms) add_bottlenecks(index, Half::feed_forward, scratch_->residual);
  }
}

// Logits of the given rows, at most max_step_seqs of them, in order. Overwrites the residual stream's first rows.
void Model::output_logits(const std::vector<int>& rows) {
  const PhaseTimer timer(phases_, Phase::logits);
  Scratch& scratch = *scratch_;
  const PackedMatrix& matrix = shape_.tied_embeddings ? embedding_ : output_;
  const auto n = static_cast<int>(rows.size());
  for (int i = 0; i < n; ++i) {  // rows ascend, so a source is never overwritten before it is read
    std::memmove(scratch.residual.row(i), scratch.residual.row(rows[static_cast<size_t>(i)]),
                 static_cast<size_t>(shape_.width) * sizeof(float));
  }
  normalize(output_norm_, n, {.int8 = matrix.wants_int8(), .int16 = matrix.wants_int16()});
  const ptrdiff_t stride = ptrdiff_t{matrix.n_blocks()} * kLanes;
  const Chunks chunks(n, matrix.n_blocks(), pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    const int row_begin = chunks.row_begin(chunk);
    const int row_end = chunks.row_end(chunk);
    const int begin = chunks.unit_begin(chunk);
    const int end = chunks.unit_end(chunk);
    float* out = scratch.logits.as<float>() + row_begin * stride + ptrdiff_t{begin} * kLanes;
    product(matrix, scratch.normed, row_begin, row_end, begin, end, thread, out, stride);
    const int n_columns = (end - begin) * kLanes;
    for (int row = row_begin; row < row_end; ++row, out += stride) {
      if (shape_.logit_scale != 1.0f) kernels_->scale(out, shape_.logit_scale, n_columns);
      if (shape_.logit_softcap > 0.0f) kernels_->softcap(out, shape_.logit_softcap, n_columns);
    }
  });
}

void Model::forward(const Batch& batch, Sample* samples_out) {
  check(batch);
  check_scores(batch);
  check_pools(batch);
  const FloatMode float_mode;
  const PhaseTimer timer(phases_, Phase::other);
  run_layers(batch);
  pool_prompts(batch);
  score_prompts(batch);
  sample_runs(batch, samples_out);
}

void Model::logits(const Batch& batch, float* out) {
  check(batch);
  const FloatMode float_mode;
  Scratch& scratch = *scratch_;
  run_layers(batch);
  const auto vocab = static_cast<size_t>(shape_.vocab_size);
  const size_t stride = (vocab + kLanes - 1) / kLanes * kLanes;
  const auto width = static_cast<size_t>(shape_.width);
  const float* residual = scratch.residual.row(0);
  const std::vector<float> hidden(residual, residual + static_cast<size_t>(scratch.n_rows) * width);
  for (int begin = 0; begin < scratch.n_rows; begin += options_.max_step_seqs) {
    const int n = std::min(options_.max_step_seqs, scratch.n_rows - begin);
    std::memcpy(scratch.residual.row(0), hidden.data() + static_cast<size_t>(begin) * width,
                static_cast<size_t>(n) * width * sizeof(float));
    std::vector<int> rows(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) rows[static_cast<size_t>(i)] = i;
    output_logits(rows);
    for (int i = 0; i < n; ++i) {
      std::memcpy(out + static_cast<size_t>(begin + i) * vocab,
                  scratch.logits.as<float>() + static_cast<size_t>(i) * stride, vocab * sizeof(float));
    }
  }
}

}  // namespace stoker
