// Attention of any shape: a row by itself has the bits that it has among others, whatever stands where it may not see.
#include <algorithm>
#include <limits>
#include <numeric>

#include "float_mode.h"
#include "kernels.h"
#include "support.h"
#include "tests.h"

namespace stoker {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

struct Shape {
  int n_rows, group, head_size, first_position, window;
  float softcap;
  KvType type;

  int n_keys() const { return first_position + n_rows; }
};

std::vector<float> numbers(Random& random, size_t n, float size) {
  std::vector<float> out(n);
  for (float& value : out) value = random.unit() * size;
  return out;
}

// The keys and values of one head in blocks of any order. Slots that are never stored have all bits set.
struct StoredHead {
  std::vector<uint8_t> keys, values;
  std::vector<int32_t> table;
  size_t part_bytes;

  StoredHead(const Kernels& kernels, const Shape& shape, const std::vector<float>& key_rows,
             const std::vector<float>& value_rows, bool in_order, Random& random)
      : part_bytes(kv_part_bytes(shape.type, shape.head_size)) {
    const int n_blocks = (shape.n_keys() + kBlockTokens - 1) / kBlockTokens;
    table.resize(static_cast<size_t>(n_blocks));
    std::iota(table.begin(), table.end(), 1);
    if (!in_order) random.shuffle(table);
    keys.assign(part_bytes * static_cast<size_t>(n_blocks + 2), 0xff);
    values = keys;
    for (int i = 0; i < shape.n_keys(); ++i) {
      const size_t at = part_bytes * static_cast<size_t>(table[static_cast<size_t>(i / kBlockTokens)]);
      const ptrdiff_t row = ptrdiff_t{i} * shape.head_size;
      kernels.store_key(key_rows.data() + row, shape.head_size, i % kBlockTokens, shape.type, keys.data() + at);
      kernels.store_value(value_rows.data() + row, shape.head_size, i % kBlockTokens, shape.type, values.data() + at);
    }
  }
};

// (maximum, sum, accumulator) of rows [begin, end), one row's after another's, over the piece that begins at key 0.
std::vector<float> attend_rows(const Kernels& kernels, const Shape& shape, const StoredHead& stored,
                               const std::vector<float>& queries, int begin, int end) {
  const size_t n = static_cast<size_t>((end - begin) * shape.group), head = static_cast<size_t>(shape.head_size);
  // Scratch may hold anything; not aligned, and no larger than promised.
  std::vector<float> scratch(attend_scratch_floats(shape.group, shape.head_size), kNan);
  std::vector<float> maximum(n), sum(n), accumulator(n * head);
  const ptrdiff_t row_floats = ptrdiff_t{shape.group} * shape.head_size;
  kernels.attend({.queries = queries.data() + begin * row_floats,
                  .query_stride = row_floats,
                  .n_rows = end - begin,
                  .group = shape.group,
                  .head_size = shape.head_size,
                  .first_position = shape.first_position + begin,
                  .key_begin = 0,
                  .key_end = kPieceTokens,
                  .window = shape.window,
                  .softcap = shape.softcap,
                  .block_table = stored.table.data(),
                  .keys = stored.keys.data(),
                  .values = stored.values.data(),
                  .block_stride = stored.part_bytes,
                  .kv_type = shape.type,
                  .scratch = scratch.data(),
                  .maximum = maximum.data(),
                  .sum = sum.data(),
                  .accumulator = accumulator.data()});
  std::vector<float> out;
  for (size_t i = 0; i < n; ++i) {
    out.push_back(maximum[i]);
    out.push_back(sum[i]);
    out.insert(out.end(), accumulator.begin() + static_cast<ptrdiff_t>(i * head),
               accumulator.begin() + static_cast<ptrdiff_t>((i + 1) * head));
  }
  return out;
}

Shape random_shape(Random& random) {
  constexpr int kHeads[] = {32, 64, 96, 128, 256}, kWindows[] = {0, 0, 1, 5, 16, 40, 64, 100, 300};
  Shape shape{.n_rows = random.between(1, kAttentionRows),
              .group = random.between(1, 8),
              .head_size = kHeads[random.below(5)],
              .first_position = random.below(3) == 0 ? random.below(40) : random.below(kPieceTokens - kAttentionRows),
              .window = kWindows[random.below(9)],
              .softcap = random.below(3) == 0 ? 4.0f : 0.0f,
              .type = KvType::bf16};
  if (random.below(2) == 0) shape.first_position -= shape.first_position % kBlockTokens;
  return shape;
}

// Numbers whose products with weights are subnormal, or zeros of both signs, now and then.
float value_size(Random& random) {
  constexpr float kSizes[] = {1.0f, 1.0f, 1e30f, 2e-38f, 1e-38f};
  return kSizes[random.below(5)];
}

}  // namespace

