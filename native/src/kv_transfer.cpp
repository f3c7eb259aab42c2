// Copying KV blocks out of the model and back, whatever they hold: all layers, keys and values, of whole blocks.
#include <cstring>
#include <stdexcept>
#include <string>

#include "model.h"

namespace stoker {

size_t Model::kv_block_bytes() const { return layers_.size() * (key_piece_bytes_ + value_piece_bytes_); }

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

// Calls `copy(piece in the model, offset in the slot, bytes)` for every piece of a block, in the order of the slot.
template <class Copy>
void Model::for_pieces(int block, Copy&& copy) const {
  const auto n_blocks = static_cast<size_t>(options_.kv_blocks);
  size_t offset = 0;
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const size_t piece = layer * n_blocks + static_cast<size_t>(block);
    copy(keys_.as<uint8_t>() + piece * key_piece_bytes_, offset, key_piece_bytes_);
    offset += key_piece_bytes_;
    copy(values_.as<uint8_t>() + piece * value_piece_bytes_, offset, value_piece_bytes_);
    offset += value_piece_bytes_;
  }
}

void Model::save_blocks(const int32_t* blocks, const int32_t* slots, size_t n, uint8_t* memory, size_t size) {
  check_transfer(blocks, slots, n, size);
  pool_.run(static_cast<int>(n), [&](int i, int) {
    uint8_t* slot = memory + static_cast<size_t>(slots[i]) * kv_block_bytes();
    for_pieces(blocks[i],
               [=](const uint8_t* piece, size_t offset, size_t bytes) { std::memcpy(slot + offset, piece, bytes); });
  });
}

void Model::load_blocks(const int32_t* blocks, const int32_t* slots, size_t n, const uint8_t* memory, size_t size) {
  check_transfer(blocks, slots, n, size);
  pool_.run(static_cast<int>(n), [&](int i, int) {
    const uint8_t* slot = memory + static_cast<size_t>(slots[i]) * kv_block_bytes();
    for_pieces(blocks[i],
               [=](uint8_t* piece, size_t offset, size_t bytes) { std::memcpy(piece, slot + offset, bytes); });
  });
}

}  // namespace stoker
