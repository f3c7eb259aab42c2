// Matrix products on vectors alone, for instruction sets without tiles.

namespace stoker::STOKER_ISA {

static void matmul(const PackedMatrix& matrix, const Activations& input, int row_begin, int row_end, int block_begin,
                   int block_end, float* out, ptrdiff_t stride) {
  for (int b = block_begin; b < block_end; ++b) {
    multiply_block(matrix, matrix.memory.as<uint8_t>() + static_cast<size_t>(b) * matrix.block_size, input, row_begin,
                   row_end - row_begin, out + (b - block_begin) * kLanes, stride);
  }
}

}  // namespace stoker::STOKER_ISA
