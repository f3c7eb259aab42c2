// How a step's work is cut into the chunks of a parallel region. The cut never changes a row's arithmetic.
#pragma once
#include <algorithm>

#include "thread_pool.h"

namespace stoker {

constexpr int kRowBlock = 96;  // rows that share one pass over a column block
constexpr int kChunksPerThread = 8;
constexpr int kInlineRows = 4;  // so few rows are normalized sooner than a region is entered

// Cuts `n_units` column units times the row blocks of `n_rows` rows into chunks.
struct Chunks {
  Chunks(int n_rows, int n_units, int n_threads)
      : row_blocks((n_rows + kRowBlock - 1) / kRowBlock),
        units_per_chunk(std::max(1, n_units * row_blocks / (n_threads * kChunksPerThread))),
        column_chunks((n_units + units_per_chunk - 1) / units_per_chunk),
        n_rows(n_rows),
        n_units(n_units) {}
  int count() const { return row_blocks * column_chunks; }
  int row_begin(int chunk) const { return chunk / column_chunks * kRowBlock; }
  int row_end(int chunk) const { return std::min(n_rows, row_begin(chunk) + kRowBlock); }
  int unit_begin(int chunk) const { return chunk % column_chunks * units_per_chunk; }
  int unit_end(int chunk) const { return std::min(n_units, unit_begin(chunk) + units_per_chunk); }

  int row_blocks, units_per_chunk, column_chunks, n_rows, n_units;
};

// Calls `work(row, thread)` for every row: for work that is short and touches its own row alone.
template <class Work>
void for_rows(ThreadPool& pool, int n_rows, Work&& work) {
  if (n_rows <= kInlineRows) {
    for (int row = 0; row < n_rows; ++row) work(row, 0);
    return;
  }
  constexpr int kRows = 8;
  pool.run((n_rows + kRows - 1) / kRows, [&](int chunk, int thread) {
    for (int row = chunk * kRows; row < std::min(n_rows, (chunk + 1) * kRows); ++row) work(row, thread);
  });
}

}  // namespace stoker
