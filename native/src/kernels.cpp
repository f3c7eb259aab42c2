#include "kernels.h"

#include <stdexcept>

namespace stoker {

namespace {

#if defined(STOKER_HAVE_AVX512)
bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(STOKER_HAVE_AVX512)
  if (has_avx512vnni()) found.push_back(&avx512vnni::kKernels);
#endif
  found.push_back(&portable::kKernels);
  return found;
}

const Kernels& find_kernels(const std::string& name) {
  std::string names = "auto";
  for (const Kernels* kernels : available_kernels()) {
    if (name == "auto" || name == kernels->name) return *kernels;
    names += std::string(", ") + kernels->name;
  }
  throw std::invalid_argument("this processor has no instruction-set path '" + name + "'; it has " + names);
}

}  // namespace stoker
