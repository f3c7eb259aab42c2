// The tests that main.cpp runs; each ends the program with an error when a check fails.
#pragma once
#include <string>

#include "kernels.h"

namespace stoker {

void test_thread_pool();
void test_float_mode();
void test_halves();
void test_packing();
void test_stored_blocks();
void test_pieces();
void test_extreme_values(const Kernels& kernels);
void test_sampler(const Kernels& kernels);
void test_exact_sums(const Kernels& kernels);
void test_equal_paths(const Kernels& first, const Kernels& second);
void test_golden(const Kernels& kernels);
void test_attention(const Kernels& kernels);
void test_equal_attention(const Kernels& first, const Kernels& second);
void test_adapter_products(const Kernels& kernels);
void test_bad_edits();
// Steps run on 1 to `max_threads` threads.
void test_models(const std::string& isa, int max_threads);
void test_adapters(const std::string& isa, int max_threads);
void test_bad_arguments();
void test_kv_transfer();
void test_decode();

}  // namespace stoker
