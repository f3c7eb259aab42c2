// The Python module stoker._native. Arrays are checked for type and contiguity here, for meaning in Model.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <stdexcept>
#include <utility>

#include "adapter.h"
#include "bindings.h"
#include "bindings_batch.h"
#include "bindings_edits.h"
#include "decode.h"
#include "model.h"

namespace nb = nanobind;

namespace stoker {

namespace {

using Slots = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;  // to be written
template <class T, size_t kDims>
using Result = nb::ndarray<nb::numpy, T, nb::ndim<kDims>>;

template <class T, size_t kDims>
Result<T, kDims> make_array(const std::array<size_t, kDims>& shape, T*& data) {
  size_t size = 1;
  for (size_t dim : shape) size *= dim;
  data = new T[std::max<size_t>(size, 1)]();
  return Result<T, kDims>(data, kDims, shape.data(),
                          nb::capsule(data, [](void* p) noexcept { delete[] static_cast<T*>(p); }));
}

// (tokens, logprobs, top_tokens, top_logprobs)
nb::tuple make_result(const std::vector<Sample>& samples) {
  const size_t n = samples.size();
  int32_t* tokens = nullptr;
  float* logprobs = nullptr;
  int32_t* top_tokens = nullptr;
  float* top_logprobs = nullptr;
  auto tokens_array = make_array<int32_t, 1>({n}, tokens);
  auto logprobs_array = make_array<float, 1>({n}, logprobs);
  auto top_tokens_array = make_array<int32_t, 2>({n, kMaxLogprobs}, top_tokens);
  auto top_logprobs_array = make_array<float, 2>({n, kMaxLogprobs}, top_logprobs);
  for (size_t s = 0; s < n; ++s) {
    tokens[s] = samples[s].token;
    logprobs[s] = samples[s].logprob;
    std::copy_n(samples[s].top_tokens, kMaxLogprobs, top_tokens + s * kMaxLogprobs);
    std::copy_n(samples[s].top_logprobs, kMaxLogprobs, top_logprobs + s * kMaxLogprobs);
  }
  return nb::make_tuple(tokens_array, logprobs_array, top_tokens_array, top_logprobs_array);
}

// Model with a lock: Python may call from any thread while a step runs without the interpreter lock.
class PyModel {
 public:
  PyModel(const ModelShape& shape, const ModelOptions& options) : model_(shape, options), options_(options) {}

  void set_matrix(const std::string& name, int layer, const std::string& type, Array<uint8_t> data,
                  bool adjacent_pairs) {
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    model_.set_matrix(name, layer, type, data.data(), data.size(), adjacent_pairs);
  }

  // Keeps `bytes` alive as long as the model.
  void map_matrix(const std::string& name, int layer, const std::string& weight_type, Array<uint8_t> bytes) {
    const std::lock_guard lock(mutex_);
    model_.map_matrix(name, layer, weight_type, bytes.data(), bytes.size());
    mapped_.push_back(std::move(bytes));
  }

  void set_activation_bits(const std::string& name, int layer, int bits) {
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    model_.set_activation_bits(name, layer, bits);
  }

  int activation_bits(const std::string& name, int layer) {
    const std::lock_guard lock(mutex_);
    return model_.activation_bits(name, layer);
  }

  // Type and bytes of a matrix; the array is a view of them.
  nb::tuple packed_matrix(const std::string& name, int layer) {
    const std::lock_guard lock(mutex_);
    const PackedMatrix& matrix = model_.packed_matrix(name, layer);
    const size_t shape[1] = {matrix.bytes()};
    return nb::make_tuple(weight_type_name(matrix.type),
                          nb::ndarray<nb::numpy, const uint8_t, nb::ndim<1>>(matrix.memory.as<const uint8_t>(), 1,
                                                                             shape, nb::find(this)));
  }

  void set_vector(const std::string& name, int layer, Array<float> data, bool adjacent_pairs) {
    const std::lock_guard lock(mutex_);
    model_.set_vector(name, layer, data.data(), data.size(), adjacent_pairs);
  }

