// Threads, conversions, packing, kernels and sampler, each by itself.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <numeric>
#include <thread>

#include "float_mode.h"
#include "kernels.h"
#include "sampler.h"
#include "support.h"
#include "tests.h"
#include "thread_pool.h"

namespace stoker {

void test_thread_pool() {
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    ThreadPool pool(n_threads);
    CHECK(pool.size() == n_threads);
    Random random(static_cast<uint64_t>(n_threads));
    std::vector<int> counts(64);  // not atomic: run() orders each region after the one before
    for (int region = 0; region < 4000; ++region) {
      const int n_chunks = random.below(64);
      std::atomic<int> calls{0};
      pool.run(n_chunks, [&](int chunk, int thread) {
        CHECK(chunk >= 0 && chunk < n_chunks && thread >= 0 && thread < n_threads);
        counts[static_cast<size_t>(chunk)] += 1;
        calls.fetch_add(1);
      });
      CHECK(calls.load() == n_chunks);
      for (int chunk = 0; chunk < n_chunks; ++chunk) CHECK(counts[static_cast<size_t>(chunk)] == 1);
      std::fill(counts.begin(), counts.end(), 0);
      // Long enough for the workers to fall asleep, or just about to.
      if (region % 16 == 0) std::this_thread::sleep_for(std::chrono::microseconds(random.between(30, 150)));
    }
  }
  for (int i = 0; i < 60; ++i) {  // ends while its workers start, spin or sleep
    ThreadPool pool(1 + i % 4);
    std::atomic<int> sum{0};
    if (i % 3 != 0) pool.run(10, [&](int chunk, int) { sum.fetch_add(chunk); });
    CHECK(sum.load() == (i % 3 != 0 ? 45 : 0));
    if (i % 5 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
  }
}

// In every thread of a model subnormal results and operands are zero, and the caller's mode comes back.
void test_float_mode() {
  volatile float least = std::numeric_limits<float>::min(), subnormal = 0x1p-149f, half = 0.5f, large = 0x1p100f;
  const auto flushes = [&] {
    // Stored before the mode changes: the compiler may move a product over that, a volatile store it may not.
    const volatile float result = least * half, of_operand = subnormal * large;
    return result == 0.0f && of_operand == 0.0f;
  };
  const bool before = flushes();
  {
    const FloatMode float_mode;
    CHECK(flushes());
    const FloatMode again;
    CHECK(flushes());
  }
  CHECK(flushes() == before);
  CHECK(!before);  // or the rest of this shows nothing
  ThreadPool pool(3);
  const FloatMode float_mode;
  std::atomic<int> flushed{0};
  pool.run(64, [&](int, int) { flushed.fetch_add(flushes() ? 1 : 0); });
  CHECK(flushed.load() == 64);
}

void test_halves() {
  for (uint32_t half = 0; half < 65536; ++half) {
    const auto bits = static_cast<uint16_t>(half);
    const float value = float_from_half(bits);
    if (std::isnan(value)) {
      CHECK(std::isnan(float_from_half(half_from_float(value))));
    } else {
      CHECK(half_from_float(value) == bits);
    }
  }
  CHECK(half_from_float(65519.0f) == 0x7bff);  // the last that rounds to the largest half
  CHECK(half_from_float(65520.0f) == 0x7c00);
  CHECK(half_from_float(0x1p-25f) == 0);  // a tie, to even
  CHECK(half_from_float(0x1.8p-25f) == 1);
  CHECK(half_from_float(1.0f + 0x1p-11f) == 0x3c00);
  CHECK(half_from_float(1.0f + 3 * 0x1p-11f) == 0x3c02);
}

void test_packing() {
  Random random(5);
  for (int n_threads = 1; n_threads <= 4; ++n_threads) {
    ThreadPool pool(n_threads);
    for (const std::string type : kTypes) {
      for (const int n : {1, 15, 16, 17, 96}) {
        const int k = 32 * random.between(1, 5);
        const Stored stored = random_matrix(random, type, n, k);
        for (const bool dequantize : {false, true}) {
          const int heads = n == 96 ? 3 : 0;
          const int pairs = random.between(0, 16);
          const PackedMatrix matrix =
              pack(source_type(type), stored.bytes.data(), n, k,
                   {.dequantize = dequantize, .rotary_heads = heads, .rotary_pairs = pairs}, pool);
          std::vector<float> row(static_cast<size_t>(k));
          for (int r = 0; r < n; ++r) {
            // Head rows (0, 1), (2, 3), ... become (0, pairs), (1, pairs + 1), ...; those behind all pairs stay.
            const int at = r % 32;
            const int turned = at < pairs ? 2 * at : at < 2 * pairs ? 2 * (at - pairs) + 1 : at;
            const int from = heads == 0 ? r : r - at + turned;
            unpack_row(matrix, r, row.data());
            for (int i = 0; i < k; ++i) {
              CHECK(row[static_cast<size_t>(i)] == stored.values[static_cast<size_t>(from * k + i)]);
            }
          }
        }
      }
    }
    const std::vector<uint8_t> zeros(4096);
    CHECK(refuses([&] { source_type("Q8_K"); }));
    CHECK(refuses([&] { source_row_size(SourceType::f32, 33); }));
    CHECK(refuses([&] { source_row_size(SourceType::q4_0, -32); }));
    CHECK(refuses([&] { source_row_size(SourceType::q4_k, 128); }));
    CHECK(refuses([&] { pack(SourceType::q4_0, zeros.data(), 0, 32, {}, pool); }));
    CHECK(refuses([&] { pack(SourceType::q4_0, zeros.data(), 6, 32, {.rotary_heads = 4}, pool); }));
    CHECK(refuses([&] { pack(SourceType::q4_0, zeros.data(), 8, 32, {.rotary_heads = 1, .rotary_pairs = 5}, pool); }));
    CHECK(refuses([&] { pack(SourceType::q4_0, zeros.data(), 8, 32, {.rotary_heads = 1, .rotary_pairs = -1}, pool); }));
    for (const uint16_t scale : {0x7c00, 0xfc01, 0x7bff}) {  // infinite, NaN, too large for -128 times
      std::vector<uint8_t> bad(zeros);
      bad[0] = static_cast<uint8_t>(scale & 255);
      bad[1] = static_cast<uint8_t>(scale >> 8);
      CHECK(refuses([&] { pack(SourceType::q8_0, bad.data(), 1, 32, {}, pool); }));
    }
  }
}

// Rows of every type in memory that ends with them: nothing is read beyond, and packing refuses or is near the values.
void test_stored_blocks() {
  Random random(11);
  ThreadPool pool(2);
  for (const char* type : {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
                           "IQ4_XS", "MXFP4", "F16", "BF16", "F32"}) {
    const SourceType source = source_type(type);
    for (int round = 0; round < 40; ++round) {
      const int n = random.between(1, 20);
      const int k = 256 * random.between(1, 3);
      // In half of the rounds scales are small: the high byte of an fp16 is at most 0x2f.
      const int mask = round % 2 == 0 ? 0x2f : 0xff;
      std::vector<uint8_t> bytes(source_row_size(source, k) * static_cast<size_t>(n));
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random.below(256) & mask);
      std::vector<float> held(static_cast<size_t>(k)), exact(held);
      const auto check = [&] {
        const PackedMatrix floats = pack(source, bytes.data(), n, k, {.dequantize = true}, pool);
        const PackedMatrix packed = pack(source, bytes.data(), n, k, {}, pool);
        for (int r = 0; r < n; ++r) {
          unpack_row(floats, r, exact.data());
          unpack_row(packed, r, held.data());
          float largest = 0;
          for (const float value : exact) largest = std::max(largest, std::abs(value));
          for (size_t i = 0; i < exact.size() && mask == 0x2f; ++i) {
            CHECK(std::abs(held[i] - exact[i]) <= 0.01f * largest + 0x1p-20f);
          }
        }
      };
      CHECK(!refuses(check) || mask == 0xff);
    }
  }
}

