#include "stand_ins.h"

#include <algorithm>

namespace stoker {

std::vector<PathToTest> paths_to_test() {
#if defined(STOKER_X86_64)
  std::vector<PathToTest> paths{{"amx", nullptr, &amx_emulated::kKernels},
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
  const bool avx512vnni = std::any_of(paths.begin(), paths.end(), [](const PathToTest& path) {
    return path.native != nullptr && std::string(path.name) == "avx512vnni";
  });
  for (PathToTest& path : paths) {
    if (path.native != nullptr || !avx512vnni) path.stand_in = nullptr;
  }
  return paths;
}

}  // namespace stoker
