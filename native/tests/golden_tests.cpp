// What every kernel makes of fixed inputs, as golden numbers: paths that fuse multiply and add meet one set of them,
// except where they multiply stored KV, the portable path meets another, each on whatever processor it runs.
#include <cinttypes>
#include <cstdio>
#include <iterator>

#include "float_mode.h"
#include "kernels.h"
#include "support.h"
#include "tests.h"
#include "thread_pool.h"

namespace stoker {

namespace {

// FNV-1a of the outputs, in order.
class Hash {
 public:
  template <class T>
  void add(const std::vector<T>& values) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(values.data());
    for (size_t i = 0; i < values.size() * sizeof(T); ++i) state_ = (state_ ^ bytes[i]) * 0x100000001b3u;
  }
  uint64_t value() const { return state_; }

 private:
  uint64_t state_ = 0xcbf29ce484222325u;
};

// Numbers of many sizes around 1, made by exact operations, so that they are the same on every machine.
std::vector<float> inputs(Random& random, int n) {
  std::vector<float> out(static_cast<size_t>(n));
  for (float& value : out) {
    const float unit = random.unit();
    switch (random.below(4)) {
      case 0: value = unit * 0x1p-6f; break;
      case 1: value = unit * 0x1p3f; break;
      default: value = unit;
    }
  }
  return out;
}

uint64_t hash_quantize(const Kernels& kernels, Random random, bool twice) {
  Hash hash;
  for (int round = 0; round < 40; ++round) {
    const int n = 32 * random.between(1, 9);
    const std::vector<float> x = inputs(random, n);
    std::vector<int8_t> codes(static_cast<size_t>(twice ? 2 * n : n));
    std::vector<GroupMeta> meta(static_cast<size_t>((twice ? 2 : 1) * (n / kGroup)));
    (twice ? kernels.quantize_twice : kernels.quantize)(x.data(), n, codes.data(), meta.data());
    hash.add(codes);
    hash.add(meta);
  }
  return hash.value();
}

uint64_t hash_matmul(const Kernels& kernels, Random random, const char* type) {
  Hash hash;
  ThreadPool pool(1);
  for (int m = 1; m <= 40; m += m < 14 ? 1 : 13) {
    const int n = random.between(1, 40);
    const int k = 32 * random.between(1, 9);
    const Stored stored = random_matrix(random, type, n, k);
    const PackedMatrix matrix = pack(source_type(type), stored.bytes.data(), n, k, {}, pool);
    const std::vector<float> x = inputs(random, m * k);
    std::vector<int8_t> codes(x.size());
    const int groups = k / kGroup;
    std::vector<GroupMeta> meta(static_cast<size_t>(m * groups));
    for (int row = 0; row < m; ++row) {
      kernels.quantize(x.data() + row * k, k, codes.data() + row * k, meta.data() + row * groups);
    }
    const ptrdiff_t stride = ptrdiff_t{matrix.n_blocks()} * kLanes;
    std::vector<float> out(static_cast<size_t>(m * stride));
    kernels.matmul(matrix, {x.data(), codes.data(), meta.data(), k}, 0, m, 0, matrix.n_blocks(), out.data(), stride);
    hash.add(out);
  }
  return hash.value();
}

template <class Kernel>  // (x, y, n, out)
uint64_t hash_values(Random random, const Kernel& kernel) {
  Hash hash;
  for (int round = 0; round < 20; ++round) {
    const int n = 32 * random.between(1, 9);
    const std::vector<float> x = inputs(random, n), y = inputs(random, n);
    std::vector<float> out(x);
    kernel(x.data(), y.data(), n, out.data());
    hash.add(out);
  }
  return hash.value();
}

uint64_t hash_exp_terms(const Kernels& kernels, Random random) {
  Hash hash;
  for (const int n : {1, 15, 16, 1024, 2500}) {
    const std::vector<float> x = inputs(random, n);
    std::vector<float> out(x.size());
    std::vector<double> sums(static_cast<size_t>((n + kSumChunk - 1) / kSumChunk));
    kernels.exp_terms(x.data(), n, 8.0f, 1.3f, out.data(), sums.data());
    hash.add(out);
    hash.add(sums);
  }
  return hash.value();
}

// One head's keys and values for `n_keys` positions, each block's keys and then its values.
std::vector<uint8_t> stored_keys(const Kernels& kernels, Random& random, KvType type, int head_size, int n_keys) {
  const size_t part = kv_part_bytes(type, head_size);
  std::vector<uint8_t> blocks(2 * part * static_cast<size_t>((n_keys + kBlockTokens - 1) / kBlockTokens));
  for (int i = 0; i < n_keys; ++i) {
    uint8_t* block = blocks.data() + static_cast<size_t>(i / kBlockTokens) * 2 * part;
    const std::vector<float> key = inputs(random, head_size), value = inputs(random, head_size);
    kernels.store_key(key.data(), head_size, i % kBlockTokens, type, block);
    kernels.store_value(value.data(), head_size, i % kBlockTokens, type, block + part);
  }
  return blocks;
}

// Storing, attending in two pieces and joining them.
uint64_t hash_attention(const Kernels& kernels, Random random, KvType type) {
  Hash hash;
  for (int round = 0; round < 6; ++round) {
    const int head_size = 32 * (1 + round % 3), group = 1 + round % 4, n_rows = random.between(1, 16);
    const int n_keys = kPieceTokens + random.between(n_rows, 150);
    const std::vector<uint8_t> blocks = stored_keys(kernels, random, type, head_size, n_keys);
    hash.add(blocks);
    std::vector<int32_t> table;
    for (int block = 0; block * kBlockTokens < n_keys; ++block) table.push_back(block);
    const auto n_outputs = static_cast<size_t>(n_rows * group);
    const std::vector<float> queries = inputs(random, n_rows * group * head_size);
    std::vector<float> scratch(attend_scratch_floats(group, head_size));
    std::vector<float> maximum[2], sum[2], accumulator[2];
    for (int piece = 0; piece < 2; ++piece) {
      maximum[piece].resize(n_outputs);
      sum[piece].resize(n_outputs);
      accumulator[piece].resize(n_outputs * static_cast<size_t>(head_size));
      kernels.attend({.queries = queries.data(),
                      .query_stride = ptrdiff_t{group} * head_size,
                      .n_rows = n_rows,
                      .group = group,
                      .head_size = head_size,
                      .first_position = n_keys - n_rows,
                      .key_begin = piece * kPieceTokens,
                      .key_end = (piece + 1) * kPieceTokens,
                      .window = round % 2 == 0 ? 0 : n_keys - 100,
                      .softcap = round % 3 == 0 ? 0.0f : 4.0f,
                      .block_table = table.data(),
                      .keys = blocks.data(),
                      .values = blocks.data() + kv_part_bytes(type, head_size),
                      .block_stride = 2 * kv_part_bytes(type, head_size),
                      .kv_type = type,
                      .scratch = scratch.data(),
                      .maximum = maximum[piece].data(),
                      .sum = sum[piece].data(),
                      .accumulator = accumulator[piece].data()});
    }
    for (size_t i = 0; i < n_outputs; ++i) {
      kernels.merge(&maximum[0][i], &sum[0][i], &accumulator[0][i * static_cast<size_t>(head_size)], maximum[1][i],
                    sum[1][i], &accumulator[1][i * static_cast<size_t>(head_size)], head_size);
    }
    hash.add(maximum[0]);
    hash.add(sum[0]);
    hash.add(accumulator[0]);
  }
  return hash.value();
}

struct Golden {
  const char* what;
  uint64_t fused;     // of the paths that round a multiply and add once
  uint64_t portable;  // of the one that rounds it twice
};

// A change of a kernel's order of operations changes its numbers: the test prints the new ones.
constexpr Golden kGolden[] = {
    {"quantize", 0x51d460baecad0da1, 0x51d460baecad0da1},
    {"quantize_twice", 0xf43c3eee7b94ad21, 0xf43c3eee7b94ad21},
    {"Q4_1", 0x91e9593ee416a5db, 0x2ab29a097e16e87e},
    {"Q8_0", 0x4282a75bfd937409, 0xeb03d6568c998e12},
    {"F16", 0xd0c0609353ae7214, 0xc90f822801344d55},
    {"BF16", 0xb49b27938084b5f8, 0x47fe9f9c2b884ab8},
    {"F32", 0x614b2980f5dcc480, 0xa57e6dde98edebc1},
    {"rms_norm", 0xd7461ce90f2b546a, 0xd2827089ec0460f1},
    {"add", 0xd89f4e68a743a95e, 0xd89f4e68a743a95e},
    {"scale", 0x9bb083aca9782dd5, 0x9bb083aca9782dd5},
    {"softcap", 0x862deb94a853da27, 0xf9c4f1b9f2324bae},
    {"swiglu", 0xc254752e4a1c6865, 0x99c576d71475e067},
    {"geglu", 0x7bd63e7bfe6dc7ed, 0xb32db65a06849cbc},
    {"clamped_swiglu", 0x7561aeb579ab3376, 0x9fa8fbf311e67ca2},
    {"rotate", 0x68d4a2819525567e, 0x68d4a2819525567e},
    {"divide", 0x8f9806d3694688b0, 0x8f9806d3694688b0},
    {"argmax", 0x6666d9052716a879, 0x6666d9052716a879},
    {"exp_terms", 0xf9caa5490014e0b6, 0x9bc13446cce8fdb5},
    {"attention f16", 0xc58214b6649ab59b, 0x79fab40a782e2245},
    {"attention f32", 0x948891ae3c878ffb, 0x03849e5eb83e4280},
    {"attention bf16", 0xcefeba1af98b0c0f, 0x6d3c7d2edd59ca02},
    {"attention q8", 0x5c3f68e60b0e5314, 0x4b1c0220ff228fba},
    // Of the paths that multiply KV as it is stored.
    {"attention bf16 in pairs", 0x9071ff47ce0442cc, 0},
    {"attention bf16 in tiles", 0x1c19cbb4e76774d9, 0},
    {"attention q8 in codes", 0xe4a4e7ae359a17be, 0},
};

constexpr size_t kAlternatives = 3;  // numbers in the place of others

class Checker {
 public:
  explicit Checker(const Kernels& kernels) : portable_(std::string(kernels.name) == "portable") {}
  void check(const char* what, uint64_t hash) {
    for (const Golden& golden : kGolden) {
      if (std::string(golden.what) != what) continue;
      const uint64_t expected = portable_ ? golden.portable : golden.fused;
      if (hash != expected) report(what, hash);
      ++n_checked_;
      return;
    }
    report(what, hash);
  }
  bool passed() const { return !failed_ && n_checked_ == std::size(kGolden) - kAlternatives; }

