// A decoder-only transformer: packed weights, paged KV cache, threads, and the forward pass over a batch.
#pragma once
#include <initializer_list>
#include <memory>
#include <string>
#include <vector>

#include "adapter.h"
#include "kernels.h"
#include "phases.h"
#include "sampler.h"
#include "shape.h"
#include "thread_pool.h"

namespace stoker {

constexpr int kMaxAdapters = 1024;  // slots for them

struct ModelOptions {
  std::string isa = "auto";
  int n_threads = 1;
  int kv_blocks = 0;        // KV blocks of 16 tokens in all
  int max_step_tokens = 0;  // most tokens in one forward
  int max_step_seqs = 0;    // most sequences in one forward
  bool float_path = false;  // fp32 weights and activations, for checking
  // f16, bf16, q8 or f32; or auto: f32 for the float path, else what the instruction-set path is fastest with
  std::string kv_type = "auto";
};

// Tokens whose log-probability after a row of the batch is wanted.
struct PromptScores {
  int n;
  const int32_t* rows;    // [n] not descending, into the batch's tokens: several tokens may come after one row
  const int32_t* tokens;  // [n] each one's own
  const int32_t* n_tops;  // [n] how many of the most likely tokens to report beside it
  Sample* out;            // [n]
};

// Hidden states behind the last norm that are added to sums.
struct Pools {
  int n;
  const int32_t* begins;  // [n] rows, into the batch's tokens
  const int32_t* ends;    // [n]
  double* sums;           // [n, width]
};

// One forward's work, as flat arrays that the caller keeps alive. See stoker.core.step.StepPlan.
struct Batch {
  int n_seqs;
  const int32_t* tokens;           // all runs, one after the other
  const int32_t* run_starts;       // [n_seqs + 1] into tokens
  const int32_t* first_positions;  // [n_seqs]
  const int32_t* block_tables;     // all tables, one after the other
  const int32_t* table_starts;     // [n_seqs + 1] into block_tables
  // [n_seqs] how many tokens are sampled: 0, 1 for the token after the run, or 1 more than the run has drafts at its
  // end
  const int32_t* samples;
  const SampleParams* params;  // [n_seqs]
  const PromptScores* scores = nullptr;
  const Pools* pools = nullptr;
  const int32_t* adapters = nullptr;  // [n_seqs] the slot of each one's adapter, -1 for none; null if nobody has one
  // [n_layers] not 0 for layers that are left out, whose keys and values stay as they are; null to compute all
  const uint8_t* skipped = nullptr;
};

// What the shape has no use for stays empty. The matrices gate, up and down, and their biases, hold those of all
// experts one after the other.
struct Layer {
  std::vector<float> attn_norm, ffn_norm, post_attn_norm, post_ffn_norm;
  std::vector<float> q_norm, k_norm, q_bias, k_bias, v_bias, o_bias, sinks;
  std::vector<float> router_bias, gate_bias, up_bias, down_bias;
  PackedMatrix q, k, v, o, router, gate, up, down;
  int index = 0;           // of the layer
  int attention_plan = 0;  // index into Scratch::plans
};

// A matrix of the model, and what must be packed into it.
struct MatrixSlot {
  const char* name;
  int layer;  // -1 for one of the whole model
  PackedMatrix* matrix;
  int rows;
  int columns;
  PackOptions options;  // of a file whose rotary pairs are neighbours
};

// A norm, bias or the like.
struct VectorSlot {
  const char* name;
  int layer;
  std::vector<float>* values;
  int size;
  int rotary_head;   // > 0: elements belong to heads of this size, as the rows of q or k do
  int rotary_pairs;  // of each head
};

struct Scratch;  // buffers of one forward, in model_scratch.h
struct AttentionTask;
struct AttentionPlan;
struct Partial;
struct ActivationBuffer;
struct ActivationForms;
struct FloatRows;
struct Chunks;  // in parallel.h

class Model {
 public:
  // Throws std::invalid_argument for a shape that the kernels cannot run, std::bad_alloc.
  Model(const ModelShape& shape, const ModelOptions& options);
  ~Model();

