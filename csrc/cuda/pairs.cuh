// What the CUDA kernels that compare every pair share. No torch header and no CUDA header.
//
// A block takes a tile of 32 rows and 32 columns, of which a thread has four rows and one column, and goes over the latents 32 at a time,
// in shared memory. Nothing of the size of all pairs times all latents is held.
#pragma once

#include "sums.cuh"

namespace vaekit {
namespace cuda {

constexpr int kTile = 32, kRowsOfThread = kTile * kTile / kThreads;

template <class T>
using Tile = T[kTile][kTile + 1];  // one more, so that a warp reads a column from as many banks

VAEKIT_DEVICE int tile_column() { return threadIdx.x % kTile; }
VAEKIT_DEVICE int tile_row(int r) { return threadIdx.x / kTile * kRowsOfThread + r; }

// Points from `first` on by latents from `latent` on, and 0 beyond the last of either.
template <class T>
VAEKIT_DEVICE void fill(const View& view, int64_t points, int64_t first, int64_t latents, int64_t latent, Tile<T>& tile) {
  const int64_t d = latent + tile_column();
  for (int i = threadIdx.x / kTile; i < kTile; i += kThreads / kTile) {
    const bool exists = first + i < points && d < latents;
    tile[i][tile_column()] = exists ? static_cast<const T*>(view.data)[view.offset(first + i) + d * view.column_stride] : T(0);
  }
}

}  // namespace cuda
}  // namespace vaekit
