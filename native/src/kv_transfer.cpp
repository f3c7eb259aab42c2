// Copying KV blocks out of the model and back, whatever they hold: all layers, keys and values, of whole blocks.
#include <cstring>
#include <stdexcept>
#include <string>

#include "model.h"

namespace stoker {

namespace {

// A memory is [layer][block][...]: what one layer keeps for one block.
size_t piece_bytes(const Memory& memory, size_t n_layers, int kv_blocks) {
  return memory.size() / (n_layers * static_cast<size_t>(kv_blocks));
}

}  // namespace

size_t Model::kv_block_bytes() const {
  const size_t n_layers = layers_.size();
  return n_layers *
         (piece_bytes(keys_, n_layers, options_.kv_blocks) + piece_bytes(values_, n_layers, options_.kv_blocks));
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

void Model::save_blocks(const int32_t* blocks, const int32_t* slots, size_t n, uint8_t* memory, size_t size) {
  check_transfer(blocks, slots, n, size);
  const size_t n_layers = layers_.size();
  const auto n_blocks = static_cast<size_t>(options_.kv_blocks);
  pool_.run(static_cast<int>(n), [&](int i, int) {
    uint8_t* out = memory + static_cast<size_t>(slots[i]) * kv_block_bytes();
    for (size_t layer = 0; layer < n_layers; ++layer) {
      for (const Memory* from : {&keys_, &values_}) {
        const size_t bytes = piece_bytes(*from, n_layers, options_.kv_blocks);
        std::memcpy(out, from->as<uint8_t>() + (layer * n_blocks + static_cast<size_t>(blocks[i])) * bytes, bytes);
        out += bytes;
      }
    }
  });
}

void Model::load_blocks(const int32_t* blocks, const int32_t* slots, size_t n, const uint8_t* memory, size_t size) {
  check_transfer(blocks, slots, n, size);
  const size_t n_layers = layers_.size();
  const auto n_blocks = static_cast<size_t>(options_.kv_blocks);
  pool_.run(static_cast<int>(n), [&](int i, int) {
    const uint8_t* in = memory + static_cast<size_t>(slots[i]) * kv_block_bytes();
    for (size_t layer = 0; layer < n_layers; ++layer) {
      for (const Memory* into : {&keys_, &values_}) {
        const size_t bytes = piece_bytes(*into, n_layers, options_.kv_blocks);
        std::memcpy(into->as<uint8_t>() + (layer * n_blocks + static_cast<size_t>(blocks[i])) * bytes, in, bytes);
        in += bytes;
      }
    }
  });
}

}  // namespace stoker
