// Tests of the compute library without Python, meant to run under sanitizers: every path with random work, and the
// promise that a sequence's bits do not depend on the batch, the chunking or the threads.
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "tests.h"

namespace stoker {

namespace {

void run(const char* name, const std::function<void()>& test) {
  const auto start = std::chrono::steady_clock::now();
  test();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::printf("%-28s ok, %.1f s\n", name, taken.count());
  std::fflush(stdout);
}

}  // namespace

}  // namespace stoker

int main() {
  using namespace stoker;
  run("thread pool", test_thread_pool);
  run("halves", test_halves);
  run("packing", test_packing);
  run("stored blocks", test_stored_blocks);
  run("pieces", test_pieces);
  run("bad arguments", test_bad_arguments);
  run("decode", test_decode);
  run("bad edits", test_bad_edits);
  run("KV transfer", test_kv_transfer);
  const std::vector<const Kernels*> paths = available_kernels();
  for (size_t i = 0; i + 2 < paths.size(); ++i) {  // all but the portable one, which does not fuse
    run((std::string("equal paths ") + paths[i + 1]->name).c_str(),
        [&] { test_equal_paths(*paths[i], *paths[i + 1]); });
  }
  for (const Kernels* kernels : paths) {
    const std::string isa = kernels->name;
    run(("exact sums " + isa).c_str(), [&] { test_exact_sums(*kernels); });
    run(("extreme values " + isa).c_str(), [&] { test_extreme_values(*kernels); });
    run(("sampler " + isa).c_str(), [&] { test_sampler(*kernels); });
    run(("models " + isa).c_str(), [&] { test_models(isa); });
  }
  return 0;
}
