// The attention half of a layer: products with rotation and KV store, then the attention tasks that plan.cpp cuts.
#include <cmath>
#include <cstring>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

Partial partial_at(float* at, const AttentionTask& task, int group) {
  const ptrdiff_t n = ptrdiff_t{task.n_rows} * group;
  return {at, at + n, at + 2 * n};
}

}  // namespace

// Cosines and sines of the step's rows, once for all layers. Tables over the context would grow with it.
void Model::compute_angles() {
  Scratch& scratch = *scratch_;
  for (size_t r = 0; r < shape_.rotaries.size(); ++r) {
    const RotaryShape& rotary = shape_.rotaries[r];
    const Angles& angles = scratch.angles[r];
    for_rows(pool_, scratch.n_rows, [&](int row, int) {
      float* cosine = angles.rows.row(row);
      float* sine = cosine + angles.n_pairs;
      const auto position = static_cast<float>(scratch.rows[static_cast<size_t>(row)].position);
      for (size_t i = 0; i < angles.n_pairs; ++i) {
        // Rounded to fp32, as the published models round it.
        const float angle = position * rotary.frequencies[i];
        cosine[i] = static_cast<float>(std::cos(static_cast<double>(angle))) * rotary.magnitude;
        sine[i] = static_cast<float>(std::sin(static_cast<double>(angle))) * rotary.magnitude;
      }
    });
  }
}

// Where keys or values of one KV head of a block are. A head's parts stand next to each other: blocks that follow each
// other, as a sequence's mostly do, are one stretch of memory, which the processor fetches ahead.
uint8_t* Model::kv_at(const Memory& memory, int layer, int block, int head) const {
  const auto n_blocks = static_cast<size_t>(options_.kv_blocks);
  const auto n_heads = static_cast<size_t>(shape_.n_kv_heads);
  const size_t index =
      (static_cast<size_t>(layer) * n_heads + static_cast<size_t>(head)) * n_blocks + static_cast<size_t>(block);
  return memory.as<uint8_t>() + index * kv_part_bytes(kv_type_, shape_.head_size);
}

// Rotates a head by its row's position and scales it.
void Model::turn(int layer, int row, float* head, float scale) const {
  const int rotary = shape_.layers[static_cast<size_t>(layer)].rotary;
  int n_turned = 0;
  if (rotary >= 0) {
    const Angles& angles = scratch_->angles[static_cast<size_t>(rotary)];
    const auto n_pairs = static_cast<int>(angles.n_pairs);
    kernels_->rotate(head, angles.cosine(row), angles.sine(row), n_pairs, scale);
    n_turned = 2 * n_pairs;
  }
  if (n_turned < shape_.head_size && scale != 1.0f) {
    kernels_->scale(head + n_turned, scale, shape_.head_size - n_turned);
  }
}

