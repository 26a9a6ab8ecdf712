// Rows of elements, cut into tiles that stay in the cache, and their sums: the same bits at any number of threads.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>
#include <vector>

namespace vaekit {

constexpr int kMaxTile = 1024;        // elements of a tile, at most
constexpr int64_t kMaxChunks = 1024;  // a long row is summed in at most this many chunks

// A few whole rows or a piece of one row: elements start .. start + n, of row `row` and so on.
struct Tile {
  int64_t start, row;
  int n, rows;
};

struct Rows {
  int64_t rows, event;  // how many, and how many elements each has
  int tile;             // the most elements of a tile, at most kMaxTile

  bool are_short() const { return event <= tile; }
  int64_t rows_per_tile() const { return are_short() ? tile / event : 1; }
  int64_t pieces() const { return (event + tile - 1) / tile; }
  int64_t tiles() const { return are_short() ? (rows + rows_per_tile() - 1) / rows_per_tile() : rows * pieces(); }

  Tile at(int64_t index) const {
    if (are_short()) {
      const int64_t row = index * rows_per_tile(), count = std::min(rows_per_tile(), rows - row);
      return {row * event, row, static_cast<int>(count * event), static_cast<int>(count)};
    }
    const int64_t row = index / pieces(), begin = (index % pieces()) * tile;
    return {row * event + begin, row, static_cast<int>(std::min<int64_t>(tile, event - begin)), 1};
  }

  // How many tiles are worth another thread, where that many elements are.
  int64_t grain(int64_t elements) const {
    return std::max<int64_t>(1, elements / std::min<int64_t>(tile, rows_per_tile() * event));
  }
};

// Calls f(tile, scratch) for every tile; each thread's scratch is what `make` returns. `worth` is how many elements are worth another
// thread.
template <class Make, class F>
void for_each_tile(const Rows& rows, int64_t worth, const Make& make, const F& f) {
  torch::stable::parallel_for(0, rows.tiles(), rows.grain(worth), [&](int64_t from, int64_t to) {
    auto scratch = make();
    for (int64_t i = from; i < to; ++i) f(rows.at(i), scratch);
  });
}

template <class F>
void for_each_tile(const Rows& rows, int64_t worth, const F& f) {
  for_each_tile(rows, worth, [] { return 0; }, [&](const Tile& tile, int) { f(tile); });
}

// out[row] = the sum of a row's elements, of which f(tile, scratch, elements) gives a tile's and sum(elements, n) the sum of a piece.
// The sums of a long row's pieces are added in double, chunk by chunk, in an order that depends on nothing but the row's length.
template <class T, class Make, class F, class Sum, class Out>
void sum_rows(const Rows& rows, int64_t worth, const Make& make, const F& f, const Sum& sum, Out* out) {
  if (rows.are_short()) {
    for_each_tile(rows, worth, make, [&](const Tile& tile, auto& scratch) {
      alignas(64) T elements[kMaxTile + 32];  // `sum` may read beyond the last one
      f(tile, scratch, elements);
      const int event = static_cast<int>(rows.event);
      for (int i = 0; i < tile.rows; ++i) out[tile.row + i] = static_cast<Out>(sum(elements + i * event, event));
    });
    return;
  }
  const int64_t pieces = rows.pieces(), per_chunk = (pieces + kMaxChunks - 1) / kMaxChunks;
  const int64_t chunks = (pieces + per_chunk - 1) / per_chunk;
  const auto sum_chunk = [&](int64_t row, int64_t chunk, auto& scratch) {
    alignas(64) T elements[kMaxTile + 32];
    double total = 0;
    for (int64_t i = chunk * per_chunk; i < std::min(pieces, (chunk + 1) * per_chunk); ++i) {
      const Tile tile = rows.at(row * pieces + i);
      f(tile, scratch, elements);
      total += sum(elements, tile.n);
    }
    return total;
  };
  // As many rows at a time as have room for their chunks' sums.
  const int64_t group = std::max<int64_t>(1, kMaxChunks / chunks);
  const int64_t grain = std::max<int64_t>(1, worth / (per_chunk * rows.tile));
  for (int64_t first = 0; first < rows.rows; first += group) {
    double sums[kMaxChunks];
    const int64_t count = std::min(group, rows.rows - first);
    torch::stable::parallel_for(0, count * chunks, grain, [&](int64_t from, int64_t to) {
      auto scratch = make();
      for (int64_t i = from; i < to; ++i) sums[i] = sum_chunk(first + i / chunks, i % chunks, scratch);
    });
    for (int64_t row = 0; row < count; ++row) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[row * chunks + chunk];
      out[first + row] = static_cast<Out>(total);
    }
  }
}

// out[c] = the sum of the elements of column c, the places in the data that are c modulo `columns`; f(tile, scratch, elements)
// gives a tile's. The data is cut into chunks, each summed in double, in an order that depends on nothing but its sizes.
template <class T, class Make, class F>
void sum_columns(const Rows& rows, int64_t worth, int64_t columns, const Make& make, const F& f, T* out) {
  const int64_t elements = rows.rows * rows.event, tiles = elements == 0 ? 0 : rows.tiles();
  // Few enough for their sums to need an eighth of the memory of a float32 array of the data's size.
  const int64_t chunks = std::max<int64_t>(1, std::min({tiles, int64_t{64}, elements / (16 * std::max<int64_t>(columns, 1))}));
  std::vector<double> sums(chunks * columns, 0.0);
  const auto add = [&](double* into, const T* values, int64_t start, int n) {
    for (int64_t done = 0, c = start % columns; done < n; c = 0) {
      const int64_t run = std::min<int64_t>(n - done, columns - c);
      for (int64_t i = 0; i < run; ++i) into[c + i] += values[done + i];
      done += run;
    }
  };
  const int64_t grain = std::max<int64_t>(1, worth * chunks / std::max<int64_t>(elements, 1));
  torch::stable::parallel_for(0, chunks, grain, [&](int64_t from, int64_t to) {
    auto scratch = make();
    alignas(64) T values[kMaxTile + 32];
    for (int64_t chunk = from; chunk < to; ++chunk) {
      for (int64_t i = tiles * chunk / chunks; i < tiles * (chunk + 1) / chunks; ++i) {
        const Tile tile = rows.at(i);
        f(tile, scratch, values);
        add(sums.data() + chunk * columns, values, tile.start, tile.n);
      }
    }
  });
  for (int64_t c = 0; c < columns; ++c) {
    double total = 0;
    for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[chunk * columns + c];
    out[c] = static_cast<T>(total);
  }
}

}  // namespace vaekit
