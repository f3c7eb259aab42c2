#pragma once
#include <nanobind/nanobind.h>

namespace stoker {

// Adds the classes that say what a model looks like.
void bind_shape(nanobind::module_& m);
// Adds the submodule `kernels`: single kernels, for checking them against a reference.
void bind_kernels(nanobind::module_& parent);
// Adds the class of an adapter.
void bind_adapters(nanobind::module_& m);
// Adds the function that measures the processor.
void bind_limits(nanobind::module_& m);

}  // namespace stoker