 private:
  void report(const char* what, uint64_t hash) {
    std::fprintf(stderr, "%s: got 0x%016" PRIx64 "\n", what, hash);
    failed_ = true;
  }
  bool portable_;
  bool failed_ = false;
  size_t n_checked_ = 0;
};

}  // namespace

void test_golden(const Kernels& kernels) {
  const FloatMode float_mode;
  const Random random(29);  // each kernel's own copy, so that none moves the others' numbers
  Checker checker(kernels);
  checker.check("quantize", hash_quantize(kernels, random, false));
  checker.check("quantize_twice", hash_quantize(kernels, random, true));
  for (const char* type : {"Q4_1", "Q8_0", "F16", "BF16", "F32"}) {
    checker.check(type, hash_matmul(kernels, random, type));
  }
  const auto values = [&](const char* what, const auto& kernel) { checker.check(what, hash_values(random, kernel)); };
  values("rms_norm", [&](const float* x, const float* y, int n, float* out) { kernels.rms_norm(x, y, n, 1e-5f, out); });
  values("add", [&](const float*, const float* y, int n, float* out) { kernels.add(out, y, n); });
  values("scale", [&](const float*, const float*, int n, float* out) { kernels.scale(out, 0.3f, n - 3); });
  values("softcap", [&](const float*, const float*, int n, float* out) { kernels.softcap(out, 3.0f, n); });
  values("swiglu", kernels.swiglu);
  values("geglu", kernels.geglu);
  values("clamped_swiglu", kernels.clamped_swiglu);
  values("rotate",
         [&](const float*, const float* y, int n, float* out) { kernels.rotate(out, y, y + n / 2, n / 2 - 3, 0.3f); });
  values("divide", [&](const float* x, const float*, int n, float* out) { kernels.divide(x, 3.0f, n, out); });
  values("argmax", [&](const float* x, const float*, int n, float* out) {
    out[0] = static_cast<float>(kernels.argmax(x, n - 1));
  });
  checker.check("exp_terms", hash_exp_terms(kernels, random));
  checker.check("attention f16", hash_attention(kernels, random, KvType::f16));
  checker.check("attention f32", hash_attention(kernels, random, KvType::f32));
  const std::string name = kernels.name;
  const bool tiles = name.rfind("amx", 0) == 0, pairs = name == "avx512bf16";
  const bool codes = tiles || pairs || name == "avx512vnni";
  checker.check(tiles   ? "attention bf16 in tiles"
                : pairs ? "attention bf16 in pairs"
                        : "attention bf16",
                hash_attention(kernels, random, KvType::bf16));
  checker.check(codes ? "attention q8 in codes" : "attention q8", hash_attention(kernels, random, KvType::q8));
  CHECK(checker.passed());
}

}  // namespace stoker
