// Single kernels as Python functions over NumPy arrays, so that tests can hold each against a plain reference.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

#include "bindings.h"
#include "bindings_edits.h"
#include "float_mode.h"
#include "kernels.h"
#include "sampler.h"
#include "shape.h"
#include "thread_pool.h"

namespace nb = nanobind;

namespace stoker {

namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Cube = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Ints = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> to_numpy(std::vector<T> values, std::initializer_list<size_t> shape) {
  auto* held = new std::vector<T>(std::move(values));
  nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::ndarray<nb::numpy, T>(held->data(), shape.size(), shape.begin(), owner);
}

PackedMatrix pack_bytes(const std::string& type, const Bytes& data, int n, int k, bool dequantize) {
  const SourceType source = source_type(type);
  if (n <= 0 || data.size() != source_row_size(source, k) * static_cast<size_t>(n)) {
    throw std::invalid_argument("data does not hold n rows of k values");
  }
  ThreadPool pool(1);
  return pack(source, data.data(), n, k, {.dequantize = dequantize}, pool);
}

struct Quantized {
  std::vector<int8_t> codes;
  std::vector<GroupMeta> meta;
};

Quantized quantize_rows(const Kernels& kernels, const Matrix& x) {
  const size_t m = x.shape(0), k = x.shape(1);
  if (k % kGroup != 0) throw std::invalid_argument("rows must be a multiple of 32 long");
  const size_t groups = k / kGroup;
  Quantized out{std::vector<int8_t>(m * k), std::vector<GroupMeta>(m * groups)};
  for (size_t r = 0; r < m; ++r) {
    kernels.quantize(x.data() + r * k, static_cast<int>(k), out.codes.data() + r * k, out.meta.data() + r * groups);
  }
  return out;
}

auto matmul(const std::string& isa, const std::string& type, Bytes data, int n, int k, Matrix x) {
  const Kernels& kernels = find_kernels(isa);
  const FloatMode float_mode;
  const PackedMatrix matrix = pack_bytes(type, data, n, k, false);
  if (x.shape(1) != static_cast<size_t>(k)) throw std::invalid_argument("x must have k columns");
  const auto m = static_cast<int>(x.shape(0));
  const Quantized q = quantize_rows(kernels, x);
  const ptrdiff_t stride = ptrdiff_t{matrix.n_blocks()} * kLanes;
  std::vector<float> padded(static_cast<size_t>(m * stride));
  kernels.matmul(matrix, {x.data(), q.codes.data(), q.meta.data(), k}, 0, m, 0, matrix.n_blocks(), padded.data(),
                 stride);
  std::vector<float> out;
  for (int r = 0; r < m; ++r) out.insert(out.end(), padded.begin() + r * stride, padded.begin() + r * stride + n);
  return to_numpy(std::move(out), {x.shape(0), static_cast<size_t>(n)});
}

auto unpack(const std::string& type, Bytes data, int n, int k, bool dequantize) {
  const PackedMatrix matrix = pack_bytes(type, data, n, k, dequantize);
  std::vector<float> out(static_cast<size_t>(n) * static_cast<size_t>(k));
  for (int r = 0; r < n; ++r) unpack_row(matrix, r, out.data() + static_cast<size_t>(r) * static_cast<size_t>(k));
  return to_numpy(std::move(out), {static_cast<size_t>(n), static_cast<size_t>(k)});
}

nb::tuple to_tuple(const Quantized& q, size_t rows, size_t k) {
  std::vector<float> scales, offsets, sums;
  for (const GroupMeta& meta : q.meta) {
    scales.push_back(meta.scale);
    offsets.push_back(meta.offset);
    sums.push_back(meta.sum);
  }
  const size_t groups = k / kGroup;
  return nb::make_tuple(to_numpy(q.codes, {rows, k}), to_numpy(scales, {rows, groups}),
                        to_numpy(offsets, {rows, groups}), to_numpy(sums, {rows, groups}));
}

nb::tuple quantize(const std::string& isa, Matrix x) {
  return to_tuple(quantize_rows(find_kernels(isa), x), x.shape(0), x.shape(1));
}

nb::tuple quantize_twice(const std::string& isa, Vector x) {
  const size_t k = x.size();
  if (k == 0 || k % kGroup != 0) throw std::invalid_argument("length must be a multiple of 32");
  const size_t groups = k / kGroup;
  Quantized q{std::vector<int8_t>(2 * k), std::vector<GroupMeta>(2 * groups)};
  find_kernels(isa).quantize_twice(x.data(), static_cast<int>(k), q.codes.data(), q.meta.data());
  return to_tuple(q, 2, k);
}

void need_sixteens(size_t n) {
  if (n == 0 || n % 16 != 0) throw std::invalid_argument("length must be a multiple of 16");
}

auto rms_norm(const std::string& isa, Vector x, Vector weight, float epsilon) {
  need_sixteens(x.size());
  if (weight.size() != x.size()) throw std::invalid_argument("weight must be as long as x");
  std::vector<float> out(x.size());
  find_kernels(isa).rms_norm(x.data(), weight.data(), static_cast<int>(x.size()), epsilon, out.data());
  return to_numpy(std::move(out), {x.size()});
}

auto activate(const std::string& isa, const std::string& activation, Vector gate, Vector up) {
  need_sixteens(gate.size());
  if (up.size() != gate.size()) throw std::invalid_argument("up must be as long as gate");
  std::vector<float> out(gate.size());
  activation_of(find_kernels(isa), activation_named(activation))(gate.data(), up.data(), static_cast<int>(gate.size()),
                                                                 out.data());
  return to_numpy(std::move(out), {gate.size()});
}

auto softcap(const std::string& isa, Vector x, float cap) {
  need_sixteens(x.size());
  std::vector<float> out(x.data(), x.data() + x.size());
  find_kernels(isa).softcap(out.data(), cap, static_cast<int>(out.size()));
  return to_numpy(std::move(out), {x.size()});
}

auto rotate(const std::string& isa, Vector x, Vector cosine, Vector sine, float scale) {
  if (x.size() != 2 * cosine.size() || sine.size() != cosine.size()) {
    throw std::invalid_argument("x must be twice as long as cosine and sine");
  }
  std::vector<float> out(x.data(), x.data() + x.size());
  find_kernels(isa).rotate(out.data(), cosine.data(), sine.data(), static_cast<int>(cosine.size()), scale);
  return to_numpy(std::move(out), {x.size()});
}

auto exp_terms(const std::string& isa, Vector x, float maximum, float factor) {
  std::vector<float> out(x.size());
  std::vector<double> sums(x.size() / kSumChunk + 1);
  find_kernels(isa).exp_terms(x.data(), static_cast<int>(x.size()), maximum, factor, out.data(), sums.data());
  return to_numpy(std::move(out), {x.size()});
}

// Keys and values of one KV head in blocks as they are stored. Whatever is not written is NaN, as it may be in recycled
// memory.
struct StoredHead {
  StoredHead(const Kernels& kernels, KvType type, const Matrix& keys, const Matrix& values, const Ints& block_table)
      : part_bytes(kv_part_bytes(type, static_cast<int>(keys.shape(1)))) {
    int n_blocks = 0;
    for (size_t i = 0; i < block_table.size(); ++i) n_blocks = std::max(n_blocks, block_table(i) + 1);
    key_parts.assign(static_cast<size_t>(n_blocks) * part_bytes, 0xff);
    value_parts = key_parts;
    const auto head_size = static_cast<int>(keys.shape(1));
    for (size_t i = 0; i < keys.shape(0); ++i) {
      const size_t at = static_cast<size_t>(block_table(i / kBlockTokens)) * part_bytes;
      const auto slot = static_cast<int>(i % kBlockTokens);
      kernels.store_key(keys.data() + i * keys.shape(1), head_size, slot, type, &key_parts[at]);
      kernels.store_value(values.data() + i * values.shape(1), head_size, slot, type, &value_parts[at]);
    }
  }

