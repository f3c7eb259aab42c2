// Memory that is wanted soon, fetched in pieces while something else is computed.
//
// A step whose rows have many adapters reads more of these than its products can wait for, and a product of few rows
// leaves the memory idle most of its time. So products fetch pieces between their groups. Fetching is a hint: no
// result depends on it.
//
// Functions are static: kernels are compiled for several instruction sets, and must not share code.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace stoker {

constexpr size_t kPieceLines = 8;
constexpr size_t kAheadPiece = kPieceLines * 64;
constexpr int kMostPieces = 1024;  // those beyond are not fetched

struct Ahead {
  int next = 0;
  int n_pieces = 0;
  std::array<const uint8_t*, kMostPieces> pieces;
};

static inline void clear_ahead(Ahead& ahead) { ahead.next = ahead.n_pieces = 0; }

// Part `part` of `n_parts` of what is between two addresses.
static inline void add_ahead(Ahead& ahead, const uint8_t* begin, size_t n_bytes, size_t part = 0, size_t n_parts = 1) {
  const size_t n = (n_bytes + kAheadPiece - 1) / kAheadPiece;
  for (size_t i = part * n / n_parts; i < (part + 1) * n / n_parts && ahead.n_pieces < kMostPieces; ++i) {
    ahead.pieces[static_cast<size_t>(ahead.n_pieces++)] = begin + i * kAheadPiece;
  }
}

// Into the second cache level: what a thread computes with stays in the first.
static inline void fetch_ahead(Ahead* ahead) {
  if (ahead == nullptr || ahead->next >= ahead->n_pieces) return;
  const uint8_t* piece = ahead->pieces[static_cast<size_t>(ahead->next++)];
  for (size_t line = 0; line < kPieceLines; ++line) __builtin_prefetch(piece + 64 * line, 0, 2);
}

}  // namespace stoker
