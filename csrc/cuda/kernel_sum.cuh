// The CUDA kernels of vaekit::kernel_sum and its backward, on raw pointers, and how a call is laid out. No torch header and no CUDA header.
//
// The squared distance of a pair is added up as on the CPU, four latents at a time, to the same bits; kernels and gradients by sums.cuh.
// Double arithmetic is left to a strip of tiles, whose sum is one number, and to an element of the gradient, which is scaled.
#pragma once

#include "../kernel_sum.h"
#include "pairs.cuh"

namespace vaekit {
namespace cuda {

constexpr int kStrip = 16;           // tiles of a strip
constexpr int kBandwidthsAtOnce = 32;  // that a launch brings along

struct KernelSum {
  View x, y;  // y is x within one sample
  int64_t rows, points, latents;
  bool within;             // one sample
  const void* bandwidths;  // [count], on the device
  int64_t count;
};

struct KernelSumForward : KernelSum {
  double* strips;  // [tiles of rows, strips]
};

struct KernelSumBackward : KernelSum {
  const double* grad;
  void* out;  // [rows, latents]
};

struct Bandwidths {
  double values[kBandwidthsAtOnce];
  int count;
  void* out;
};

// --- device ----------------------------------------------------------------------------------------------------------------

template <class T>
__global__ void __launch_bounds__(kThreads) write_bandwidths(__grid_constant__ const Bandwidths p) {
  if (static_cast<int>(threadIdx.x) < p.count) static_cast<T*>(p.out)[threadIdx.x] = static_cast<T>(p.values[threadIdx.x]);
}

// The squared distances of a thread's pairs; every thread of the block takes part.
template <class T>
VAEKIT_DEVICE void measure(const KernelSum& p, int64_t row, int64_t column, T (&squared)[kRowsOfThread]) {
  __shared__ Tile<T> x, y;
  VAEKIT_UNROLL(4)
  for (int r = 0; r < kRowsOfThread; ++r) squared[r] = T(0);
  for (int64_t latent = 0; latent < p.latents; latent += kTile) {
    fill<T>(p.x, p.rows, row, p.latents, latent, x);
    fill<T>(p.y, p.points, column, p.latents, latent, y);
    __syncthreads();
    const int count = p.latents - latent < kTile ? static_cast<int>(p.latents - latent) : kTile;
    for (int d = 0; d < count; d += 4) {
      const T* other = &y[tile_column()][d];
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) {
        const T* own = &x[tile_row(r)][d];
        const T a = own[0] - other[0], b = own[1] - other[1], c = own[2] - other[2], e = own[3] - other[3];
        squared[r] += multiply_add<true>(a, a, b * b) + multiply_add<true>(c, c, e * e);
      }
    }
    __syncthreads();  // before the tiles are filled again
  }
}

template <template <bool, class> class Kernel, class T>
__global__ void __launch_bounds__(kThreads) kernel_sum_strips(__grid_constant__ const KernelSumForward p) {
  const int64_t tiles = (p.points + kTile - 1) / kTile, row_tiles = (p.rows + kTile - 1) / kTile;
  const int64_t strips = (tiles + kStrip - 1) / kStrip;
  for (int64_t number = blockIdx.x; number < row_tiles * strips; number += gridDim.x) {
    const int64_t row_tile = number / strips, first = number % strips * kStrip;
    Sum<T> sum = {};
    // Kernels are symmetric: within one sample those below the diagonal's tiles are counted above them.
    for (int64_t tile = p.within && first < row_tile ? row_tile : first; tile < tiles && tile < first + kStrip; ++tile) {
      T squared[kRowsOfThread];
      measure(p, row_tile * kTile, tile * kTile, squared);
      const T times = p.within && tile > row_tile ? T(2) : T(1);
      const bool exists = tile * kTile + tile_column() < p.points;
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) {
        if (!exists || row_tile * kTile + tile_row(r) >= p.rows) continue;
        for (int64_t i = 0; i < p.count; ++i) {
          sum.add(times * Kernel<true, T>::value(squared[r], static_cast<const T*>(p.bandwidths)[i], kLowestExponent<T>));
        }
      }
    }
    sum = sum_over_block(sum);
    if (threadIdx.x == 0) p.strips[number] = sum.wide();
  }
}

