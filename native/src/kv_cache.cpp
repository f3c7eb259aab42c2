#include "kv_cache.h"

#include <cstdint>
#include <stdexcept>

namespace stoker {

size_t kv_part_bytes(KvType type, int head_size) {
  const size_t n_values = static_cast<size_t>(head_size) * kBlockTokens;
  switch (type) {
    case KvType::f32: return n_values * sizeof(float);
    case KvType::q8: return n_values + 2 * kBlockTokens * sizeof(uint16_t);
    default: return n_values * sizeof(uint16_t);
  }
}

const char* kv_type_name(KvType type) {
  switch (type) {
    case KvType::f32: return "f32";
    case KvType::bf16: return "bf16";
    case KvType::q8: return "q8";
    default: return "f16";
  }
}

KvType kv_type_named(const std::string& name) {
  for (const KvType type : {KvType::f16, KvType::f32, KvType::bf16, KvType::q8}) {
    if (name == kv_type_name(type)) return type;
  }
  throw std::invalid_argument("there is no KV type '" + name + "'; there are f16, bf16, q8 and f32");
}

}  // namespace stoker
