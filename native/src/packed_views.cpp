// Packed matrices going out to a pack file and coming in from one.
#include <stdexcept>

#include "model.h"

namespace stoker {

void Model::map_matrix(const std::string& name, int layer, const std::string& type, const uint8_t* bytes, size_t size) {
  const MatrixSlot slot = matrix_slot(name, layer);
  const WeightType held = weight_type(type);
  if (options_.float_path && held != WeightType::f32) {
    throw std::invalid_argument(name + ": the float path holds its weights as f32, not as " + type);
  }
  *slot.matrix = view_packed(held, bytes, size, slot.rows, slot.columns);
}

const PackedMatrix& Model::packed_matrix(const std::string& name, int layer) {
  const PackedMatrix* matrix = matrix_slot(name, layer).matrix;
  if (matrix->n == 0) throw std::invalid_argument(name + " has not been set");
  return *matrix;
}

}  // namespace stoker