// Kernels on values that no healthy model makes: any result will do, undefined behaviour will not.
void test_extreme_values(const Kernels& kernels) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  Random random(7);
  const float specials[] = {0.0f,   -0.0f,  1e38f,    -1e38f,    3.4e38f, -3.4e38f,
                            1e-38f, 1e-44f, infinity, -infinity, nan,     1.0f};
  for (int round = 0; round < 300; ++round) {
    std::vector<float> x(64), y(64), out(64);
    const int n_specials = round % 3 == 0 ? 1 : 12;
    for (size_t i = 0; i < x.size(); ++i) {
      x[i] = round % 3 == 2 ? random.unit() : specials[(random.below(n_specials) + round) % 12];
      y[i] = specials[random.below(12)];
    }
    if (round % 3 == 2) x[static_cast<size_t>(random.below(64))] = specials[round % 12];
    std::vector<int8_t> codes(64);
    std::vector<GroupMeta> meta(2);
    kernels.quantize(x.data(), 64, codes.data(), meta.data());
    kernels.rms_norm(x.data(), y.data(), 64, 1e-5f, out.data());
    kernels.swiglu(x.data(), y.data(), 64, out.data());
    kernels.geglu(x.data(), y.data(), 64, out.data());
    kernels.clamped_swiglu(x.data(), y.data(), 64, out.data());
    kernels.softcap(out.data(), 30.0f, 64);
    kernels.scale(out.data(), y[0], 61);
    kernels.rotate(out.data(), x.data(), y.data(), 32, 1.0f);
    kernels.divide(x.data(), y[0], 64, out.data());
    std::vector<uint8_t> block(2 * 16 * 64 * 4);
    for (const KvType type : kKvTypes) {
      kernels.store_key(x.data(), 64, round % 16, type, block.data());
      kernels.store_value(x.data(), 64, round % 16, type, block.data());
    }
    SampleScratch scratch(64);
    const SampleParams params{round % 4 == 0 ? 1e-42f : 1.0f, round % 5, 0.9f,   0.05f, 3, 0,
                              static_cast<uint32_t>(round),   5,         nullptr};
    const Sample chosen = sample(kernels, x.data(), 64, params, scratch);
    CHECK(chosen.token >= 0 && chosen.token < 64);
    for (int i = 0; i < 5; ++i) CHECK(chosen.top_tokens[i] >= 0 && chosen.top_tokens[i] < 64);
  }
}