  const ModelShape& shape() const { return shape_; }
  const char* isa() const { return kernels_->name; }
  KvType kv_type() const { return kv_type_; }
  int n_threads() const { return pool_.size(); }
  uint64_t progress() const { return pool_.regions(); }  // grows while a forward computes; for any thread
  // Not while a forward computes. Turning it on starts anew.
  void time_phases(bool on) { phases_.turn(on); }
  const std::array<PhaseTime, kPhases>& phase_times() const { return phases_.times(); }
  size_t weight_bytes() const;
  size_t kv_bytes() const { return keys_.size() + values_.size(); }
  size_t step_bytes() const;  // of the buffers that grow with a step's largest number of tokens and sequences

  // Everything that the shape has and that is to be set, in a fixed order.
  const std::vector<MatrixSlot>& matrices() const { return matrices_; }
  const std::vector<VectorSlot>& vectors() const { return vectors_; }

  // Matrices are embedding, output, and a layer's q, k, v, o, router, gate, up and down; `layer` is ignored for the
  // first two. Vectors are output_norm, and a layer's members of those names in Layer. Sizes follow from the shape and
  // must match. Of q, k and what belongs to them, `adjacent_pairs` says that rotary pairs are neighbours.
  // Throw std::invalid_argument.
  void set_matrix(const std::string& name, int layer, const std::string& type, const uint8_t* data, size_t size,
                  bool adjacent_pairs);
  void set_vector(const std::string& name, int layer, const float* data, size_t count, bool adjacent_pairs);
  // In place of set_matrix: packed bytes as `packed_matrix` has shown them, of a model of this shape and these options.
  // They must outlive the model. Throws std::invalid_argument.
  void map_matrix(const std::string& name, int layer, const std::string& weight_type, const uint8_t* bytes,
                  size_t size);
  // The matrix as it is held. Throws std::invalid_argument when it has not been set.
  const PackedMatrix& packed_matrix(const std::string& name, int layer) const;
  // How many bits the activations that a matrix is multiplied with have, 8 or 16, if its weights are u4 or u8: 16 costs
  // twice the integer products. At first 16 for v and whatever gives the logits, 8 for the others. Not while a forward
  // computes. Throws std::invalid_argument, std::bad_alloc.
  void set_activation_bits(const std::string& name, int layer, int bits);
  int activation_bits(const std::string& name, int layer) const;
  // Throws std::invalid_argument when something that the shape has is not set.
  void finish() const;

  // Puts an adapter into a slot, or empties it with null. Not while a forward computes. Throws std::invalid_argument
  // for one that does not fit this shape; std::bad_alloc.
  void set_adapter(int slot, std::shared_ptr<const Adapter> adapter);

  // Computes the batch's tokens into the KV cache and samples. samples_out has an entry for each token to be sampled,
  // those of a sequence in order of position. After the first that is another than the draft in its place, a sequence's
  // tokens are -1. Throws std::invalid_argument for a batch that breaks the rules; nothing is computed then.
  void forward(const Batch& batch, Sample* samples_out);

  // The same without sampling: raw logits of every row, [n_tokens][vocab_size]. For checks.
  void logits(const Batch& batch, float* out);

  // Bytes of a KV block outside of the model: everything that it holds, layer after layer, keys before values.
  size_t kv_block_bytes() const;
  // Copy KV blocks to and from slots of `kv_block_bytes()` each, slots[i] for blocks[i]; each block and slot once.
  // `size` is that of the memory in which the slots are. Throw std::invalid_argument for a block or slot that does not
  // exist; nothing is copied then.
  void save_blocks(const int32_t* blocks, const int32_t* slots, size_t n, uint8_t* memory, size_t size);
  void load_blocks(const int32_t* blocks, const int32_t* slots, size_t n, const uint8_t* memory, size_t size);

 private:
  void list_slots();
  void list_layer_slots(int index);
  void want_twice(const MatrixSlot& slot);

