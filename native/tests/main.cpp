// Tests of the compute library without Python, meant to run under sanitizers: every path with random work, and the
// promise that a sequence's bits do not depend on the batch, the chunking or the threads.
//
// Usage: native_tests [text...]: the tests whose names contain one of the texts, or all.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "tests.h"

namespace stoker {

namespace {

std::vector<std::string> wanted;

void run(const std::string& name, const std::function<void()>& test) {
  const auto is_in_name = [&](const std::string& text) { return name.find(text) != std::string::npos; };
  if (!wanted.empty() && std::none_of(wanted.begin(), wanted.end(), is_in_name)) return;
  const auto start = std::chrono::steady_clock::now();
  test();
  const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
  std::printf("%-28s ok, %.1f s\n", name.c_str(), taken.count());
  std::fflush(stdout);
}

}  // namespace

}  // namespace stoker

int main(int argc, char** argv) {
  using namespace stoker;
  wanted.assign(argv + 1, argv + argc);
  run("thread pool", test_thread_pool);
  run("halves", test_halves);
  run("packing", test_packing);
  run("stored blocks", test_stored_blocks);
  run("bad arguments", test_bad_arguments);
  run("bad edits", test_bad_edits);
  const std::vector<const Kernels*> paths = available_kernels();
  for (size_t i = 0; i + 2 < paths.size(); ++i) {  // all but the portable one, which does not fuse
    run(std::string("equal paths ") + paths[i + 1]->name, [&] { test_equal_paths(*paths[i], *paths[i + 1]); });
  }
  for (const Kernels* kernels : paths) {
    const std::string isa = kernels->name;
    run("golden numbers " + isa, [&] { test_golden(*kernels); });
    run("exact sums " + isa, [&] { test_exact_sums(*kernels); });
    run("extreme values " + isa, [&] { test_extreme_values(*kernels); });
    run("sampler " + isa, [&] { test_sampler(*kernels); });
    run("models " + isa, [&] { test_models(isa); });
  }
  return 0;
}