void test_attention(const Kernels& kernels) {
  const FloatMode float_mode;
  Random random(17);
  for (int round = 0; round < 400; ++round) {
    Shape shape = random_shape(random);
    shape.type = round % 4 == 3 ? kKvTypes[random.below(4)] : KvType::bf16;
    const auto head = static_cast<size_t>(shape.head_size);
    const size_t n_numbers = static_cast<size_t>(shape.n_keys()) * head;
    const std::vector<float> queries =
        numbers(random, static_cast<size_t>(shape.n_rows * shape.group) * head, random.below(4) == 0 ? 8.0f : 0.5f);
    const bool tiny = shape.type == KvType::bf16;
    const std::vector<float> keys = numbers(random, n_numbers, 1.0f),
                             values = numbers(random, n_numbers, tiny ? value_size(random) : 1.0f);
    const StoredHead stored(kernels, shape, keys, values, round % 2 == 0, random);
    const std::vector<float> together = attend_rows(kernels, shape, stored, queries, 0, shape.n_rows);
    const size_t row_outputs = together.size() / static_cast<size_t>(shape.n_rows);
    const auto in_all = [&](int begin, int end) {
      return std::vector<float>(together.begin() + static_cast<ptrdiff_t>(row_outputs) * begin,
                                together.begin() + static_cast<ptrdiff_t>(row_outputs) * end);
    };
    const int cut = random.below(shape.n_rows);
    CHECK(same_bits(attend_rows(kernels, shape, stored, queries, 0, cut + 1), in_all(0, cut + 1)));
    for (int row = 0; row < shape.n_rows; ++row) {
      // What a row does not see becomes anything: nothing was stored there, or no number was.
      std::vector<float> spoilt_keys(keys), spoilt_values(values);
      const int position = shape.first_position + row;
      for (size_t i = 0; i < n_numbers; ++i) {
        const int at = static_cast<int>(i / head);
        if (at >= first_seen(position, shape.window) && at <= position) continue;
        if (round % 3 == 0 && random.below(8) != 0) continue;
        spoilt_keys[i] = random.below(2) == 0 ? kNan : kInfinity;
        spoilt_values[i] = random.below(2) == 0 ? -kInfinity : kNan;
      }
      if (row == cut || row == shape.n_rows - 1) {
        const StoredHead spoilt(kernels, shape, spoilt_keys, spoilt_values, round % 2 == 0, random);
        std::vector<float> spoilt_queries(queries);
        const size_t row_numbers = static_cast<size_t>(shape.group) * head;
        for (size_t i = 0; i < queries.size(); ++i) {
          if (i / row_numbers != static_cast<size_t>(row) && random.below(50) == 0) spoilt_queries[i] = kNan;
        }
        const std::vector<float> all = attend_rows(kernels, shape, spoilt, spoilt_queries, 0, shape.n_rows);
        CHECK(same_bits({all.begin() + static_cast<ptrdiff_t>(row_outputs) * row,
                         all.begin() + static_cast<ptrdiff_t>(row_outputs) * (row + 1)},
                        in_all(row, row + 1)));
      }
      CHECK(same_bits(attend_rows(kernels, shape, stored, queries, row, row + 1), in_all(row, row + 1)));
    }
  }
}

// Two paths that attend with the same operations.
void test_equal_attention(const Kernels& first, const Kernels& second) {
  const FloatMode float_mode;
  Random random(19);
  for (int round = 0; round < 200; ++round) {
    Shape shape = random_shape(random);
    shape.type = round % 4 == 3 ? kKvTypes[random.below(4)] : KvType::bf16;
    const auto head = static_cast<size_t>(shape.head_size);
    const size_t n_numbers = static_cast<size_t>(shape.n_keys()) * head;
    const auto n_queries = static_cast<size_t>(shape.n_rows * shape.group);
    const bool extremes = shape.type == KvType::bf16;
    const std::vector<float> queries = numbers(random, n_queries * head, extremes ? value_size(random) : 1.0f);
    const std::vector<float> keys = numbers(random, n_numbers, 1.0f),
                             values = numbers(random, n_numbers, extremes ? value_size(random) : 1.0f);
    const StoredHead stored(first, shape, keys, values, round % 2 == 0, random);
    CHECK(same_bits(attend_rows(first, shape, stored, queries, 0, shape.n_rows),
                    attend_rows(second, shape, stored, queries, 0, shape.n_rows)));
  }
}

}  // namespace stoker