  void check(const Batch& batch) const;
  void check_pools(const Batch& batch) const;
  void check_scores(const Batch& batch) const;
  void plan_rows(const Batch& batch);
  void plan_adapters(const Batch& batch);
  void plan_attention(const Batch& batch);
  void plan_tasks(const Batch& batch, AttentionPlan& plan) const;
  int tasks_per_group(const std::vector<AttentionTask>& groups) const;

  void run_layers(const Batch& batch);
  void embed(const Batch& batch);
  void compute_angles();
  struct Precision {
    bool int8;   // a product wants normed activations at 8 bits
    bool int16;  // or at 16
  };
  void normalize(const std::vector<float>& weight, int n_rows, Precision wanted);
  void quantize_for(const PackedMatrix& matrix, const ActivationForms& forms, int row, int begin, int n);
  void keep_group(const PackedMatrix& matrix, const ActivationForms& forms, int row_begin, int row_end, int begin,
                  const float* values);
  void product(const PackedMatrix& matrix, const ActivationForms& input, int row_begin, int row_end, int block_begin,
               int block_end, int thread, float* out, ptrdiff_t stride);
  void want_low(int rank);
  void adapt_down(int layer, std::initializer_list<Target> targets, const ActivationBuffer& input);
  void adapt(int layer, Target target, int place, int row_begin, int row_end, int block_begin, int block_end,
             float* out, ptrdiff_t stride) const;
  void look_ahead(int layer, Target first, Target last, int block_begin, int block_end, const Chunks& chunks, int chunk,
                  int unit, int thread);
  void want_bottlenecks(const Adapter& adapter);
  bool plan_bottlenecks(int layer, Half half);
  void keep_streams(int layer, Half half);
  void add_bottlenecks(int layer, Half half, FloatRows& out);
  void bend(const Bottleneck& bottleneck, float* low) const;
  void add_product(const Layer& layer, Target target, const ActivationForms& input);
  void add_branch(const std::vector<float>& post_norm);

  void check_transfer(const int32_t* blocks, const int32_t* slots, size_t n, size_t size) const;
  template <class Copy>
  void for_parts(int block, Copy&& copy) const;
  uint8_t* kv_at(const Memory& memory, int layer, int block, int head) const;
  void turn(int layer, int row, float* head, float scale) const;
  void project_qkv(const Layer& layer, int index);
  void norm_rows_of_heads(const Layer& layer, int index);
  void attend(const Layer& layer, int index);
  void attend_pieces(const AttentionTask& task, int window, int index, int thread, const Partial& total);
  void attend_piece(const AttentionTask& task, int window, int index, int thread, int piece, const Partial& out);
  void merge_piece(const AttentionTask& task, int window, int piece, const Partial& total, const Partial& other);
  void end_attention(const AttentionTask& task, const Layer& layer, const Partial& total);

  void feed_forward(const Layer& layer);
  void inner_group(const Layer& layer, const ActivationForms& input, int row_begin, int row_end, int expert, int unit,
                   int thread);
  void feed_experts(const Layer& layer);
  void route(const Layer& layer);
  void choose_experts(const Layer& layer, int row, int thread);
  void group_by_expert(const Layer& layer);

  void output_logits(const std::vector<int>& rows);
  void pool_prompts(const Batch& batch);
  void score_prompts(const Batch& batch);
  void sample_runs(const Batch& batch, Sample* samples_out);

  ModelShape shape_;
  ModelOptions options_;
  const Kernels* kernels_;
  Activate* activate_;
  ThreadPool pool_;
  PhaseClock phases_{pool_};
  KvType kv_type_;
  Memory keys_, values_;  // [layer][kv head][block] parts of kv_part_bytes
  std::vector<float> output_norm_;
  PackedMatrix embedding_, output_;
  std::vector<Layer> layers_;
  std::vector<std::shared_ptr<const Adapter>> adapters_;  // by slot
  std::vector<MatrixSlot> matrices_;                      // these point into the members above
  std::vector<VectorSlot> vectors_;
  std::unique_ptr<Scratch> scratch_;
};

}  // namespace stoker
