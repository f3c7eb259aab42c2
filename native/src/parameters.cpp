// A model's weights by name: packing matrices, taking norms and biases, and checking that nothing is missing.
#include <algorithm>
#include <stdexcept>

#include "model.h"
#include "model_scratch.h"

namespace stoker {

namespace {

void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

// The slot of that name and layer. Throws std::invalid_argument when the shape has none.
template <class Slot>
const Slot& find_slot(const std::vector<Slot>& slots, const char* kind, const std::string& name, int layer) {
  bool named = false;
  for (const Slot& slot : slots) {
    if (name != slot.name) continue;
    named = true;
    if (slot.layer == -1 || slot.layer == layer) return slot;
  }
  require(named, "the model has no " + std::string(kind) + " '" + name + "'");
  throw std::invalid_argument("layer " + std::to_string(layer) + " is out of range");
}

}  // namespace

void Model::set_matrix(const std::string& name, int layer, const std::string& type, const uint8_t* data, size_t size,
                       bool adjacent_pairs) {
  const MatrixSlot& slot = find_slot(matrices_, "matrix", name, layer);
  const SourceType source = source_type(type);
  const size_t expected = source_row_size(source, slot.columns) * static_cast<size_t>(slot.rows);
  require(size == expected,
          name + ": expected " + std::to_string(expected) + " bytes of " + type + ", got " + std::to_string(size));
  PackOptions options = slot.options;
  if (!adjacent_pairs) options.rotary_heads = 0;
  const bool precise = slot.matrix->precise;
  *slot.matrix = pack(source, data, slot.rows, slot.columns, options, pool_);
  slot.matrix->precise = precise;
}

void Model::map_matrix(const std::string& name, int layer, const std::string& type, const uint8_t* bytes, size_t size) {
  const MatrixSlot& slot = find_slot(matrices_, "matrix", name, layer);
  const WeightType held = weight_type(type);
  require(!slot.options.dequantize || held == WeightType::f32, name + ": expected f32, got " + type);
  const bool precise = slot.matrix->precise;
  *slot.matrix = view_packed(held, bytes, size, slot.rows, slot.columns);
  slot.matrix->precise = precise;
}

void Model::set_activation_bits(const std::string& name, int layer, int bits) {
  const MatrixSlot& slot = find_slot(matrices_, "matrix", name, layer);
  require(bits == 8 || bits == 16, name + ": activations have 8 or 16 bits, not " + std::to_string(bits));
  if (bits == 16) want_twice(slot);
  slot.matrix->precise = bits == 16;
}

int Model::activation_bits(const std::string& name, int layer) const {
  return find_slot(matrices_, "matrix", name, layer).matrix->precise ? 16 : 8;
}

// Reserves what the activations of a matrix take at 16 bits.
void Model::want_twice(const MatrixSlot& slot) {
  const std::string name = slot.name;
  Scratch& scratch = *scratch_;
  if (name == "o") {
    scratch.attended.want_twice();
  } else if (name == "down") {
    scratch.inner.want_twice();
  } else {
    scratch.normed.want_twice();
    if (shape_.experts && (name == "gate" || name == "up")) scratch.experts.gathered.want_twice();
  }
}

const PackedMatrix& Model::packed_matrix(const std::string& name, int layer) const {
  const PackedMatrix* matrix = find_slot(matrices_, "matrix", name, layer).matrix;
  require(matrix->n > 0, name + " has not been set");
  return *matrix;
}

void Model::set_vector(const std::string& name, int layer, const float* data, size_t count, bool adjacent_pairs) {
  const VectorSlot& slot = find_slot(vectors_, "vector", name, layer);
  require(count == static_cast<size_t>(slot.size),
          name + ": expected " + std::to_string(slot.size) + " values, got " + std::to_string(count));
  slot.values->assign(data, data + count);
  if (!adjacent_pairs || slot.rotary_head == 0) return;
  for (int i = 0; i < slot.size; ++i) {
    (*slot.values)[static_cast<size_t>(i)] = data[neighbours_row(i, slot.rotary_head, slot.rotary_pairs)];
  }
}

void Model::finish() const {
  const auto missing = [](const auto& slot) {
    const std::string of_layer = slot.layer < 0 ? "" : " of layer " + std::to_string(slot.layer);
    throw std::invalid_argument("'" + std::string(slot.name) + "'" + of_layer + " is missing");
  };
  for (const MatrixSlot& slot : matrices_) {
    if (slot.matrix->n == 0) missing(slot);
  }
  for (const VectorSlot& slot : vectors_) {
    if (slot.values->empty()) missing(slot);
  }
}

size_t Model::weight_bytes() const {
  size_t total = 0;
  for (const MatrixSlot& slot : matrices_) total += slot.matrix->memory.size();
  return total;
}

}  // namespace stoker
