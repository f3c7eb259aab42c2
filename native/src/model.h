// A decoder-only transformer: packed weights, paged KV cache, threads, and the forward pass over a batch.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "kernels.h"
#include "sampler.h"
#include "thread_pool.h"

namespace stoker {

struct ModelShape {
  int n_layers;
  int width;
  int n_heads;
  int n_kv_heads;
  int head_size;
  int ffn_width;
  int vocab_size;
  int context_length;
  std::vector<float> frequencies;  // radians a position of each rotary pair, [head_size / 2]
  float norm_epsilon;

  int group() const { return n_heads / n_kv_heads; }
};

struct ModelOptions {
  std::string isa = "auto";
  int n_threads = 1;
  int kv_blocks = 0;        // KV blocks of 16 tokens in all
  int max_step_tokens = 0;  // most tokens in one forward
  int max_step_seqs = 0;    // most sequences in one forward
  bool float_path = false;  // fp32 weights, activations and KV, for checking
};

// Tokens whose log-probability after a row of the batch is wanted.
struct PromptScores {
  int n;
  const int32_t* rows;    // [n] ascending, into the batch's tokens
  const int32_t* tokens;  // [n] each one's own
  const int32_t* n_tops;  // [n] how many of the most likely tokens to report beside it
  Sample* out;            // [n]
};

// One forward's work, as flat arrays that the caller keeps alive. See stoker.core.step.StepPlan.
struct Batch {
  int n_seqs;
  const int32_t* tokens;           // all runs, one after the other
  const int32_t* run_starts;       // [n_seqs + 1] into tokens
  const int32_t* first_positions;  // [n_seqs]
  const int32_t* block_tables;     // all tables, one after the other
  const int32_t* table_starts;     // [n_seqs + 1] into block_tables
  const uint8_t* samples;          // [n_seqs] 1 where the token after the run is sampled
  const SampleParams* params;      // [n_seqs]
  const PromptScores* scores = nullptr;
};

struct Layer {
  std::vector<float> attn_norm, ffn_norm;
  PackedMatrix q, k, v, o, gate, up, down;
};

struct Scratch;  // buffers of one forward, in model_scratch.h

class Model {
 public:
  // Throws std::invalid_argument for a shape that the kernels cannot run, std::bad_alloc.
  Model(const ModelShape& shape, const ModelOptions& options);
  ~Model();

  const ModelShape& shape() const { return shape_; }
  const char* isa() const { return kernels_->name; }
  int n_threads() const { return pool_.size(); }
  uint64_t progress() const { return pool_.regions(); }  // grows while a forward computes; for any thread
  size_t weight_bytes() const;
  size_t kv_bytes() const { return keys_.size() + values_.size(); }

  // `name` is embedding, output, q, k, v, o, gate, up or down; `layer` is ignored for the first two. Rows and
  // columns follow from the shape; `size` must match them. Throws std::invalid_argument.
  void set_matrix(const std::string& name, int layer, const std::string& type, const uint8_t* data, size_t size,
                  bool adjacent_pairs);
  // `name` is attn_norm, ffn_norm or output_norm.
  void set_norm(const std::string& name, int layer, const float* data, size_t count);
  // In place of set_matrix: packed bytes as `packed_matrix` has shown them, of a model of this shape and these options.
  // They must outlive the model. Throws std::invalid_argument.
  void map_matrix(const std::string& name, int layer, const std::string& weight_type, const uint8_t* bytes,
                  size_t size);
  // The matrix as it is held. Throws std::invalid_argument when it has not been set.
  const PackedMatrix& packed_matrix(const std::string& name, int layer);
  // Throws std::invalid_argument when something has not been set. Without an output matrix the embedding serves.
  void finish();

  // Computes the batch's tokens into the KV cache and samples. samples_out has n_seqs entries, written where
  // batch.samples is 1. Throws std::invalid_argument for a batch that breaks the rules; nothing is computed then.
  void forward(const Batch& batch, Sample* samples_out);

  // The same without sampling: raw logits of every row, [n_tokens][vocab_size]. For checks.
  void logits(const Batch& batch, float* out);

 private:
  struct MatrixSlot {
    PackedMatrix* matrix;
    int rows, columns, heads;
  };
  // Throws std::invalid_argument for an unknown name or layer.
  MatrixSlot matrix_slot(const std::string& name, int layer);
  void check(const Batch& batch) const;
  void plan_rows(const Batch& batch);
  void plan_attention(const Batch& batch);
  void run_layers(const Batch& batch);
  struct Precision {
    bool int8;   // a product wants normed activations at 8 bits
    bool int16;  // or at 16
  };
  void normalize(const float* x, const std::vector<float>& weight, int n_rows, Precision wanted);
  void precise_product(const PackedMatrix& matrix, int row_begin, int row_end, int block_begin, int block_end,
                       int thread, float* out, ptrdiff_t stride);
  void project_qkv(const Layer& layer, int index);
  void attend(int index, bool quantized);
  void add_product(const PackedMatrix& matrix, const Activations& input);
  void feed_forward(const Layer& layer);
  void output_logits(const std::vector<int>& rows);
  void check_scores(const Batch& batch) const;
  void score_prompts(const Batch& batch);

  ModelShape shape_;
  ModelOptions options_;
  const Kernels* kernels_;
  ThreadPool pool_;
  KvType kv_type_;
  Memory keys_, values_;              // [layer][block][kv head][head_size * 16]
  std::vector<float> cosine_, sine_;  // [position][head_size / 2]
  std::vector<float> output_norm_;
  PackedMatrix embedding_, output_;
  std::vector<Layer> layers_;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace stoker
