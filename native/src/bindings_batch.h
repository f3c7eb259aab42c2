// What a forward is given beside logit edits, as NumPy arrays.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

#include "decode.h"
#include "model.h"

namespace stoker {

template <class T>
using Array = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;
using Sums = nanobind::ndarray<double, nanobind::ndim<2>, nanobind::c_contig, nanobind::device::cpu>;

// The arrays of one batch, sized by `n` sequences.
struct BatchArrays {
  Array<int32_t> tokens, run_starts, first_positions, block_tables, table_starts;

  Batch view() const {
    const size_t n = first_positions.size();
    if (n == 0 || run_starts.size() != n + 1 || table_starts.size() != n + 1) {
      throw std::invalid_argument("run_starts and table_starts must be one longer than first_positions");
    }
    for (const auto& [starts, values] : {std::pair{&run_starts, &tokens}, std::pair{&table_starts, &block_tables}}) {
      if (!std::is_sorted(starts->data(), starts->data() + n + 1) || (*starts)(0) < 0 ||
          static_cast<size_t>((*starts)(n)) != values->size()) {
        throw std::invalid_argument("starts must ascend from 0 to the length of what they index");
      }
    }
    return {.n_seqs = static_cast<int>(n),
            .tokens = tokens.data(),
            .run_starts = run_starts.data(),
            .first_positions = first_positions.data(),
            .block_tables = block_tables.data(),
            .table_starts = table_starts.data(),
            .samples = nullptr,
            .params = nullptr,
            .scores = nullptr};
  }
};

struct SamplingArrays {
  Array<int32_t> samples;
  Array<float> temperature;
  Array<int32_t> top_k;
  Array<float> top_p, min_p;
  Array<uint64_t> seed;
  Array<uint32_t> choice;
  Array<int32_t> n_logprobs;

  size_t n_samples() const {
    size_t total = 0;
    for (size_t s = 0; s < samples.size(); ++s) total += static_cast<size_t>(std::max(0, samples(s)));
    return total;
  }

  std::vector<SampleParams> params(const Batch& batch) const {
    const auto n = static_cast<size_t>(batch.n_seqs);
    if (samples.size() != n || temperature.size() != n || top_k.size() != n || top_p.size() != n || min_p.size() != n ||
        seed.size() != n || choice.size() != n || n_logprobs.size() != n) {
      throw std::invalid_argument("every sampling array must have one entry per sequence");
    }
    std::vector<SampleParams> out;
    out.reserve(n);
    for (size_t s = 0; s < n; ++s) {
      const int64_t end = int64_t{batch.first_positions[s]} + batch.run_starts[s + 1] - batch.run_starts[s];
      if (n_logprobs(s) > kMaxLogprobs) throw std::invalid_argument("at most 20 log-probabilities can be asked for");
      out.push_back({temperature(s), top_k(s), top_p(s), min_p(s), seed(s), choice(s), static_cast<uint32_t>(end),
                     n_logprobs(s), nullptr});
    }
    return out;
  }
};

// How many steps a forward takes at most, and which tokens end each sequence of its batch.
class PySteps {
 public:
  PySteps(int n_steps, Array<int32_t> stop_tokens, Array<int32_t> stop_starts)
      : n_steps_(n_steps), stop_tokens_(stop_tokens), stop_starts_(stop_starts) {
    const size_t n = stop_starts.size();
    if (n == 0 || !std::is_sorted(stop_starts.data(), stop_starts.data() + n) || stop_starts(0) != 0 ||
        static_cast<size_t>(stop_starts(n - 1)) != stop_tokens.size()) {
      throw std::invalid_argument("starts of stop tokens must ascend from 0 to the length of what they index");
    }
  }
  DecodeLimits view(const Batch& batch, const uint8_t* interrupted) const {
    if (stop_starts_.size() != static_cast<size_t>(batch.n_seqs) + 1) {
      throw std::invalid_argument("stop tokens must be given for every sequence");
    }
    return {n_steps_, stop_tokens_.data(), stop_starts_.data(), interrupted};
  }

 private:
  int n_steps_;
  Array<int32_t> stop_tokens_, stop_starts_;
};

// The tokens that a forward scores, one entry each; several may come after one row.
class PyPromptScores {
 public:
  PyPromptScores(Array<int32_t> rows, Array<int32_t> tokens, Array<int32_t> n_tops)
      : rows_(rows), tokens_(tokens), n_tops_(n_tops) {
    if (tokens.size() != rows.size() || n_tops.size() != rows.size()) {
      throw std::invalid_argument("every scoring array must have one entry per token to score");
    }
  }
  PromptScores view(std::vector<Sample>& out) const {
    out.resize(rows_.size());
    return {static_cast<int>(rows_.size()), rows_.data(), tokens_.data(), n_tops_.data(), out.data()};
  }

 private:
  Array<int32_t> rows_, tokens_, n_tops_;
};

// The rows that a forward pools, and the sums that it adds them to.
class PyPools {
 public:
  PyPools(Array<int32_t> begins, Array<int32_t> ends, Sums sums) : begins_(begins), ends_(ends), sums_(sums) {
    if (ends.size() != begins.size() || sums.shape(0) != begins.size()) {
      throw std::invalid_argument("every pooling array must have one entry per range of rows");
    }
  }
  Pools view(int width) const {
    if (sums_.shape(1) != static_cast<size_t>(width)) {
      throw std::invalid_argument("sums must be as wide as the model");
    }
    return {static_cast<int>(begins_.size()), begins_.data(), ends_.data(), sums_.data()};
  }

 private:
  Array<int32_t> begins_, ends_;
  Sums sums_;
};

// Adds the classes of these that Python makes.
void bind_batch(nanobind::module_& m);

}  // namespace stoker
