// Tests of the compute library without Python, meant to run under sanitizers: every path with random work and golden
// numbers, and the promise that a sequence's bits do not depend on the batch, the chunking or the threads.
//
// Usage: native_tests [--threads=N] [--fastest] [text...]: the tests whose names contain one of the texts, or all;
// models run on 1 to N threads, 4 if not given; of the paths that the processor can run all, or the fastest alone.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "kernels.h"
#include "stand_ins.h"
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
  int max_threads = 4;
  bool fastest_only = false;
  for (const std::string& argument : std::vector<std::string>(argv + 1, argv + argc)) {
    if (argument == "--fastest") {
      fastest_only = true;
    } else if (argument.rfind("--", 0) != 0) {
      wanted.push_back(argument);
    } else if (std::sscanf(argument.c_str(), "--threads=%d", &max_threads) != 1 || max_threads < 1) {
      std::fprintf(stderr, "%s: expected --threads=N, N at least 1, --fastest, or parts of the tests' names\n",
                   argument.c_str());
      return 2;
    }
  }
  run("thread pool", test_thread_pool);
  run("float mode", test_float_mode);
  run("halves", test_halves);
  run("packing", test_packing);
  run("stored blocks", test_stored_blocks);
  run("pieces", test_pieces);
  run("bad arguments", test_bad_arguments);
  run("decode", test_decode);
  run("KV transfer", test_kv_transfer);
  run("bad edits", test_bad_edits);
  const Kernels* fused = nullptr;  // the path before, of those that fuse multiply and add
  for (const PathToTest& path : paths_to_test()) {
    if (fastest_only && path.native != available_kernels()[0]) continue;
    if (path.native == nullptr) {
      std::printf("%-28s not run: this processor lacks it%s\n", path.name,
                  path.stand_in == nullptr ? "" : "; its code with those instructions replaced:");
    }
    const Kernels* kernels = path.native != nullptr ? path.native : path.stand_in;
    if (kernels == nullptr) continue;
    const std::string name = kernels->name;
    run("golden numbers " + name, [&] { test_golden(*kernels); });
    run("attention " + name, [&] { test_attention(*kernels); });
    run("adapter products " + name, [&] { test_adapter_products(*kernels); });
    run("exact sums " + name, [&] { test_exact_sums(*kernels); });
    run("extreme values " + name, [&] { test_extreme_values(*kernels); });
    run("sampler " + name, [&] { test_sampler(*kernels); });
    if (name == "portable") {
      // It does not fuse, so no other path has its bits.
    } else if (fused == nullptr) {
      fused = kernels;
    } else {
      run("equal paths " + name, [&] { test_equal_paths(*fused, *kernels); });
    }
    if (path.native != nullptr && path.stand_in != nullptr) {
      run("stand-in of " + name, [&] {
        test_equal_paths(*path.native, *path.stand_in);
        test_equal_attention(*path.native, *path.stand_in);
      });
    }
    if (path.native == nullptr) continue;
    run("models " + name, [&] { test_models(name, max_threads); });
    run("adapters " + name, [&] { test_adapters(name, max_threads); });
  }
  return 0;
}
