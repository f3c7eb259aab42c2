#pragma once
#include <nanobind/nanobind.h>

namespace stoker {

// Adds the submodule `kernels`: single kernels, for checking them against a reference.
void bind_kernels(nanobind::module_& parent);

}  // namespace stoker