template <template <bool, class> class Kernel, class T>
__global__ void __launch_bounds__(kThreads) kernel_sum_gradients(__grid_constant__ const KernelSumBackward p) {
  __shared__ Tile<T> slopes, others;
  const int64_t row_tiles = (p.rows + kTile - 1) / kTile, chunks = (p.latents + kTile - 1) / kTile;
  const double factor = (p.within ? -4.0 : -2.0) * *p.grad;  // within one sample each point is on both sides
  for (int64_t number = blockIdx.x; number < row_tiles * chunks; number += gridDim.x) {
    const int64_t row = number / chunks * kTile, latent = number % chunks * kTile, d = latent + tile_column();
    T own[kRowsOfThread];
    Sum<T> sums[kRowsOfThread] = {};
    VAEKIT_UNROLL(4)
    for (int r = 0; r < kRowsOfThread; ++r) {
      const bool exists = row + tile_row(r) < p.rows && d < p.latents;
      own[r] = exists ? static_cast<const T*>(p.x.data)[p.x.offset(row + tile_row(r)) + d * p.x.column_stride] : T(0);
    }
    for (int64_t column = 0; column < p.points; column += kTile) {
      T squared[kRowsOfThread];
      measure(p, row, column, squared);
      fill<T>(p.y, p.points, column, p.latents, latent, others);
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) {
        T slope = T(0);
        for (int64_t i = 0; column + tile_column() < p.points && i < p.count; ++i) {
          slope += Kernel<true, T>::slope(squared[r], static_cast<const T*>(p.bandwidths)[i], kLowestExponent<T>);
        }
        slopes[tile_row(r)][tile_column()] = slope;
      }
      __syncthreads();
      T parts[kRowsOfThread] = {};
      for (int j = 0; j < kTile; ++j) {
        const T other = others[j][tile_column()];
        VAEKIT_UNROLL(4)
        for (int r = 0; r < kRowsOfThread; ++r) parts[r] = multiply_add<true>(slopes[tile_row(r)][j], own[r] - other, parts[r]);
      }
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) sums[r].add(parts[r]);
      __syncthreads();  // before the tiles are filled again
    }
    VAEKIT_UNROLL(4)
    for (int r = 0; r < kRowsOfThread; ++r) {
      if (row + tile_row(r) >= p.rows || d >= p.latents) continue;
      static_cast<T*>(p.out)[(row + tile_row(r)) * p.latents + d] = static_cast<T>(factor * sums[r].wide());
    }
  }
}

// --- host ------------------------------------------------------------------------------------------------------------------

// How many doubles KernelSumForward::strips has to hold.
inline int64_t strips_of(const KernelSum& p) { return ceiling(p.rows, kTile) * ceiling(p.points, kTile * kStrip); }

template <class T, class Launch>
void copy_bandwidths(const double* values, int64_t count, T* out, const Launch& launch) {
  for (int64_t start = 0; start < count; start += kBandwidthsAtOnce) {
    Bandwidths p = {};
    p.count = static_cast<int>(at_most(kBandwidthsAtOnce, count - start)), p.out = out + start;
    for (int i = 0; i < p.count; ++i) p.values[i] = values[start + i];
    launch(write_bandwidths<T>, Grid{1, 1, 1}, p);
  }
}

template <class T, class Launch>
void forward_kernel_sum(const KernelSumForward& p, bool is_gaussian, void* out, int processors, const Launch& launch) {
  const Parts parts = {p.strips, 1, 0, strips_of(p), 1, out};
  launch(is_gaussian ? kernel_sum_strips<Gaussian, T> : kernel_sum_strips<InverseMultiquadric, T>, line_of(parts.count, processors), p);
  add_up<double>(parts, processors, launch);
}

template <class T, class Launch>
void backward_kernel_sum(const KernelSumBackward& p, bool is_gaussian, int processors, const Launch& launch) {
  launch(is_gaussian ? kernel_sum_gradients<Gaussian, T> : kernel_sum_gradients<InverseMultiquadric, T>,
         line_of(ceiling(p.rows, kTile) * ceiling(p.latents, kTile), processors), p);
}

}  // namespace cuda
}  // namespace vaekit