  void finish() {
    const std::lock_guard lock(mutex_);
    model_.finish();
    finished_ = true;
  }

  // Forwards of several steps end after the step during which the flag's byte is not 0; any thread may write it.
  void heed(Array<uint8_t> flag) {
    if (flag.size() != 1) throw std::invalid_argument("the flag must be one byte");
    const std::lock_guard lock(mutex_);
    flag_ = std::move(flag);
  }

  // In place between two forwards: what takes long has been done by whoever made the adapter.
  void set_adapter(int slot, std::shared_ptr<Adapter> adapter) {
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    model_.set_adapter(slot, std::move(adapter));
  }

  // Samples come step after step, each of all sequences that sample, in order.
  nb::tuple forward(const BatchArrays& arrays, const SamplingArrays& sampling, const PyLogitEdits* edits,
                    const PyPromptScores* wanted_scores, const PySteps* steps, const PyPools* wanted_pools,
                    const Array<int32_t>& adapters, const Array<uint8_t>& skipped) {
    Batch batch = arrays.view();
    attach_adapters(batch, adapters);
    attach_skipped(batch, skipped);
    std::vector<SampleParams> params = sampling.params(batch);
    if (edits != nullptr) edits->attach(params);
    batch.samples = sampling.samples.data();
    batch.params = params.data();
    std::vector<Sample> samples(sampling.n_samples());
    std::vector<Sample> scored;
    PromptScores scores{};
    if (wanted_scores != nullptr) {
      scores = wanted_scores->view(scored);
      batch.scores = &scores;
    }
    Pools pools{};
    if (wanted_pools != nullptr) {
      if (steps != nullptr) throw std::invalid_argument("a forward of several steps pools nothing");
      pools = wanted_pools->view(model_.shape().width);
      batch.pools = &pools;
    }
    const DecodeLimits limits =
        steps == nullptr ? DecodeLimits{} : steps->view(batch, flag_.is_valid() ? flag_.data() : nullptr);
    {
      const nb::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      require_finished();
      if (steps == nullptr) {
        model_.forward(batch, samples.data());
      } else {
        samples = decode(model_, batch, limits);
      }
    }
    return nb::tuple(make_result(samples) + make_result(scored));
  }

  Result<float, 2> logits(const BatchArrays& arrays, const Array<int32_t>& adapters) {
    Batch batch = arrays.view();
    attach_adapters(batch, adapters);
    float* out = nullptr;
    auto result = make_array<float, 2>({arrays.tokens.size(), static_cast<size_t>(model_.shape().vocab_size)}, out);
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    require_finished();
    model_.logits(batch, out);
    return result;
  }

  void time_phases(bool on) {
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    model_.time_phases(on);
  }

  nb::dict phase_times() {
    std::array<PhaseTime, kPhases> times;
    {
      const nb::gil_scoped_release release;
      const std::lock_guard lock(mutex_);
      times = model_.phase_times();
    }
    nb::dict out;
    for (size_t i = 0; i < times.size(); ++i) {
      out[kPhaseNames[i]] =
          nb::make_tuple(static_cast<double>(times[i].wall_ns) * 1e-9, static_cast<double>(times[i].idle_ns) * 1e-9);
    }
    return out;
  }

  void save_blocks(Array<int32_t> blocks, Array<int32_t> slots, Slots memory) {
    require_pairs(blocks, slots);
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    model_.save_blocks(blocks.data(), slots.data(), blocks.size(), memory.data(), memory.size());
  }

  void load_blocks(Array<int32_t> blocks, Array<int32_t> slots, Array<uint8_t> memory) {
    require_pairs(blocks, slots);
    const nb::gil_scoped_release release;
    const std::lock_guard lock(mutex_);
    model_.load_blocks(blocks.data(), slots.data(), blocks.size(), memory.data(), memory.size());
  }