void Model::project_qkv(const Layer& layer, int index) {
  const PhaseTimer timer(phases_, Phase::qkv);
  Scratch& scratch = *scratch_;
  const int head_size = shape_.head_size;
  const int blocks_per_head = head_size / kLanes;
  const auto head_bytes = static_cast<size_t>(head_size) * sizeof(float);
  const bool norm_heads = shape_.qk_norm == QkNorm::head;
  const bool norm_rows = shape_.qk_norm == QkNorm::row;
  adapt_down(index, {Target::q, Target::k, Target::v}, scratch.normed.once);
  // A unit is one query head, or the key and value of one KV head.
  const Chunks chunks(scratch.n_rows, shape_.n_heads + shape_.n_kv_heads, pool_.size());
  pool_.run(chunks.count(), [&](int chunk, int thread) {
    float* tile = scratch.threads[static_cast<size_t>(thread)].tile.as<float>();
    const int row_begin = chunks.row_begin(chunk);
    const int row_end = chunks.row_end(chunk);
    const auto tile_row = [&](int row) { return tile + ptrdiff_t{row - row_begin} * head_size; };
    const auto slot = [&](int row) { return scratch.rows[static_cast<size_t>(row)].position % kBlockTokens; };
    const auto kv_block = [&](int row) { return scratch.rows[static_cast<size_t>(row)].kv_block; };
    const auto add_bias = [&](const std::vector<float>& bias, int head) {
      if (bias.empty()) return;
      for (int row = row_begin; row < row_end; ++row) {
        kernels_->add(tile_row(row), bias.data() + ptrdiff_t{head} * head_size, head_size);
      }
    };
    const auto head_product = [&](Target target, const PackedMatrix& matrix, const std::vector<float>& bias, int head) {
      const int block = head * blocks_per_head, block_end = (head + 1) * blocks_per_head;
      product(matrix, scratch.normed, row_begin, row_end, block, block_end, thread, tile, head_size);
      adapt(index, target, static_cast<int>(target), row_begin, row_end, block, block_end, tile, head_size);
      add_bias(bias, head);
    };
    const auto norm = [&](const std::vector<float>& weight, float* head) {
      if (norm_heads) kernels_->rms_norm(head, weight.data(), head_size, shape_.norm_epsilon, head);
    };
    for (int unit = chunks.unit_begin(chunk); unit < chunks.unit_end(chunk); ++unit) {
      const bool query = unit < shape_.n_heads;
      const int block = (query ? unit : unit - shape_.n_heads) * blocks_per_head;
      look_ahead(index, query ? Target::q : Target::k, query ? Target::q : Target::v, block, block + blocks_per_head,
                 chunks, chunk, unit, thread);
      if (query) {
        head_product(Target::q, layer.q, layer.q_bias, unit);
        for (int row = row_begin; row < row_end; ++row) {
          norm(layer.q_norm, tile_row(row));
          if (!norm_rows) turn(index, row, tile_row(row), shape_.score_scale);
          std::memcpy(scratch.queries.row(row) + ptrdiff_t{unit} * head_size, tile_row(row), head_bytes);
        }
        continue;
      }
      const int head = unit - shape_.n_heads;
      head_product(Target::k, layer.k, layer.k_bias, head);
      for (int row = row_begin; row < row_end; ++row) {
        if (norm_rows) {
          std::memcpy(scratch.keys.row(row) + ptrdiff_t{head} * head_size, tile_row(row), head_bytes);
          continue;
        }
        norm(layer.k_norm, tile_row(row));
        turn(index, row, tile_row(row), 1.0f);
        kernels_->store_key(tile_row(row), head_size, slot(row), kv_type_, kv_at(keys_, index, kv_block(row), head));
      }
      head_product(Target::v, layer.v, layer.v_bias, head);
      for (int row = row_begin; row < row_end; ++row) {
        kernels_->store_value(tile_row(row), head_size, slot(row), kv_type_,
                              kv_at(values_, index, kv_block(row), head));
      }
    }
  });
  if (norm_rows) norm_rows_of_heads(layer, index);
}

// Norms that run over all heads of a row wait for all of them; rotation and KV store wait for the norms.
void Model::norm_rows_of_heads(const Layer& layer, int index) {
  Scratch& scratch = *scratch_;
  const int head_size = shape_.head_size;
  for_rows(pool_, scratch.n_rows, [&](int row, int) {
    float* queries = scratch.queries.row(row);
    float* keys = scratch.keys.row(row);
    kernels_->rms_norm(queries, layer.q_norm.data(), shape_.query_width(), shape_.norm_epsilon, queries);
    kernels_->rms_norm(keys, layer.k_norm.data(), shape_.kv_width(), shape_.norm_epsilon, keys);
    for (int head = 0; head < shape_.n_heads; ++head) {
      turn(index, row, queries + ptrdiff_t{head} * head_size, shape_.score_scale);
    }
    const Row& at = scratch.rows[static_cast<size_t>(row)];
    for (int head = 0; head < shape_.n_kv_heads; ++head) {
      float* key = keys + ptrdiff_t{head} * head_size;
      turn(index, row, key, 1.0f);
      kernels_->store_key(key, head_size, at.position % kBlockTokens, kv_type_, kv_at(keys_, index, at.kv_block, head));
    }
  });
}

void Model::attend_piece(const AttentionTask& task, int window, int index, int thread, int piece, const Partial& out) {
  const Scratch& scratch = *scratch_;
  const int group = shape_.group();
  kernels_->attend({.queries = scratch.queries.row(task.first_row) + task.kv_head * group * shape_.head_size,
                    .query_stride = shape_.query_width(),
                    .n_rows = task.n_rows,
                    .group = group,
                    .head_size = shape_.head_size,
                    .first_position = task.first_position,
                    .key_begin = piece_begin(piece),
                    .key_end = piece_begin(piece + 1),
                    .window = window,
                    .softcap = shape_.score_softcap,
                    .block_table = task.block_table,
                    .keys = kv_at(keys_, index, 0, task.kv_head),
                    .values = kv_at(values_, index, 0, task.kv_head),
                    .block_stride = kv_part_bytes(kv_type_, shape_.head_size),
                    .kv_type = kv_type_,
                    .scratch = scratch.threads[static_cast<size_t>(thread)].attention.as<float>(),
                    .maximum = out.maximum,
                    .sum = out.sum,
                    .accumulator = out.accumulator});
}

