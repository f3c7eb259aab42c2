// The forward pass. A layer is five or six parallel regions:
//
//   normalize -> q, k, v products with rotation and KV store -> attention -> output product + residual
//   -> normalize -> gate and up products with SwiGLU -> down product + residual
//
// Products run over (row block, column range) chunks; what follows a product element-wise is done on the chunk's
// tile while it is in cache. How the work is cut into chunks never changes a row's arithmetic.
#include <algorithm>
#include <cstring>

#include "float_mode.h"
#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

constexpr int kChunksPerThread = 8;
constexpr int kInlineRows = 4;  // so few rows are normalized sooner than a region is entered

// Cuts `n_units` column units times the row blocks of `n_rows` rows into chunks.
struct Chunks {
  Chunks(int n_rows, int n_units, int n_threads)
      : row_blocks((n_rows + kRowBlock - 1) / kRowBlock),
        units_per_chunk(std::max(1, n_units * row_blocks / (n_threads * kChunksPerThread))),
        column_chunks((n_units + units_per_chunk - 1) / units_per_chunk),
        n_rows(n_rows),
        n_units(n_units) {}
  int count() const { return row_blocks * column_chunks; }
  int row_begin(int chunk) const { return chunk / column_chunks * kRowBlock; }
  int row_end(int chunk) const { return std::min(n_rows, row_begin(chunk) + kRowBlock); }
  int unit_begin(int chunk) const { return chunk % column_chunks * units_per_chunk; }
  int unit_end(int chunk) const { return std::min(n_units, unit_begin(chunk) + units_per_chunk); }

  int row_blocks, units_per_chunk, column_chunks, n_rows, n_units;
};

Partial partial_at(float* base, int index, size_t pairs, size_t head_size) {
  float* at = base + static_cast<size_t>(index) * pairs * (head_size + 2);
  return {at, at + pairs, at + 2 * pairs};
}

}  // namespace

void Model::normalize(const float* x, const std::vector<float>& weight, int n_rows, Precision wanted) {
  ActivationBuffer& out = scratch_->normed;
  ActivationBuffer& twice = scratch_->normed_twice;
  const auto one = [&](int row, int) {
    float* values = out.row_values(row);
    kernels_->rms_norm(x + static_cast<size_t>(row) * static_cast<size_t>(shape_.width), weight.data(), shape_.width,
                       shape_.norm_epsilon, values);
    if (wanted.int8) kernels_->quantize(values, shape_.width, out.row_codes(row), out.row_meta(row));
    if (wanted.int16) {
      kernels_->quantize_twice(values, shape_.width, twice.row_codes(2 * row), twice.row_meta(2 * row));
    }
  };
  if (n_rows <= kInlineRows) {
    for (int row = 0; row < n_rows; ++row) one(row, 0);
    return;
  }
  constexpr int kRows = 8;
  pool_.run((n_rows + kRows - 1) / kRows, [&](int chunk, int thread) {
    for (int row = chunk * kRows; row < std::min(n_rows, (chunk + 1) * kRows); ++row) one(row, thread);
  });
}

// A product of normed rows at 16 bits: coarse and fine rows are multiplied like any others, then added in pairs. For
// matrices whose products at 8 bits would cost most of the model's accuracy (docs/adr/0007-asymmetric-activations.md).
void Model::precise_product(const PackedMatrix& matrix, int row_begin, int row_end, int block_begin, int block_end,
                            int thread, float* out, ptrdiff_t stride) {
  Scratch& scratch = *scratch_;
  if (!matrix.quantized()) {
    kernels_->matmul(matrix, scratch.normed.view(), row_begin, row_end, block_begin, block_end, out, stride);
    return;
  }
  float* halves = scratch.threads[static_cast<size_t>(thread)].halves.as<float>();
  for (int block = block_begin; block < block_end; ++block) {
    kernels_->matmul(matrix, scratch.normed_twice.view(), 2 * row_begin, 2 * row_end, block, block + 1, halves, kLanes);
    for (int row = 0; row < row_end - row_begin; ++row) {
      float* sum = out + row * stride + ptrdiff_t{block - block_begin} * kLanes;
      std::memcpy(sum, halves + ptrdiff_t{2 * row} * kLanes, kLanes * sizeof(float));
      kernels_->add(sum, halves + ptrdiff_t{2 * row + 1} * kLanes, kLanes);
    }
  }
}