void test_pieces() {
  for (int piece = 1; piece < 200; ++piece) {
    const int begin = piece_begin(piece);
    CHECK(begin % kTileTokens == 0 && begin > piece_begin(piece - 1));
    CHECK(piece_of(begin) == piece && piece_of(begin - 1) == piece - 1);
    // Small against what lies before it, once that is long.
    CHECK(piece <= kEvenPieces || piece_begin(piece + 1) - begin <= begin / kPiecesToDouble);
  }
  CHECK(piece_begin(0) == 0 && piece_of(0) == 0 && piece_begin(kEvenPieces) == kEvenPieces * kPieceTokens);
}

void test_sampler(const Kernels& kernels) {
  Random random(11);
  for (int round = 0; round < 400; ++round) {
    const int vocab = random.between(1, round % 10 == 0 ? 5000 : 80);
    std::vector<float> logits(static_cast<size_t>(vocab));
    for (float& x : logits) x = round % 7 == 0 ? 0.5f : random.unit() * 8.0f;
    for (size_t i = 1; i < logits.size(); i += 3) logits[i] = -std::numeric_limits<float>::infinity();
    SampleScratch scratch(vocab);
    const auto tokens = [&](int n) {
      std::vector<int32_t> out(static_cast<size_t>(n));
      for (int32_t& token : out) token = random.below((vocab + 2) / 3) * 3;  // those that are possible
      return out;
    };
    const std::vector<int32_t> history = tokens(random.below(100)), bias_tokens = tokens(random.below(20)),
                               banned = tokens(round % 9 == 1 ? vocab / 9 : 0);
    std::vector<float> bias(bias_tokens.size());
    for (float& x : bias) x = random.unit() * 100.0f;
    const LogitEdits edits{.history = history.data(),
                           .n_history = static_cast<int>(history.size()),
                           .n_prompt = random.below(static_cast<int>(history.size()) + 1),
                           .presence = random.unit() * 2.0f,
                           .frequency = random.unit() * 2.0f,
                           .repetition = 1.5f + random.unit(),
                           .bias_tokens = bias_tokens.data(),
                           .bias = bias.data(),
                           .n_bias = static_cast<int>(bias.size()),
                           .banned = banned.data(),
                           .n_banned = static_cast<int>(banned.size())};
    check_edits(edits, vocab);
    const SampleParams params{static_cast<float>(round % 5) * 0.5f,
                              random.below(4) * random.below(vocab + 2),
                              static_cast<float>(random.below(11)) * 0.1f,
                              static_cast<float>(random.below(6)) * 0.2f,
                              random.bits(),
                              static_cast<uint32_t>(round % 3),
                              random.bits(),
                              round % 22 - 1,
                              round % 2 == 0 ? nullptr : &edits};
    const Sample a = sample(kernels, logits.data(), vocab, params, scratch);
    const Sample b = sample(kernels, logits.data(), vocab, params, scratch);
    CHECK(a.token >= 0 && a.token < vocab && std::isfinite(logits[static_cast<size_t>(a.token)]));
    CHECK(a.token == b.token && a.logprob == b.logprob);
    if (params.edits != nullptr) CHECK(std::find(banned.begin(), banned.end(), a.token) == banned.end());
    CHECK(std::all_of(scratch.counts.begin(), scratch.counts.end(), [](int32_t count) { return count == 0; }));
  }
}

