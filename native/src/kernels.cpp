#include "kernels.h"

#include <stdexcept>

#if defined(STOKER_X86_64)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stoker {

namespace {

#if defined(STOKER_X86_64)
bool has_avx2() {
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx2vnni() { return has_avx2() && __builtin_cpu_supports("avxvnni"); }

bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

// AMX has to be asked for, once for the whole process: its registers enlarge every thread's saved state.
bool has_amx() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILE_DATA
  static const bool granted = has_avx512vnni() && __builtin_cpu_supports("amx-int8") &&
                              syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(STOKER_X86_64)
  if (has_amx()) found.push_back(&amx::kKernels);
  if (has_avx512vnni()) found.push_back(&avx512vnni::kKernels);
  if (has_avx2vnni()) found.push_back(&avx2vnni::kKernels);
  if (has_avx2()) found.push_back(&avx2::kKernels);
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
