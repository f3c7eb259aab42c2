// stoker._native.measure_limits: what the processor allows.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>

#include "bindings.h"
#include "machine_limits.h"

namespace nb = nanobind;

namespace stoker {

namespace {

constexpr int kMaxThreads = 1024;
constexpr size_t kMinBytes = size_t{1} << 20;
constexpr size_t kMaxBytes = size_t{1} << 36;
constexpr double kMaxSeconds = 60.0;

nb::dict limits(const std::string& isa, int n_threads, size_t memory_bytes, size_t cache_bytes, double seconds) {
  const auto in_range = [](size_t size) { return size >= kMinBytes && size <= kMaxBytes; };
  if (n_threads < 1 || n_threads > kMaxThreads) throw std::invalid_argument("n_threads must be 1 to 1024");
  if (!in_range(memory_bytes) || !in_range(cache_bytes)) throw std::invalid_argument("sizes must be 1 MiB to 64 GiB");
  if (!(seconds > 0.0 && seconds <= kMaxSeconds)) throw std::invalid_argument("seconds must be above 0, at most 60");
  const Kernels& kernels = find_kernels(isa);
  Limits found{};
  {
    const nb::gil_scoped_release release;
    found = measure_limits(kernels, n_threads, memory_bytes, cache_bytes, seconds);
  }
  nb::dict out;
  out["dot_ops"] = found.dot_ops;
  out["fma_ops"] = found.fma_ops;
  out["bf16_ops"] = found.bf16_ops;
  out["memory_bytes"] = found.memory_bytes;
  out["cache_bytes"] = found.cache_bytes;
  return out;
}

}  // namespace

void bind_limits(nb::module_& m) {
  m.def("measure_limits", &limits, nb::arg("isa"), nb::kw_only(), nb::arg("n_threads"), nb::arg("memory_bytes"),
        nb::arg("cache_bytes"), nb::arg("seconds"));
}

}  // namespace stoker
