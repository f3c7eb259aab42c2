// Copying KV blocks out of the model and back, whatever they hold: all layers, keys and values, of whole blocks.
#include <cstring>
#include <stdexcept>
#include <string>

#include "model.h"

namespace stoker {

size_t Model::kv_block_bytes() const {
  return layers_.size() * static_cast<size_t>(shape_.n_kv_heads) * 2 * kv_part_bytes(kv_type_, shape_.head_size);
}

void Model::check_transfer(const int32_t* blocks, const int32_t* slots, size_t n, size_t size) const {
  const size_t n_slots = size / kv_block_bytes();
  for (size_t i = 0; i < n; ++i) {
    if (blocks[i] < 0 || blocks[i] >= options_.kv_blocks) {
      throw std::invalid_argument("there is no KV block " + std::to_string(blocks[i]));
    }
    if (slots[i] < 0 || static_cast<size_t>(slots[i]) >= n_slots) {
      throw std::invalid_argument("there is no slot " + std::to_string(slots[i]) + " in " + std::to_string(size) +
                                  " bytes");
    }
  }
}

// Calls `copy(part in the model, offset in the slot, bytes)` for every part of a block, in the order of the slot:
// layer after layer, the keys of all KV heads before the values of all. Where parts are in the model is kv_at's matter.
template <class Copy>
void Model::for_parts(int block, Copy&& copy) const {
  const size_t bytes = kv_part_bytes(kv_type_, shape_.head_size);
  size_t offset = 0;
  for (int layer = 0; layer < static_cast<int>(layers_.size()); ++layer) {
    for (const Memory* memory : {&keys_, &values_}) {
      for (int head = 0; head < shape_.n_kv_heads; ++head) {
        copy(kv_at(*memory, layer, block, head), offset, bytes);
        offset += bytes;
      }
    }
  }
}

void Model::save_blocks(const int32_t* blocks, const int32_t* slots, size_t n, uint8_t* memory, size_t size) {
  check_transfer(blocks, slots, n, size);
  pool_.run(static_cast<int>(n), [&](int i, int) {
    uint8_t* slot = memory + static_cast<size_t>(slots[i]) * kv_block_bytes();
    for_parts(blocks[i],
              [=](const uint8_t* part, size_t offset, size_t bytes) { std::memcpy(slot + offset, part, bytes); });
  });
}

void Model::load_blocks(const int32_t* blocks, const int32_t* slots, size_t n, const uint8_t* memory, size_t size) {
  check_transfer(blocks, slots, n, size);
  pool_.run(static_cast<int>(n), [&](int i, int) {
    const uint8_t* slot = memory + static_cast<size_t>(slots[i]) * kv_block_bytes();
    for_parts(blocks[i], [=](uint8_t* part, size_t offset, size_t bytes) { std::memcpy(part, slot + offset, bytes); });
  });
}

}  // namespace stoker
