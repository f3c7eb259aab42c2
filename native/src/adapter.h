// Low-rank adapters: what is added to a model's products for the rows that ask for it.
//
// A matrix W becomes W + scale * up * down, with `down` of rank x inputs and `up` of outputs x rank. Both are held as
// PackedMatrix, in bf16 (the published adapters' own type; it halves what a step has to read), or in fp32 on the float
// path.
//
// Bottlenecks are another kind: small networks behind the halves of a layer. An adapter may have either, or both.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "weights.h"

namespace stoker {

// The matrices of a layer that an adapter may change.
enum class Target { q, k, v, o, gate, up, down };

constexpr int kTargets = 7;
constexpr std::array<const char*, kTargets> kTargetNames = {"q", "k", "v", "o", "gate", "up", "down"};
constexpr int kMaxAdapterRank = 512;

struct AdapterMatrix {
  PackedMatrix down, up;  // over the adapter's memory
  float scale = 0.0f;

  int rank() const { return up.k; }  // 0 where the matrix is left alone
};

// The halves of a layer.
enum class Half { attention, feed_forward };

constexpr int kHalves = 2;
constexpr std::array<const char*, kHalves> kHalfNames = {"attention", "feed_forward"};

enum class Bend { relu, silu, gelu_tanh };

constexpr int kBends = 3;
constexpr std::array<const char*, kBends> kBendNames = {"relu", "silu", "gelu_tanh"};

// Adds scale * (up bend(down x + bias) + up_bias) to the residual stream behind a half of a layer, where x is what that
// half has added to the stream, or the stream with it. Where a half is normed before it is added, x is what it gives,
// and is added to before the norm.
struct Bottleneck {
  PackedMatrix down, up;    // `up` has up_bias as one more column
  std::vector<float> bias;  // padded to whole column blocks
  float scale = 0.0f;
  Bend bend = Bend::relu;
  bool of_stream = false;

  int rank() const { return down.n; }  // 0 where there is none
};

class Adapter {
 public:
  // Throws std::invalid_argument.
  Adapter(int n_layers, bool float_path);
  Adapter(const Adapter&) = delete;
  Adapter& operator=(const Adapter&) = delete;

  // `down` is [rank][n_inputs], `up` is [n_outputs][rank]; heads of q and k keep rotary pairs as halves. Throws
  // std::invalid_argument for a name, layer or size that cannot be, a number that is not finite, or one that is not in
  // bf16; std::bad_alloc.
  void set(const std::string& target, int layer, const float* down, const float* up, int rank, int n_inputs,
           int n_outputs, float scale);

  // Likewise: `down` is [rank][width], `up` is [width][rank].
  void set_bottleneck(const std::string& half, int layer, const float* down, const float* bias, const float* up,
                      const float* up_bias, int rank, int width, float scale, const std::string& bend, bool of_stream);

  const Bottleneck& bottleneck(int layer, Half half) const {
    return bottlenecks_[static_cast<size_t>(layer) * kHalves + static_cast<size_t>(half)];
  }
  int bottleneck_width() const { return bottleneck_width_; }  // 0 without bottlenecks
  const AdapterMatrix& at(int layer, Target target) const {
    return matrices_[static_cast<size_t>(layer) * kTargets + static_cast<size_t>(target)];
  }
  int n_layers() const { return n_layers_; }
  int max_rank() const { return max_rank_; }
  bool reads_stream() const { return reads_stream_; }  // a bottleneck does
  bool has_matrices() const { return has_matrices_; }  // false where it is bottlenecks alone
  size_t bytes() const { return bytes_; }

 private:
  uint8_t* take(size_t size);
  PackedMatrix pack_floats(const float* values, int n, int k, const std::string& label);

  int n_layers_;
  bool float_path_;
  int max_rank_ = 0;
  bool has_matrices_ = false;
  bool reads_stream_ = false;
  int bottleneck_width_ = 0;
  size_t bytes_ = 0;
  // Matrices stand close together in few large pieces: a process has some ten thousand mappings, an adapter hundreds of
  // matrices, and those that a step reads are on few pages.
  std::vector<Memory> pieces_;
  size_t piece_used_ = 0;
  std::vector<AdapterMatrix> matrices_;  // [layer][target]
  std::vector<Bottleneck> bottlenecks_;  // [layer][half]
};

}  // namespace stoker
