#include "stand_ins.h"

#include <algorithm>

namespace stoker {

std::vector<PathToTest> paths_to_test() {
#if defined(STOKER_X86_64)
  std::vector<PathToTest> paths{{"amx", nullptr, &amx_emulated::kKernels},
                                {"avx512bf16", nullptr, nullptr},
                                {"avx512vnni", nullptr, nullptr},
                                {"avx2vnni", nullptr, &avx2vnni_evex::kKernels},
                                {"avx2", nullptr, nullptr},
                                {"portable", nullptr, nullptr}};
#elif defined(STOKER_AARCH64)
  std::vector<PathToTest> paths{{"neon", nullptr, nullptr}, {"portable", nullptr, nullptr}};
#else
  std::vector<PathToTest> paths{{"portable", nullptr, nullptr}};
#endif
  for (const Kernels* kernels : available_kernels()) {
    for (PathToTest& path : paths) {
      if (std::string(path.name) == kernels->name) path.native = kernels;
    }
  }
  const auto runs_here = [&](const std::string& name) {
    return std::any_of(paths.begin(), paths.end(),
                       [&](const PathToTest& path) { return path.native != nullptr && name == path.name; });
  };
  for (PathToTest& path : paths) {
    const bool amx = std::string(path.name) == "amx";
    if (!runs_here(amx ? "avx512bf16" : "avx512vnni")) path.stand_in = nullptr;
  }
  return paths;
}

}  // namespace stoker
