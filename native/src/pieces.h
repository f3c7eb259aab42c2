// A long context is attended in pieces of keys, which threads may share; their partial softmaxes are merged in order.
// Pieces are fixed by absolute position, so that a row's bits do not depend on who computes which. They grow with the
// position, so that there are never many of them and the largest is still a small share of the whole.
#pragma once

namespace stoker {

constexpr int kPieceTokens = 512;  // keys of the first pieces
constexpr int kEvenPieces = 32;    // so many of that size; after those, each 16 pieces have twice the size
constexpr int kPiecesToDouble = 16;

// The first position of piece `piece`.
static inline int piece_begin(int piece) {
  int size = kPieceTokens, begin = 0, n_left = piece, n_even = kEvenPieces;
  for (; n_left > n_even; n_even = kPiecesToDouble, size *= 2) {
    begin += n_even * size;
    n_left -= n_even;
  }
  return begin + n_left * size;
}

// The piece that holds a position.
static inline int piece_of(int position) {
  int size = kPieceTokens, begin = 0, piece = 0, n_even = kEvenPieces;
  for (; (position - begin) / size >= n_even; n_even = kPiecesToDouble, size *= 2) {
    begin += n_even * size;
    piece += n_even;
  }
  return piece + (position - begin) / size;
}

}  // namespace stoker
