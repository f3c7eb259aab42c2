#include "bindings_edits.h"

#include <algorithm>
#include <stdexcept>
#include <utility>

namespace nb = nanobind;

namespace stoker {

namespace {

template <class T>
using Array = PyLogitEdits::Array<T>;

void check_starts(const Array<int32_t>& starts, size_t n, size_t n_values) {
  if (starts.size() != n + 1 || !std::is_sorted(starts.data(), starts.data() + n + 1) || starts(0) != 0 ||
      static_cast<size_t>(starts(n)) != n_values) {
    throw std::invalid_argument("starts of logit edits must ascend from 0 to the length of what they index");
  }
}

}  // namespace

PyLogitEdits::PyLogitEdits(Arrays arrays) : arrays_(std::move(arrays)) {
  const Arrays& a = arrays_;
  const size_t n = a.rows.size();
  if (a.presence.size() != n || a.frequency.size() != n || a.repetition.size() != n || a.n_prompt.size() != n ||
      a.bias.size() != a.bias_tokens.size()) {
    throw std::invalid_argument("every array of logit edits must have one entry per edited sequence");
  }
  check_starts(a.history_starts, n, a.history.size());
  check_starts(a.bias_starts, n, a.bias_tokens.size());
  check_starts(a.banned_starts, n, a.banned.size());
  check_starts(a.allowed_starts, n, a.allowed.size());
  edits_.reserve(n);
  for (size_t i = 0; i < n; ++i) {
    const int n_words = a.allowed_starts(i + 1) - a.allowed_starts(i);
    edits_.push_back({.history = a.history.data() + a.history_starts(i),
                      .n_history = a.history_starts(i + 1) - a.history_starts(i),
                      .n_prompt = a.n_prompt(i),
                      .presence = a.presence(i),
                      .frequency = a.frequency(i),
                      .repetition = a.repetition(i),
                      .bias_tokens = a.bias_tokens.data() + a.bias_starts(i),
                      .bias = a.bias.data() + a.bias_starts(i),
                      .n_bias = a.bias_starts(i + 1) - a.bias_starts(i),
                      .banned = a.banned.data() + a.banned_starts(i),
                      .n_banned = a.banned_starts(i + 1) - a.banned_starts(i),
                      .allowed = n_words > 0 ? a.allowed.data() + a.allowed_starts(i) : nullptr,
                      .n_allowed_words = n_words});
  }
}

void PyLogitEdits::attach(std::vector<SampleParams>& params) const {
  for (size_t i = 0; i < edits_.size(); ++i) {
    const int32_t row = arrays_.rows(i);
    if (row < 0 || static_cast<size_t>(row) >= params.size()) {
      throw std::invalid_argument("logit edits name a row that is not in the batch");
    }
    params[static_cast<size_t>(row)].edits = &edits_[i];
  }
}

void bind_edits(nb::module_& m) {
  nb::class_<PyLogitEdits>(m, "LogitEdits")
      .def(
          "__init__",
          [](PyLogitEdits* self, Array<int32_t> rows, Array<float> presence, Array<float> frequency,
             Array<float> repetition, Array<int32_t> n_prompt, Array<int32_t> history, Array<int32_t> history_starts,
             Array<int32_t> bias_tokens, Array<float> bias, Array<int32_t> bias_starts, Array<int32_t> banned,
             Array<int32_t> banned_starts, Array<uint32_t> allowed, Array<int32_t> allowed_starts) {
            new (self) PyLogitEdits({rows, presence, frequency, repetition, n_prompt, history, history_starts,
                                     bias_tokens, bias, bias_starts, banned, banned_starts, allowed, allowed_starts});
          },
          nb::kw_only(), nb::arg("rows"), nb::arg("presence"), nb::arg("frequency"), nb::arg("repetition"),
          nb::arg("n_prompt"), nb::arg("history"), nb::arg("history_starts"), nb::arg("bias_tokens"), nb::arg("bias"),
          nb::arg("bias_starts"), nb::arg("banned"), nb::arg("banned_starts"), nb::arg("allowed"),
          nb::arg("allowed_starts"));
}

}  // namespace stoker