// Sums of products of codes, also of the largest ones, which an instruction that saturates would get wrong.
void test_exact_sums(const Kernels& kernels) {
  constexpr int k = 96, n = 32, m = 29;
  Random random(13);
  ThreadPool pool(1);
  for (const bool four_bits : {true, false}) {
    for (int round = 0; round < 24; ++round) {
      // Weights as Q4_1 with scale 1 and minimum 0, or as Q8_0 with scale 1. One round in four has random codes only.
      const int largest = four_bits ? 15 : 255;
      const auto code = [&] { return round % 4 == 0 || random.below(40) == 0 ? random.below(largest + 1) : largest; };
      std::vector<int> w(n * k);
      std::vector<uint8_t> bytes;
      for (int group = 0; group < n * k / kGroup; ++group) {
        int* codes = &w[static_cast<size_t>(group * kGroup)];
        std::generate_n(codes, kGroup, code);
        append16(bytes, half_from_float(1.0f));
        if (four_bits) append16(bytes, 0);
        for (int i = 0; i < (four_bits ? 16 : 32); ++i) {
          bytes.push_back(static_cast<uint8_t>(four_bits ? codes[i] | codes[i + 16] << 4 : codes[i] - 128));
        }
      }
      const int extreme = round % 2 == 0 ? -128 : 127;
      std::vector<int8_t> a(m * k);
      for (int8_t& x : a) {
        x = static_cast<int8_t>(round % 4 == 0 || random.below(40) == 0 ? random.between(-128, 127) : extreme);
      }
      const std::vector<GroupMeta> meta(a.size() / kGroup, {1.0f, 0.0f, 0.0f});
      const std::vector<float> values(a.size());
      const PackedMatrix matrix = pack(source_type(four_bits ? "Q4_1" : "Q8_0"), bytes.data(), n, k, {}, pool);
      std::vector<float> out(m * n);
      kernels.matmul(matrix, {values.data(), a.data(), meta.data(), k}, 0, m, 0, matrix.n_blocks(), out.data(), n);
      for (int row = 0; row < m; ++row) {
        for (int column = 0; column < n; ++column) {
          const int sum =
              std::inner_product(&w[static_cast<size_t>(column * k)], &w[static_cast<size_t>(column * k)] + k,
                                 &a[static_cast<size_t>(row * k)], 0);
          CHECK(out[static_cast<size_t>(row * n + column)] == static_cast<float>(sum));
        }
      }
    }
  }
}

