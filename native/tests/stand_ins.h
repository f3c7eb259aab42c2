// Paths of other processors than this one's, with what this one lacks replaced.
#pragma once
#include "kernels.h"

namespace stoker {

#if defined(STOKER_X86_64)
namespace amx_emulated {
extern const Kernels kKernels;
}
namespace avx2vnni_evex {
extern const Kernels kKernels;
}
#endif

// A path that the build has, and what can be run of it here.
struct PathToTest {
  const char* name;
  const Kernels* native;    // null where the processor lacks it
  const Kernels* stand_in;  // its code with the instructions replaced that others lack, or null
};

// Every path of the build, fastest first.
std::vector<PathToTest> paths_to_test();

}  // namespace stoker
