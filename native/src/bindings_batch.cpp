#include "bindings_batch.h"

namespace nb = nanobind;

namespace stoker {

void bind_batch(nb::module_& m) {
  nb::class_<PyPromptScores>(m, "PromptScores")
      .def(nb::init<Array<int32_t>, Array<int32_t>, Array<int32_t>>(), nb::kw_only(), nb::arg("rows"),
           nb::arg("tokens"), nb::arg("n_tops"));
  nb::class_<PyPools>(m, "Pools")
      .def(nb::init<Array<int32_t>, Array<int32_t>, Sums>(), nb::kw_only(), nb::arg("begins"), nb::arg("ends"),
           nb::arg("sums"));
  nb::class_<PySteps>(m, "Steps")
      .def(nb::init<int, Array<int32_t>, Array<int32_t>>(), nb::kw_only(), nb::arg("n_steps"), nb::arg("stop_tokens"),
           nb::arg("stop_starts"));
}

}  // namespace stoker