void Model::project_qkv(const Layer& layer, int index) {
  Scratch& scratch = *scratch_;
  const int head_size = shape_.head_size;
  const int blocks_per_head = head_size / kLanes;
  const int half = head_size / 2;
  const size_t element = kv_type_ == KvType::f32 ? sizeof(float) : sizeof(uint16_t);
  const size_t head_elements = static_cast<size_t>(head_size) * kBlockTokens;
  const size_t layer_offset =
      static_cast<size_t>(index) * static_cast<size_t>(options_.kv_blocks) * static_cast<size_t>(shape_.n_kv_heads);
  const float query_scale = 1.0f / __builtin_sqrtf(static_cast<float>(head_size));
  const size_t query_stride = static_cast<size_t>(shape_.n_heads) * static_cast<size_t>(head_size);
  const Activations input = scratch.normed.view();
  // A unit is one query head, or the key and value of one KV head.
  const Chunks chunks(scratch.n_rows, shape_.n_heads + shape_.n_kv_heads, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    float* tile = scratch.threads[static_cast<size_t>(thread)].tile.as<float>();
    const int row_begin = chunks.row_begin(chunk);
    const int row_end = chunks.row_end(chunk);
    const auto tile_row = [&](int row) {
      return tile + static_cast<size_t>(row - row_begin) * static_cast<size_t>(head_size);
    };
    const auto angle = [&](int row) {
      return static_cast<size_t>(scratch.rows[static_cast<size_t>(row)].position) * static_cast<size_t>(half);
    };
    const auto product = [&](const PackedMatrix& matrix, int head) {
      kernels_->matmul(matrix, input, row_begin, row_end, head * blocks_per_head, (head + 1) * blocks_per_head, tile,
                       head_size);
    };
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      if (unit < shape_.n_heads) {
        product(layer.q, unit);
        for (int row = row_begin; row < row_end; ++row) {
          kernels_->rotate(tile_row(row), &cosine_[angle(row)], &sine_[angle(row)], half, query_scale);
          float* query = scratch.queries.as<float>() + static_cast<size_t>(row) * query_stride +
                         static_cast<size_t>(unit) * static_cast<size_t>(head_size);
          std::memcpy(query, tile_row(row), static_cast<size_t>(head_size) * sizeof(float));
        }
        continue;
      }
      const int head = unit - shape_.n_heads;
      const auto kv_at = [&](const Memory& memory, int row) -> void* {
        const auto block = static_cast<size_t>(scratch.rows[static_cast<size_t>(row)].kv_block);
        const size_t at = layer_offset + block * static_cast<size_t>(shape_.n_kv_heads) + static_cast<size_t>(head);
        return memory.as<uint8_t>() + at * head_elements * element;
      };
      product(layer.k, head);
      for (int row = row_begin; row < row_end; ++row) {
        kernels_->rotate(tile_row(row), &cosine_[angle(row)], &sine_[angle(row)], half, 1.0f);
        const int slot = scratch.rows[static_cast<size_t>(row)].position % kBlockTokens;
        kernels_->store_key(tile_row(row), head_size, slot, kv_type_, kv_at(keys_, row));
      }
      precise_product(layer.v, row_begin, row_end, head * blocks_per_head, (head + 1) * blocks_per_head, thread, tile,
                      head_size);
      for (int row = row_begin; row < row_end; ++row) {
        const int slot = scratch.rows[static_cast<size_t>(row)].position % kBlockTokens;
        kernels_->store_value(tile_row(row), head_size, slot, kv_type_, kv_at(values_, row));
      }
    }
  });
}