  int width() const { return model_.shape().width; }
  int n_layers() const { return model_.shape().n_layers(); }
  const char* isa() const { return model_.isa(); }
  const char* kv_type() const { return kv_type_name(model_.kv_type()); }
  int n_threads() const { return model_.n_threads(); }
  uint64_t progress() const { return model_.progress(); }
  int kv_blocks() const { return options_.kv_blocks; }
  size_t weight_bytes() const { return model_.weight_bytes(); }
  size_t kv_bytes() const { return model_.kv_bytes(); }
  size_t step_bytes() const { return model_.step_bytes(); }
  size_t kv_block_bytes() const { return model_.kv_block_bytes(); }

 private:
  static void attach_adapters(Batch& batch, const Array<int32_t>& adapters) {
    if (!adapters.is_valid()) return;
    if (adapters.size() != static_cast<size_t>(batch.n_seqs)) {
      throw std::invalid_argument("adapters must have one entry per sequence");
    }
    batch.adapters = adapters.data();
  }

  void attach_skipped(Batch& batch, const Array<uint8_t>& skipped) const {
    if (!skipped.is_valid()) return;
    if (skipped.size() != static_cast<size_t>(model_.shape().n_layers())) {
      throw std::invalid_argument("layers to skip must have one entry per layer");
    }
    batch.skipped = skipped.data();
  }

  static void require_pairs(const Array<int32_t>& blocks, const Array<int32_t>& slots) {
    if (blocks.size() != slots.size()) throw std::invalid_argument("every block must have a slot");
  }

  void require_finished() const {
    if (!finished_) throw std::invalid_argument("finish() has not been called");
  }

  std::vector<Array<uint8_t>> mapped_;  // outlives what points into it
  Array<uint8_t> flag_;
  Model model_;
  ModelOptions options_;
  std::mutex mutex_;
  bool finished_ = false;
};

}  // namespace

}  // namespace stoker