void test_bad_edits() {
  const std::vector<int32_t> tokens{0, 7, 3};
  const LogitEdits good{tokens.data(), 3, 1, 0.0f, 0.0f, 1.0f, tokens.data(), nullptr, 3, tokens.data(), 3};
  CHECK(!refuses([&] { check_edits(good, 8); }));
  CHECK(refuses([&] { check_edits(good, 7); }));
  const auto with = [&](const std::function<void(LogitEdits&)>& change) {
    LogitEdits changed = good;
    change(changed);
    return [=] { check_edits(changed, 8); };
  };
  const std::vector<int32_t> wrong{0, -1, 3};
  CHECK(refuses(with([](LogitEdits& e) { e.n_prompt = 4; })));
  CHECK(refuses(with([](LogitEdits& e) { e.n_prompt = -1; })));
  CHECK(refuses(with([&](LogitEdits& e) { e.history = wrong.data(); })));
  CHECK(refuses(with([&](LogitEdits& e) { e.bias_tokens = wrong.data(); })));
  CHECK(refuses(with([&](LogitEdits& e) { e.banned = wrong.data(); })));
  const std::vector<uint32_t> some{128, 1}, none{0xFFFFFF00};
  CHECK(!refuses(with([&](LogitEdits& e) { e.allowed = some.data(), e.n_allowed_words = 1; })));
  CHECK(refuses(with([&](LogitEdits& e) { e.allowed = some.data(), e.n_allowed_words = 2; })));
  CHECK(refuses(with([&](LogitEdits& e) { e.allowed = none.data(), e.n_allowed_words = 1; })));
}

// What is computed value by value, by one path's kernels.
std::vector<float> element_wise(const Kernels& kernels, const std::vector<float>& x, const std::vector<float>& y) {
  const auto n = static_cast<int>(x.size());
  std::vector<float> out;
  for (Activate* activate : {kernels.swiglu, kernels.geglu, kernels.clamped_swiglu}) {
    std::vector<float> activated(x.size());
    activate(x.data(), y.data(), n, activated.data());
    out.insert(out.end(), activated.begin(), activated.end());
  }
  std::vector<float> capped(x), turned(x);
  kernels.softcap(capped.data(), 3.0f, n);
  kernels.rotate(turned.data(), y.data(), y.data() + n / 2, n / 2 - 3, 0.3f);
  out.insert(out.end(), capped.begin(), capped.end());
  out.insert(out.end(), turned.begin(), turned.end());
  return out;
}

// Two paths whose floating-point operations are the same give the same bits, however they add integers.
void test_equal_paths(const Kernels& first, const Kernels& second) {
  Random random(9);
  for (int round = 0; round < 50; ++round) {
    std::vector<float> x(96), y(96);
    const float size = std::pow(10.0f, static_cast<float>(random.between(-6, 3)));
    for (size_t i = 0; i < x.size(); ++i) x[i] = size * random.unit(), y[i] = random.unit();
    CHECK(same_bits(element_wise(first, x, y), element_wise(second, x, y)));
  }
  ThreadPool pool(1);
  for (const char* type : {"Q4_0", "Q4_1", "Q8_0", "F16"}) {
    for (const int k : {32, 64, 32 * 31, 32 * 33, 32 * 70}) {
      const int n = random.between(1, 40);
      const int m = random.between(14, 70);
      const PackedMatrix matrix =
          pack(source_type(type), random_matrix(random, type, n, k).bytes.data(), n, k, {}, pool);
      std::vector<float> x(static_cast<size_t>(m * k));
      for (float& value : x) value = random.unit();
      std::vector<int8_t> codes(x.size());
      const int groups = k / kGroup;
      std::vector<GroupMeta> meta(static_cast<size_t>(m * groups));
      for (int row = 0; row < m; ++row) {
        first.quantize(x.data() + row * k, k, codes.data() + row * k, meta.data() + row * groups);
      }
      const Activations input{x.data(), codes.data(), meta.data(), k};
      const ptrdiff_t stride = ptrdiff_t{matrix.n_blocks()} * kLanes;
      std::vector<float> expected(static_cast<size_t>(m * stride)), got(expected.size());
      second.matmul(matrix, input, 0, m, 0, matrix.n_blocks(), expected.data(), stride);
      first.matmul(matrix, input, 0, m, 0, matrix.n_blocks(), got.data(), stride);
      CHECK(same_bits(got, expected));
    }
  }
}

}  // namespace stoker