// Joins a later piece to what the rows have so far. A row begins with the first piece that it sees keys of, as it would
// alone.
void Model::merge_piece(const AttentionTask& task, int window, int piece, const Partial& total, const Partial& other) {
  const int head_size = shape_.head_size;
  const int group = shape_.group();
  for (int row = 0; row < task.n_rows; ++row) {
    const int position = task.first_position + row;
    const int first_piece = piece_of(first_seen(position, window));
    if (piece < first_piece || position < piece_begin(piece)) continue;
    for (int i = row * group; i < (row + 1) * group; ++i) {
      float* sums = total.accumulator + ptrdiff_t{i} * head_size;
      const float* other_sums = other.accumulator + ptrdiff_t{i} * head_size;
      if (piece == first_piece) {
        total.maximum[i] = other.maximum[i];
        total.sum[i] = other.sum[i];
        std::memcpy(sums, other_sums, static_cast<size_t>(head_size) * sizeof(float));
      } else {
        kernels_->merge(total.maximum + i, total.sum + i, sums, other.maximum[i], other.sum[i], other_sums, head_size);
      }
    }
  }
}

void Model::end_attention(const AttentionTask& task, const Layer& layer, const Partial& total) {
  const ActivationForms& attended = scratch_->attended;
  const int head_size = shape_.head_size;
  const int group = shape_.group();
  const int span = group * head_size;
  const int at = task.kv_head * span;
  for (int row = 0; row < task.n_rows; ++row) {
    float* out = attended.once.row_values(task.first_row + row) + at;
    for (int head = 0; head < group; ++head) {
      const int i = row * group + head;
      float* sums = total.accumulator + ptrdiff_t{i} * head_size;
      if (shape_.sinks) {  // a piece of one key whose value is zero
        const float sink = layer.sinks[static_cast<size_t>(task.kv_head * group + head)];
        kernels_->merge(total.maximum + i, total.sum + i, sums, sink, 1.0f, scratch_->no_value.data(), head_size);
      }
      kernels_->divide(sums, total.sum[i], head_size, out + head * head_size);
    }
    quantize_for(layer.o, attended, task.first_row + row, at, span);
  }
}

// The task's pieces, joined in order.
void Model::attend_pieces(const AttentionTask& task, int window, int index, int thread, const Partial& total) {
  float* own = scratch_->threads[static_cast<size_t>(thread)].partials.as<float>();
  const Partial later = partial_at(own + partial_floats(kAttentionRows, shape_), task, shape_.group());
  attend_piece(task, window, index, thread, task.begin, total);
  for (int piece = task.begin + 1; piece < task.end; ++piece) {
    attend_piece(task, window, index, thread, piece, later);
    merge_piece(task, window, piece, total, later);
  }
}

void Model::attend(const Layer& layer, int index) {
  const PhaseTimer timer(phases_, Phase::attention);
  Scratch& scratch = *scratch_;
  AttentionPlan& plan = scratch.plans[static_cast<size_t>(layer.attention_plan)];
  pool_.run(static_cast<int>(plan.tasks.size()), [&](int chunk, int thread) {
    const AttentionTask& task = plan.tasks[static_cast<size_t>(chunk)];
    const int group = shape_.group();
    if (task.n_tasks == 1) {
      const Partial total = partial_at(scratch.threads[static_cast<size_t>(thread)].partials.as<float>(), task, group);
      attend_pieces(task, plan.window, index, thread, total);
      end_attention(task, layer, total);
      return;
    }
    const auto partial = [&](int i) {
      const auto size = static_cast<ptrdiff_t>(partial_floats(task.n_rows, shape_));
      return partial_at(scratch.partials.as<float>() + task.partials + i * size, task, group);
    };
    attend_pieces(task, plan.window, index, thread, partial(task.index));
    // Whoever finishes the group's last task joins them, in order of position.
    auto& finished = plan.finished[static_cast<size_t>(task.group_index)];
    if ((finished.fetch_add(1, std::memory_order_acq_rel) + 1) % task.n_tasks != 0) return;
    for (int i = 1; i < task.n_tasks; ++i) {
      merge_piece(task, plan.window, task.group_end - task.n_tasks + i, partial(0), partial(i));
    }
    end_attention(task, layer, partial(0));
  });
}

}  // namespace stoker