  size_t part_bytes;
  std::vector<uint8_t> key_parts, value_parts;
};

struct Attended {
  std::vector<float> maximum, sum, total;

  explicit Attended(size_t n_queries, int head_size)
      : maximum(n_queries), sum(n_queries), total(n_queries * static_cast<size_t>(head_size)) {}
};

// A call's rows over all their pieces.
void attend_rows(const Kernels& kernels, AttendArgs args, float* out) {
  const size_t n_queries = static_cast<size_t>(args.n_rows) * static_cast<size_t>(args.group);
  const auto head = static_cast<size_t>(args.head_size);
  Attended whole(n_queries, args.head_size), part(n_queries, args.head_size);
  args.maximum = part.maximum.data();
  args.sum = part.sum.data();
  args.accumulator = part.total.data();
  const int end_piece = piece_of(args.first_position + args.n_rows - 1) + 1;
  for (int piece = piece_of(first_seen(args.first_position, args.window)); piece < end_piece; ++piece) {
    args.key_begin = piece_begin(piece);
    args.key_end = piece_begin(piece + 1);
    kernels.attend(args);
    for (size_t i = 0; i < n_queries; ++i) {
      const int position = args.first_position + static_cast<int>(i) / args.group;
      const int first_piece = piece_of(first_seen(position, args.window));
      if (piece == first_piece) {
        whole.maximum[i] = part.maximum[i];
        whole.sum[i] = part.sum[i];
        std::copy_n(&part.total[i * head], head, &whole.total[i * head]);
      } else if (piece > first_piece && position >= args.key_begin) {
        kernels.merge(&whole.maximum[i], &whole.sum[i], &whole.total[i * head], part.maximum[i], part.sum[i],
                      &part.total[i * head], args.head_size);
      }
    }
  }
  for (size_t i = 0; i < n_queries; ++i) {
    kernels.divide(&whole.total[i * head], whole.sum[i], args.head_size, out + i * head);
  }
}

// Attention of consecutive positions with one KV head, through blocks in the given order.
auto attend(const std::string& isa, Cube queries, Matrix keys, Matrix values, int first_position, Ints block_table,
            const std::string& kv_type, int window, float softcap) {
  const Kernels& kernels = find_kernels(isa);
  const FloatMode float_mode;
  const auto n_rows = static_cast<int>(queries.shape(0));
  const auto group = static_cast<int>(queries.shape(1));
  const auto head_size = static_cast<int>(queries.shape(2));
  const int n_keys = first_position + n_rows;
  const bool blocks_exist = std::all_of(block_table.data(), block_table.data() + block_table.size(),
                                        [](int32_t block) { return block >= 0; });
  if (n_rows == 0 || group == 0 || head_size == 0 || first_position < 0 || !blocks_exist || head_size % kGroup != 0 ||
      window < 0 || keys.shape(0) != static_cast<size_t>(n_keys) || keys.shape(1) != queries.shape(2) ||
      values.shape(0) != keys.shape(0) || values.shape(1) != keys.shape(1) ||
      block_table.size() * kBlockTokens < static_cast<size_t>(n_keys)) {
    throw std::invalid_argument("shapes do not fit each other");
  }
  const KvType type = kv_type_named(kv_type);
  const StoredHead stored(kernels, type, keys, values, block_table);
  std::vector<float> scratch(attend_scratch_floats(group, head_size), __builtin_nanf(""));
  std::vector<float> out(queries.size());
  const ptrdiff_t row_floats = ptrdiff_t{group} * head_size;
  for (int row = 0; row < n_rows; row += kAttentionRows) {
    attend_rows(kernels,
                {.queries = queries.data() + row * row_floats,
                 .query_stride = row_floats,
                 .n_rows = std::min(kAttentionRows, n_rows - row),
                 .group = group,
                 .head_size = head_size,
                 .first_position = first_position + row,
                 .key_begin = 0,
                 .key_end = 0,
                 .window = window,
                 .softcap = softcap,
                 .block_table = block_table.data(),
                 .keys = stored.key_parts.data(),
                 .values = stored.value_parts.data(),
                 .block_stride = stored.part_bytes,
                 .kv_type = type,
                 .scratch = scratch.data(),
                 .maximum = nullptr,
                 .sum = nullptr,
                 .accumulator = nullptr},
                out.data() + row * row_floats);
  }
  return to_numpy(std::move(out), {queries.shape(0), queries.shape(1), queries.shape(2)});
}

// Keys and values as they come out of the cache: those of a model that has been told what the cache has rounded.
nb::tuple stored_kv(const std::string& isa, const std::string& kv_type, Matrix keys, Matrix values) {
  const size_t n = keys.shape(0), head = keys.shape(1);
  if (n == 0 || head == 0 || head % kGroup != 0 || values.shape(0) != n || values.shape(1) != head) {
    throw std::invalid_argument("shapes do not fit each other");
  }
  const Kernels& kernels = find_kernels(isa);
  const FloatMode float_mode;
  const KvType type = kv_type_named(kv_type);
  const auto head_size = static_cast<int>(head);
  std::vector<uint8_t> part(kv_part_bytes(type, head_size));
  std::vector<float> tile(kTileTokens * head), key(n * head), value(n * head);
  for (size_t i = 0; i < n; ++i) {
    kernels.store_key(keys.data() + i * head, head_size, 0, type, part.data());
    kernels.widen_keys(part.data(), type, head_size, tile.data());
    for (size_t d = 0; d < head; ++d) key[i * head + d] = tile[d * kTileTokens];
    kernels.store_value(values.data() + i * head, head_size, 0, type, part.data());
    kernels.widen_values(part.data(), type, head_size, tile.data());
    std::copy_n(tile.data(), head, &value[i * head]);
  }
  return nb::make_tuple(to_numpy(std::move(key), {n, head}), to_numpy(std::move(value), {n, head}));
}

nb::tuple sample_one(const std::string& isa, Vector logits, float temperature, int top_k, float top_p, float min_p,
                     uint64_t seed, uint32_t choice, uint32_t position, int n_logprobs, const PyLogitEdits* edits) {
  if (logits.size() == 0 || n_logprobs > kMaxLogprobs) throw std::invalid_argument("no logits, or too many logprobs");
  const auto vocab = static_cast<int>(logits.size());
  SampleScratch scratch(vocab);
  std::vector<SampleParams> params{{temperature, top_k, top_p, min_p, seed, choice, position, n_logprobs, nullptr}};
  if (edits != nullptr) edits->attach(params);
  if (params[0].edits != nullptr) check_edits(*params[0].edits, vocab);
  const Sample s = sample(find_kernels(isa), logits.data(), vocab, params[0], scratch);
  nb::list top;
  for (int i = 0; i < std::min(n_logprobs, vocab); ++i) top.append(nb::make_tuple(s.top_tokens[i], s.top_logprobs[i]));
  return nb::make_tuple(s.token, s.logprob, top);
}

}  // namespace