NB_MODULE(_native, m) {
  using namespace stoker;
  m.doc() = "The C++ compute library: weights, KV cache, forward pass and sampling.";
  m.attr("MAX_LOGPROBS") = kMaxLogprobs;
  m.attr("PACK_LAYOUT") = kPackLayout;
  m.def("available_isas", [] {
    std::vector<std::string> names;
    for (const Kernels* kernels : available_kernels()) names.emplace_back(kernels->name);
    return names;
  });

  m.def(
      "fastest_kv_type", [](const std::string& isa) { return kv_type_name(find_kernels(isa).kv_type); },
      nb::arg("isa"));
  m.def(
      "kv_part_bytes",
      [](const std::string& kv_type, int head_size) { return kv_part_bytes(kv_type_named(kv_type), head_size); },
      nb::arg("kv_type"), nb::arg("head_size"));

  bind_edits(m);
  bind_shape(m);
  bind_batch(m);
  bind_adapters(m);
  nb::class_<PyModel>(m, "Model")
      .def(
          "__init__",
          [](PyModel* self, const ModelShape& shape, const std::string& isa, int n_threads, int kv_blocks,
             int max_step_tokens, int max_step_seqs, bool float_path, const std::string& kv_type) {
            new (self) PyModel(shape, {isa, n_threads, kv_blocks, max_step_tokens, max_step_seqs, float_path, kv_type});
          },
          nb::arg("shape"), nb::kw_only(), nb::arg("isa"), nb::arg("n_threads"), nb::arg("kv_blocks"),
          nb::arg("max_step_tokens"), nb::arg("max_step_seqs"), nb::arg("float_path"), nb::arg("kv_type") = "auto")
      .def("set_matrix", &PyModel::set_matrix, nb::arg("name"), nb::arg("layer"), nb::arg("dtype"), nb::arg("data"),
           nb::arg("adjacent_pairs"))
      .def("map_matrix", &PyModel::map_matrix, nb::arg("name"), nb::arg("layer"), nb::arg("weight_type"),
           nb::arg("packed"))
      .def("set_activation_bits", &PyModel::set_activation_bits, nb::arg("name"), nb::arg("layer"), nb::arg("bits"))
      .def("activation_bits", &PyModel::activation_bits, nb::arg("name"), nb::arg("layer"))
      .def("packed_matrix", &PyModel::packed_matrix, nb::arg("name"), nb::arg("layer"))
      .def("set_vector", &PyModel::set_vector, nb::arg("name"), nb::arg("layer"), nb::arg("data"),
           nb::arg("adjacent_pairs"))
      .def("finish", &PyModel::finish)
      .def("heed", &PyModel::heed, nb::arg("flag"))
      .def(
          "forward",
          [](PyModel& self, Array<int32_t> tokens, Array<int32_t> run_starts, Array<int32_t> first_positions,
             Array<int32_t> block_tables, Array<int32_t> table_starts, Array<int32_t> samples, Array<float> temperature,
             Array<int32_t> top_k, Array<float> top_p, Array<float> min_p, Array<uint64_t> seed, Array<uint32_t> choice,
             Array<int32_t> n_logprobs, const PyLogitEdits* edits, const PyPromptScores* scores, const PySteps* steps,
             const PyPools* pools, Array<int32_t> adapters, Array<uint8_t> skipped) {
            return self.forward({tokens, run_starts, first_positions, block_tables, table_starts},
                                {samples, temperature, top_k, top_p, min_p, seed, choice, n_logprobs}, edits, scores,
                                steps, pools, adapters, skipped);
          },
          nb::arg("tokens"), nb::arg("run_starts"), nb::arg("first_positions"), nb::arg("block_tables"),
          nb::arg("table_starts"), nb::arg("samples"), nb::arg("temperature"), nb::arg("top_k"), nb::arg("top_p"),
          nb::arg("min_p"), nb::arg("seed"), nb::arg("choice"), nb::arg("n_logprobs"),
          nb::arg("edits").none() = nb::none(), nb::arg("scores").none() = nb::none(),
          nb::arg("steps").none() = nb::none(), nb::arg("pools").none() = nb::none(),
          nb::arg("adapters").none() = nb::none(), nb::arg("skipped").none() = nb::none())
      .def(
          "logits",
          [](PyModel& self, Array<int32_t> tokens, Array<int32_t> run_starts, Array<int32_t> first_positions,
             Array<int32_t> block_tables, Array<int32_t> table_starts, Array<int32_t> adapters) {
            return self.logits({tokens, run_starts, first_positions, block_tables, table_starts}, adapters);
          },
          nb::arg("tokens"), nb::arg("run_starts"), nb::arg("first_positions"), nb::arg("block_tables"),
          nb::arg("table_starts"), nb::arg("adapters").none() = nb::none())
      .def("set_adapter", &PyModel::set_adapter, nb::arg("slot"), nb::arg("adapter").none())
      .def("save_blocks", &PyModel::save_blocks, nb::arg("blocks"), nb::arg("slots"), nb::arg("memory"))
      .def("load_blocks", &PyModel::load_blocks, nb::arg("blocks"), nb::arg("slots"), nb::arg("memory"))
      .def_prop_ro("kv_block_bytes", &PyModel::kv_block_bytes)
      .def_prop_ro("width", &PyModel::width)
      .def_prop_ro("n_layers", &PyModel::n_layers)
      .def_prop_ro("isa", &PyModel::isa)
      .def_prop_ro("kv_type", &PyModel::kv_type)
      .def_prop_ro("n_threads", &PyModel::n_threads)
      .def("time_phases", &PyModel::time_phases, nb::arg("on"))
      .def_prop_ro("phase_times", &PyModel::phase_times)
      .def_prop_ro("progress", &PyModel::progress)
      .def_prop_ro("kv_blocks", &PyModel::kv_blocks)
      .def_prop_ro("weight_bytes", &PyModel::weight_bytes)
      .def_prop_ro("kv_bytes", &PyModel::kv_bytes)
      .def_prop_ro("step_bytes", &PyModel::step_bytes);

  bind_kernels(m);
  bind_limits(m);
}