void Model::attend(int index, bool quantized) {
  Scratch& scratch = *scratch_;
  const int head_size = shape_.head_size;
  const int group = shape_.group();
  const size_t pairs = static_cast<size_t>(kAttentionRows) * static_cast<size_t>(group);
  const size_t element = kv_type_ == KvType::f32 ? sizeof(float) : sizeof(uint16_t);
  const size_t head_elements = static_cast<size_t>(head_size) * kBlockTokens;
  const size_t layer_offset =
      static_cast<size_t>(index) * static_cast<size_t>(options_.kv_blocks) * static_cast<size_t>(shape_.n_kv_heads);
  const ptrdiff_t query_stride = ptrdiff_t{shape_.n_heads} * head_size;
  const int span = group * head_size;

  const auto merge = [&](const AttentionTask& task, const Partial& total, const Partial& piece, int piece_index) {
    for (int row = 0; row < task.n_rows; ++row) {
      if (task.first_position + row < piece_index * kPieceTokens) continue;
      for (int i = row * group; i < (row + 1) * group; ++i) {
        kernels_->merge(total.maximum + i, total.sum + i, total.accumulator + ptrdiff_t{i} * head_size,
                        piece.maximum[i], piece.sum[i], piece.accumulator + ptrdiff_t{i} * head_size, head_size);
      }
    }
  };
  const auto finalize = [&](const AttentionTask& task, const Partial& total) {
    for (int row = 0; row < task.n_rows; ++row) {
      float* out = scratch.attended.row_values(task.first_row + row) + task.kv_head * span;
      for (int head = 0; head < group; ++head) {
        const int i = row * group + head;
        kernels_->divide(total.accumulator + ptrdiff_t{i} * head_size, total.sum[i], head_size, out + head * head_size);
      }
      if (quantized) {
        kernels_->quantize(out, span, scratch.attended.row_codes(task.first_row + row) + task.kv_head * span,
                           scratch.attended.row_meta(task.first_row + row) + task.kv_head * span / kGroup);
      }
    }
  };

  pool_.run(static_cast<int>(scratch.tasks.size()), [&](int chunk, int thread) {
    const AttentionTask& task = scratch.tasks[static_cast<size_t>(chunk)];
    ThreadScratch& own = scratch.threads[static_cast<size_t>(thread)];
    const size_t base = (layer_offset + static_cast<size_t>(task.kv_head)) * head_elements * element;
    const auto run_piece = [&](int piece, const Partial& out) {
      kernels_->attend({.queries = scratch.queries.as<float>() + task.first_row * query_stride + task.kv_head * span,
                        .query_stride = query_stride,
                        .n_rows = task.n_rows,
                        .group = group,
                        .head_size = head_size,
                        .first_position = task.first_position,
                        .key_begin = piece * kPieceTokens,
                        .key_end = (piece + 1) * kPieceTokens,
                        .block_table = task.block_table,
                        .keys = keys_.as<uint8_t>() + base,
                        .values = values_.as<uint8_t>() + base,
                        .block_stride = static_cast<size_t>(shape_.n_kv_heads) * head_elements,
                        .kv_type = kv_type_,
                        .scratch = own.attention.as<float>(),
                        .maximum = out.maximum,
                        .sum = out.sum,
                        .accumulator = out.accumulator});
    };
    const auto head_floats = static_cast<size_t>(head_size);
    if (task.first_partial < 0) {
      const Partial total = partial_at(own.partials.as<float>(), 0, pairs, head_floats);
      const Partial later = partial_at(own.partials.as<float>(), 1, pairs, head_floats);
      run_piece(0, total);
      for (int piece = 1; piece < task.n_pieces; ++piece) {
        run_piece(piece, later);
        merge(task, total, later, piece);
      }
      finalize(task, total);
      return;
    }
    float* partials = scratch.partials.as<float>();
    run_piece(task.first_piece, partial_at(partials, task.first_partial + task.first_piece, pairs, head_floats));
    // Whoever finishes the group's last piece joins them, in order of position.
    auto& finished = scratch.finished[static_cast<size_t>(task.group_index)];
    if ((finished.fetch_add(1, std::memory_order_acq_rel) + 1) % task.n_pieces != 0) return;
    const Partial total = partial_at(partials, task.first_partial, pairs, head_floats);
    for (int piece = 1; piece < task.n_pieces; ++piece) {
      merge(task, total, partial_at(partials, task.first_partial + piece, pairs, head_floats), piece);
    }
    finalize(task, total);
  });
}

// residual += input * matrix
void Model::add_product(const PackedMatrix& matrix, const Activations& input) {
  Scratch& scratch = *scratch_;
  const Chunks chunks(scratch.n_rows, matrix.n / kGroup, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    float* tile = scratch.threads[static_cast<size_t>(thread)].tile.as<float>();
    const int row_begin = chunks.row_begin(chunk);
    const int row_end = chunks.row_end(chunk);
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      kernels_->matmul(matrix, input, row_begin, row_end, 2 * unit, 2 * unit + 2, tile, kGroup);
      for (int row = row_begin; row < row_end; ++row) {
        float* x = scratch.residual.as<float>() + static_cast<size_t>(row) * static_cast<size_t>(shape_.width);
        kernels_->add(x + unit * kGroup, tile + ptrdiff_t{row - row_begin} * kGroup, kGroup);
      }
    }
  });
}

void Model::feed_forward(const Layer& layer) {
  Scratch& scratch = *scratch_;
  const bool quantized = layer.down.quantized();
  const Activations input = scratch.normed.view();
  // A unit is one group of 32 inner values.
  const Chunks chunks(scratch.n_rows, shape_.ffn_width / kGroup, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    float* gate = scratch.threads[static_cast<size_t>(thread)].tile.as<float>();
    float* up = gate + kGroup;
    const int row_begin = chunks.row_begin(chunk);
    const int row_end = chunks.row_end(chunk);
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      kernels_->matmul(layer.gate, input, row_begin, row_end, 2 * unit, 2 * unit + 2, gate, 2 * kGroup);
      kernels_->matmul(layer.up, input, row_begin, row_end, 2 * unit, 2 * unit + 2, up, 2 * kGroup);
      for (int row = row_begin; row < row_end; ++row) {
        const ptrdiff_t at = ptrdiff_t{row - row_begin} * 2 * kGroup;
        float* out = scratch.inner.row_values(row) + unit * kGroup;
        kernels_->swiglu(gate + at, up + at, kGroup, out);
        if (quantized) {
          kernels_->quantize(out, kGroup, scratch.inner.row_codes(row) + unit * kGroup,
                             scratch.inner.row_meta(row) + unit);
        }
      }
    }
  });
  add_product(layer.down, scratch.inner.view());
}