void bind_kernels(nb::module_& parent) {
  nb::module_ m = parent.def_submodule("kernels", "Single kernels, for checking them against a reference.");
  m.def("matmul", &matmul, nb::arg("isa"), nb::arg("dtype"), nb::arg("data"), nb::arg("n"), nb::arg("k"), nb::arg("x"));
  m.def("unpack", &unpack, nb::arg("dtype"), nb::arg("data"), nb::arg("n"), nb::arg("k"),
        nb::arg("dequantize") = false);
  m.def("quantize", &quantize, nb::arg("isa"), nb::arg("x"));
  m.def("quantize_twice", &quantize_twice, nb::arg("isa"), nb::arg("x"));
  m.def("rms_norm", &rms_norm, nb::arg("isa"), nb::arg("x"), nb::arg("weight"), nb::arg("epsilon"));
  m.def("activate", &activate, nb::arg("isa"), nb::arg("activation"), nb::arg("gate"), nb::arg("up"));
  m.def("softcap", &softcap, nb::arg("isa"), nb::arg("x"), nb::arg("cap"));
  m.def("rotate", &rotate, nb::arg("isa"), nb::arg("x"), nb::arg("cosine"), nb::arg("sine"), nb::arg("scale"));
  m.def("exp_terms", &exp_terms, nb::arg("isa"), nb::arg("x"), nb::arg("maximum"), nb::arg("factor"));
  m.def("attend", &attend, nb::arg("isa"), nb::arg("queries"), nb::arg("keys"), nb::arg("values"),
        nb::arg("first_position"), nb::arg("block_table"), nb::arg("kv_type"), nb::arg("window") = 0,
        nb::arg("softcap") = 0.0f);
  m.def("stored_kv", &stored_kv, nb::arg("isa"), nb::arg("kv_type"), nb::arg("keys"), nb::arg("values"));
  m.def("sample", &sample_one, nb::arg("isa"), nb::arg("logits"), nb::arg("temperature"), nb::arg("top_k"),
        nb::arg("top_p"), nb::arg("min_p"), nb::arg("seed"), nb::arg("choice"), nb::arg("position"),
        nb::arg("n_logprobs"), nb::arg("edits").none() = nb::none());
}

}  // namespace stoker
