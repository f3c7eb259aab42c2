// Weights as a file stores them: any bytes, of every type, at every shape that the readers take.
#include <stdexcept>
#include <string>

#include "support.h"
#include "thread_pool.h"
#include "weights.h"

namespace stoker {

namespace {

void fuzz(FuzzedDataProvider& data) {
  const bool any_name = data.ConsumeIntegralInRange<int>(0, 31) == 0;
  const std::string name = any_name ? data.ConsumeRandomLengthString(8) : data.PickValueInArray(kTypeNames);
  const SourceType type = source_type(name);
  const int k = data.ConsumeIntegralInRange<int>(0, 4) * (data.ConsumeBool() ? kGroup : 256) +
                (data.ConsumeIntegralInRange<int>(0, 15) == 0 ? data.ConsumeIntegralInRange<int>(-600, 600) : 0);
  const int n = data.ConsumeIntegralInRange<int>(0, 36);
  const PackOptions options{
      .dequantize = data.ConsumeBool(),
      .rotary_heads = data.ConsumeBool() ? data.ConsumeIntegralInRange<int>(0, 8) : 0,
  };
  const size_t row_size = source_row_size(type, k);
  REQUIRE(k % kGroup == 0 && k >= 0 && row_size <= 4 * static_cast<size_t>(k));
  const std::vector<uint8_t> stored = stretched(data, row_size * static_cast<size_t>(n));

  std::vector<float> values(static_cast<size_t>(k));
  for (int row = 0; row < n; ++row) {
    const uint8_t* bytes = stored.data() + static_cast<size_t>(row) * row_size;
    for (int group = 0; group < k / kGroup; ++group) read_values(type, bytes, group, values.data() + group * kGroup);
    if (is_plain(type) || type == SourceType::q2_k || type == SourceType::q6_k) continue;
    for (int group = 0; group < k / kGroup; ++group) {
      StoredGroup read;
      read_group(type, bytes, group, read);
      REQUIRE(read.zero == 0 || read.offset == 0.0f);
    }
  }

  ThreadPool pool(1);
  const PackedMatrix matrix = pack(type, stored.data(), n, k, options, pool);
  REQUIRE(matrix.n == n && matrix.k == k);
  for (int row = 0; row < n; ++row) unpack_row(matrix, row, values.data());
}

}  // namespace

}  // namespace stoker

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t size) {
  FuzzedDataProvider data(bytes, size);
  try {
    stoker::fuzz(data);
  } catch (const std::invalid_argument&) {
  }
  return 0;
}
