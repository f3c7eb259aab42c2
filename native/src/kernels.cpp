#include "kernels.h"

#include <stdexcept>

#include "shape.h"

#if defined(STOKER_X86_64)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace stoker {

namespace {

#if defined(STOKER_X86_64)
// Register `reg` (0 to 3 for eax to edx) of a CPUID leaf: not every compiler's __builtin_cpu_supports knows every name.
bool cpuid_bit(unsigned leaf, unsigned subleaf, int reg, int bit) {
  unsigned registers[4] = {};
  __get_cpuid_count(leaf, subleaf, &registers[0], &registers[1], &registers[2], &registers[3]);
  return (registers[reg] >> bit & 1) != 0;
}

bool has_avx2() {
  const bool f16c = cpuid_bit(1, 0, 2, 29);
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && f16c;
}

bool has_avx2vnni() { return has_avx2() && cpuid_bit(7, 1, 0, 4); }

bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512vnni");
}

bool has_avx512bf16() { return has_avx512vnni() && cpuid_bit(7, 1, 0, 5); }

// AMX has to be asked for, once for the whole process: its registers enlarge every thread's saved state.
bool has_amx() {
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILE_DATA
  static const bool granted =
      has_avx512bf16() && cpuid_bit(7, 0, 3, 25) && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
}
#endif

}  // namespace

std::vector<const Kernels*> available_kernels() {
  std::vector<const Kernels*> found;
#if defined(STOKER_X86_64)
  if (has_amx()) found.push_back(&amx::kKernels);
  if (has_avx512bf16()) found.push_back(&avx512bf16::kKernels);
  if (has_avx512vnni()) found.push_back(&avx512vnni::kKernels);
  if (has_avx2vnni()) found.push_back(&avx2vnni::kKernels);
  if (has_avx2()) found.push_back(&avx2::kKernels);
#endif
  found.push_back(&portable::kKernels);
  return found;
}

Activate* activation_of(const Kernels& kernels, Activation activation) {
  switch (activation) {
    case Activation::gelu_tanh: return kernels.geglu;
    case Activation::clamped_swiglu: return kernels.clamped_swiglu;
    default: return kernels.swiglu;
  }
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
