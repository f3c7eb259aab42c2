// stoker._native.LogitEdits: the logit edits of some of a batch's sequences, as NumPy arrays.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <vector>

#include "sampler.h"

namespace stoker {

// Keeps the arrays alive that `edits` points into.
class PyLogitEdits {
 public:
  template <class T>
  using Array = nanobind::ndarray<const T, nanobind::ndim<1>, nanobind::c_contig, nanobind::device::cpu>;

  // One entry per edited sequence in every array; of a history, a bias, a ban and a mask those are slices, one after
  // the other, and `starts` is one longer. A mask without words is none.
  struct Arrays {
    Array<int32_t> rows;
    Array<float> presence, frequency, repetition;
    Array<int32_t> n_prompt, history, history_starts, bias_tokens;
    Array<float> bias;
    Array<int32_t> bias_starts, banned, banned_starts;
    Array<uint32_t> allowed;
    Array<int32_t> allowed_starts;
  };

  // Throws std::invalid_argument when lengths do not fit each other.
  explicit PyLogitEdits(Arrays arrays);

  // Points the entries of edited sequences here. Throws std::invalid_argument for a row that is not one of them.
  void attach(std::vector<SampleParams>& params) const;

 private:
  Arrays arrays_;
  std::vector<LogitEdits> edits_;
};

void bind_edits(nanobind::module_& m);

}  // namespace stoker