void Model::run_layers(const Batch& batch) {
  Scratch& scratch = *scratch_;
  plan_rows(batch);
  plan_attention(batch);
  float* residual = scratch.residual.as<float>();
  for (int row = 0; row < scratch.n_rows; ++row) {
    unpack_row(embedding_, batch.tokens[row], residual + static_cast<size_t>(row) * static_cast<size_t>(shape_.width));
  }
  for (int index = 0; index < shape_.n_layers; ++index) {
    const Layer& layer = layers_[static_cast<size_t>(index)];
    normalize(residual, layer.attn_norm, scratch.n_rows,
              {.int8 = layer.q.quantized() || layer.k.quantized(), .int16 = layer.v.quantized()});
    project_qkv(layer, index);
    attend(index, layer.o.quantized());
    add_product(layer.o, scratch.attended.view());
    normalize(residual, layer.ffn_norm, scratch.n_rows,
              {.int8 = layer.gate.quantized() || layer.up.quantized(), .int16 = false});
    feed_forward(layer);
  }
}

// Logits of the given rows, at most max_step_seqs of them, in order. Overwrites the residual stream's first rows.
void Model::output_logits(const std::vector<int>& rows) {
  Scratch& scratch = *scratch_;
  const PackedMatrix& matrix = output_.n > 0 ? output_ : embedding_;
  const auto n = static_cast<int>(rows.size());
  const auto width = static_cast<size_t>(shape_.width);
  float* residual = scratch.residual.as<float>();
  for (int i = 0; i < n; ++i) {  // rows ascend, so a source is never overwritten before it is read
    std::memmove(residual + static_cast<size_t>(i) * width,
                 residual + static_cast<size_t>(rows[static_cast<size_t>(i)]) * width, width * sizeof(float));
  }
  normalize(residual, output_norm_, n, {.int8 = false, .int16 = matrix.quantized()});
  const ptrdiff_t stride = ptrdiff_t{matrix.n_blocks()} * kLanes;
  const Chunks chunks(n, matrix.n_blocks(), pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    const int row_begin = chunks.row_begin(chunk);
    const int unit_begin = chunks.unit_begin(chunk);
    precise_product(matrix, row_begin, chunks.row_end(chunk), unit_begin, chunks.unit_end(chunk), thread,
                    scratch.logits.as<float>() + row_begin * stride + ptrdiff_t{unit_begin} * kLanes, stride);
  });
}

void Model::forward(const Batch& batch, Sample* samples_out) {
  check(batch);
  check_scores(batch);
  const FloatMode float_mode;
  Scratch& scratch = *scratch_;
  run_layers(batch);
  score_prompts(batch);
  scratch.sampled_seqs.clear();
  scratch.logit_rows.clear();
  for (int s = 0; s < batch.n_seqs; ++s) {
    if (batch.samples[s] == 0) continue;
    scratch.sampled_seqs.push_back(s);
    scratch.logit_rows.push_back(batch.run_starts[s + 1] - 1);
  }
  if (scratch.logit_rows.empty()) return;
  output_logits(scratch.logit_rows);
  const size_t stride = (static_cast<size_t>(shape_.vocab_size) + kLanes - 1) / kLanes * kLanes;
  pool_.run(static_cast<int>(scratch.sampled_seqs.size()), [&](int i, int thread) {
    const int s = scratch.sampled_seqs[static_cast<size_t>(i)];
    samples_out[s] = sample(*kernels_, scratch.logits.as<float>() + static_cast<size_t>(i) * stride, shape_.vocab_size,
                            batch.params[s], scratch.threads[static_cast<size_t>(thread)].sampling);
  });
}

void Model::logits(const Batch& batch, float* out) {
  check(batch);
  const FloatMode float_mode;
  Scratch& scratch = *scratch_;
  run_layers(batch);
  const auto vocab = static_cast<size_t>(shape_.vocab_size);
  const size_t stride = (vocab + kLanes - 1) / kLanes * kLanes;
  const auto width = static_cast<size_t>(shape_.width);
  const float* residual = scratch.residual.as<float>();
  const std::vector<float> hidden(residual, residual + static_cast<size_t>(scratch.n_rows) * width);
  for (int begin = 0; begin < scratch.n_rows; begin += options_.max_step_seqs) {
    const int n = std::min(options_.max_step_seqs, scratch.n_rows - begin);
    std::memcpy(scratch.residual.as<float>(), hidden.data() + static_cast<size_t>(begin) * width,
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
