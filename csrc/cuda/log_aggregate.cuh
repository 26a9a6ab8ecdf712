// The CUDA kernels of vaekit::log_aggregate and its backward, on raw pointers, and how a call is laid out. No torch header and no CUDA
// header.
//
// Two ways to go over the pairs. For q(z), whose densities are sums over the latents, a block takes tiles of 32 rows and 32 examples
// (pairs.cuh). For the marginals, and for every gradient, a thread has one latent of two rows (or of two examples) and goes over all of
// the others in turn, 32 of them at a time in shared memory: the densities are computed where they are needed, twice in backward, so that
// no sum is shared by threads that could come in another order. Backward takes a block of rows at a time, whose weights in q(z) are held.
//
// Terms are added up in float by 32s and those sums by sums.cuh. Double arithmetic is left to the B x D numbers that these come to.
#pragma once

#include "../log_aggregate.h"
#include "pairs.cuh"

namespace vaekit {
namespace cuda {

constexpr int kOwners = 2;                    // rows or examples of which a thread has a latent
constexpr int kLatentsPerSum = 8;             // whose densities are added up before they come to the sum over all, as on the CPU
constexpr int64_t kWeightsAtOnce = 1 << 22;  // of a block of rows with all examples

// What the kernels read, contiguous: of the examples [examples, latents], of the rows [rows, latents].
template <class T>
struct Aggregate {
  int64_t rows, examples, latents, first;
  T own_weight;
  T *mean, *scale, *peak, *shift, *own;

  VAEKIT_INLINE const T* row_means() const { return mean + first * latents; }
  VAEKIT_INLINE bool is_own(int64_t row, int64_t example) const { return example == first + row; }
};

template <class T>
struct Prepare : Aggregate<T> {
  View mu, logvar, eps;
};

template <class T>
struct AggregateForward : Aggregate<T> {
  T *joint, *marginals;  // [rows], [rows, latents]
};

template <class T>
struct AggregateBackward : Aggregate<T> {
  View of_joint, of_marginals, joint, marginals;
  int64_t start, count;                // the block of rows
  T* weights;                          // [count, examples]
  double *of_mean, *of_scale, *of_row;  // [examples, latents] twice, [rows, latents]
  T *of_mu, *of_logvar;                // [examples, latents]
};

// --- device: what both ways share ------------------------------------------------------------------------------------------

// What stands for an infinite largest term, relative to which nothing would be a number.
template <class T>
VAEKIT_INLINE T finite_or_zero(T x) {
  return x - x == T(0) ? x : T(0);
}

// The logarithm of a sum of exponentials: the largest term's, and the sum relative to it.
template <class T>
struct LogTotal {
  T top, sum;

  static VAEKIT_INLINE LogTotal first(T density) { return {density, density == -Real<T>::kInfinity ? T(0) : T(1)}; }

  // Makes `largest` the largest where it is larger, and gives what terms are relative to.
  VAEKIT_INLINE T raise(T largest) {
    const T before = finite_or_zero(top);
    top = top < largest ? largest : top;
    const T now = finite_or_zero(top);
    if (sum != T(0)) sum *= exp_or_zero<true>(before - now, kLowestExponent<T>);
    return now;
  }
  VAEKIT_INLINE void add(T density) {
    const T now = raise(density);
    sum += exp_or_zero<true>(density - now, kLowestExponent<T>);
  }
  VAEKIT_INLINE void add(const LogTotal& other) {
    const T now = raise(other.top);
    if (other.sum != T(0)) sum += other.sum * exp_or_zero<true>(finite_or_zero(other.top) - now, kLowestExponent<T>);
  }
  VAEKIT_INLINE T value() const {
    const T infinity = Real<T>::kInfinity;
    if (top == infinity) return infinity;
    if (sum == T(0)) return -infinity;
    if (!(sum < infinity)) return sum + finite_or_zero(top);
    return multiply_add<true>(T(-0.5), minus_two_log<true>(sum), top);
  }
};

template <class T>
__global__ void __launch_bounds__(kThreads) prepare_aggregate(__grid_constant__ const Prepare<T> p) {
  const AggregateLimits<T> limits;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t place = int64_t{blockIdx.x} * kThreads + threadIdx.x; place < p.examples * p.latents; place += step) {
    const int64_t example = place / p.latents, d = place % p.latents, row = example - p.first;
    const auto read = [&](const View& view, int64_t i) { return static_cast<const T*>(view.data)[view.offset(i) + d * view.column_stride]; };
    const T logvar = read(p.logvar, example);
    p.mean[place] = read(p.mu, example);
    p.scale[place] = scale_of<true>(logvar, limits);
    p.peak[place] = peak_of(logvar);
    if (row < 0 || row >= p.rows) continue;
    const T eps = read(p.eps, row);
    p.shift[row * p.latents + d] = shift_of<true>(logvar, eps, limits);
    p.own[row * p.latents + d] = own_density<true>(logvar, eps);
  }
}

// --- device: q(z), by tiles of pairs ---------------------------------------------------------------------------------------

// The log densities of a thread's pairs, those of a row with its own example being minus infinity; every thread of the block takes part.
template <class T>
VAEKIT_DEVICE void joint_densities(const Aggregate<T>& p, int64_t row, int64_t example, T (&total)[kRowsOfThread]) {
  __shared__ Tile<T> mu, shift, mean, scale, peak;
  T part[kRowsOfThread] = {};
  VAEKIT_UNROLL(4)
  for (int r = 0; r < kRowsOfThread; ++r) total[r] = T(0);
  for (int64_t latent = 0; latent < p.latents; latent += kTile) {
    fill<T>(View{p.row_means(), 0, p.latents, 1}, p.rows, row, p.latents, latent, mu);
    fill<T>(View{p.shift, 0, p.latents, 1}, p.rows, row, p.latents, latent, shift);
    fill<T>(View{p.mean, 0, p.latents, 1}, p.examples, example, p.latents, latent, mean);
    fill<T>(View{p.scale, 0, p.latents, 1}, p.examples, example, p.latents, latent, scale);
    fill<T>(View{p.peak, 0, p.latents, 1}, p.examples, example, p.latents, latent, peak);
    __syncthreads();
    const int count = p.latents - latent < kTile ? static_cast<int>(p.latents - latent) : kTile, j = tile_column();
    for (int d = 0; d < count; ++d) {
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) {
        part[r] += density<true>(standardized(mu[tile_row(r)][d], shift[tile_row(r)][d], mean[j][d], scale[j][d]), peak[j][d]);
      }
      if (d % kLatentsPerSum != kLatentsPerSum - 1 && d != count - 1) continue;
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) total[r] += part[r], part[r] = T(0);
    }
    __syncthreads();  // before the tiles are filled again
  }
  VAEKIT_UNROLL(4)
  for (int r = 0; r < kRowsOfThread; ++r) {
    const int64_t i = row + tile_row(r), j = example + tile_column();
    if (j >= p.examples || p.is_own(i, j)) total[r] = -Real<T>::kInfinity;
  }
}

// The density of a row's own example in all latents, with its weight, in every lane of the warp.
template <class T>
VAEKIT_DEVICE T own_joint(const Aggregate<T>& p, int64_t row) {
  Sum<T> sum = {};
  for (int64_t d = tile_column(); row < p.rows && d < p.latents; d += kTile) sum.add(p.own[row * p.latents + d]);
  sum = sum_over_threads(sum, kWarp);
  sum.add(p.own_weight);
  return __shfl_sync(kWholeWarp, sum.value(), 0);
}

template <class T>
__global__ void __launch_bounds__(kThreads) aggregate_joint(__grid_constant__ const AggregateForward<T> p) {
  for (int64_t row = int64_t{blockIdx.x} * kTile; row < p.rows; row += int64_t{gridDim.x} * kTile) {
    LogTotal<T> totals[kRowsOfThread];
    VAEKIT_UNROLL(4)
    for (int r = 0; r < kRowsOfThread; ++r) totals[r] = LogTotal<T>::first(-Real<T>::kInfinity);
    for (int64_t example = 0; example < p.examples; example += kTile) {
      T density[kRowsOfThread];
      joint_densities(p, row, example, density);
      VAEKIT_UNROLL(4)
      for (int r = 0; r < kRowsOfThread; ++r) totals[r].add(density[r]);
    }
    VAEKIT_UNROLL(4)
    for (int r = 0; r < kRowsOfThread; ++r) {
      for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        const T top = __shfl_xor_sync(kWholeWarp, totals[r].top, distance);
        totals[r].add(LogTotal<T>{top, __shfl_xor_sync(kWholeWarp, totals[r].sum, distance)});
      }
      LogTotal<T> total = LogTotal<T>::first(own_joint(p, row + tile_row(r)));
      total.add(totals[r]);
      if (tile_column() == 0 && row + tile_row(r) < p.rows) p.joint[row + tile_row(r)] = total.value();
    }
  }
}

// What pairs weigh in q(z), times the gradient that comes in; 0 for a row with its own example.
template <class T>
__global__ void __launch_bounds__(kThreads) aggregate_weights(__grid_constant__ const AggregateBackward<T> p) {
  const int64_t tiles = (p.examples + kTile - 1) / kTile, row_tiles = (p.count + kTile - 1) / kTile;
  for (int64_t number = blockIdx.x; number < row_tiles * tiles; number += gridDim.x) {
    const int64_t row = number / tiles * kTile, example = number % tiles * kTile + tile_column();
    T density[kRowsOfThread];
    joint_densities(p, p.start + row, number % tiles * kTile, density);
    VAEKIT_UNROLL(4)
    for (int r = 0; r < kRowsOfThread; ++r) {
      const int64_t i = row + tile_row(r);
      if (i >= p.count || example >= p.examples) continue;
      const T joint = static_cast<const T*>(p.joint.data)[p.joint.offset(p.start + i)];
      const T factor = static_cast<const T*>(p.of_joint.data)[p.of_joint.offset(p.start + i)];
      const bool is_own = p.is_own(p.start + i, example);
      p.weights[i * p.examples + example] = is_own ? T(0) : factor * exp_or_zero<true>(density[r] - joint, kLowestExponent<T>);
    }
  }
}

// --- device: latents, each by threads of its own ---------------------------------------------------------------------------

// Which latents a block takes, so many that a warp has no more than all; and which owners, rows or examples, a thread has of one.
struct Lanes {
  int bits;  // of the number of latents of a block

  VAEKIT_INLINE int latents() const { return 1 << bits; }
  VAEKIT_INLINE int owners() const { return kOwners * (kThreads >> bits); }
  VAEKIT_DEVICE int latent() const { return threadIdx.x & (latents() - 1); }
  VAEKIT_DEVICE int owner(int k) const { return (threadIdx.x >> bits) + k * (kThreads >> bits); }
};

VAEKIT_INLINE Lanes lanes_of(int64_t latents) {
  int bits = 0;
  while ((1 << bits) < kTile && (1 << bits) < latents) ++bits;
  return {bits};
}

// Calls f(the first owner, the first latent) for the pieces of work of a block.
template <class F>
VAEKIT_DEVICE void for_each_piece(const Lanes& lanes, int64_t owners, int64_t latents, const F& f) {
  const int64_t chunks = (latents + lanes.latents() - 1) / lanes.latents(), blocks = (owners + lanes.owners() - 1) / lanes.owners();
  for (int64_t number = blockIdx.x; number < blocks * chunks; number += gridDim.x) {
    f(number / chunks * lanes.owners(), number % chunks * lanes.latents());
  }
}

// Points from `first` on in a block's latents, and 0 beyond the last of either.
template <class T>
VAEKIT_DEVICE void fill(const Lanes& lanes, const View& view, int64_t points, int64_t first, int64_t latents, int64_t latent,
                        T (&tile)[kTile][kTile]) {
  const int64_t d = latent + lanes.latent();
  for (int i = threadIdx.x >> lanes.bits; i < kTile; i += kThreads >> lanes.bits) {
    const bool exists = first + i < points && d < latents;
    tile[i][lanes.latent()] = exists ? static_cast<const T*>(view.data)[view.offset(first + i) + d * view.column_stride] : T(0);
  }
}

// The examples of a tile in a block's latents.
template <class T>
struct Examples {
  T mean[kTile][kTile], scale[kTile][kTile], peak[kTile][kTile];
};

template <class T>
VAEKIT_DEVICE void fill(const Lanes& lanes, const Aggregate<T>& p, int64_t first, int64_t latent, Examples<T>& tile) {
  fill<T>(lanes, View{p.mean, 0, p.latents, 1}, p.examples, first, p.latents, latent, tile.mean);
  fill<T>(lanes, View{p.scale, 0, p.latents, 1}, p.examples, first, p.latents, latent, tile.scale);
  fill<T>(lanes, View{p.peak, 0, p.latents, 1}, p.examples, first, p.latents, latent, tile.peak);
}

// A row in one latent.
template <class T>
struct RowInLatent {
  T mu, shift;
};

template <class T>
VAEKIT_DEVICE RowInLatent<T> row_in(const Aggregate<T>& p, int64_t row, int64_t d) {
  if (row >= p.rows || d >= p.latents) return {T(0), T(0)};
  return {p.row_means()[row * p.latents + d], p.shift[row * p.latents + d]};
}

template <class T>
VAEKIT_DEVICE T element(const View& view, int64_t row, int64_t d) {
  return static_cast<const T*>(view.data)[view.offset(row) + d * view.column_stride];
}

template <class T>
__global__ void __launch_bounds__(kThreads) aggregate_marginals(__grid_constant__ const AggregateForward<T> p) {
  __shared__ Examples<T> examples;
  const Lanes lanes = lanes_of(p.latents);
  const T infinity = Real<T>::kInfinity;
  for_each_piece(lanes, p.rows, p.latents, [&](int64_t first_row, int64_t first_latent) {
    const int64_t d = first_latent + lanes.latent();
    RowInLatent<T> rows[kOwners];
    LogTotal<T> totals[kOwners];
    VAEKIT_UNROLL(2)
    for (int k = 0; k < kOwners; ++k) {
      const int64_t row = first_row + lanes.owner(k);
      const bool exists = row < p.rows && d < p.latents;
      rows[k] = row_in<T>(p, row, d);
      totals[k] = LogTotal<T>::first(exists ? p.own[row * p.latents + d] + p.own_weight : T(0));
    }
    for (int64_t begin = 0; begin < p.examples; begin += kTile) {
      fill(lanes, p, begin, first_latent, examples);
      __syncthreads();
      const int count = p.examples - begin < kTile ? static_cast<int>(p.examples - begin) : kTile;
      VAEKIT_UNROLL(2)
      for (int k = 0; k < kOwners; ++k) {
        const int64_t row = first_row + lanes.owner(k);
        const auto at = [&](int j) {
          const int l = lanes.latent();
          const T t = standardized(rows[k].mu, rows[k].shift, examples.mean[j][l], examples.scale[j][l]);
          return p.is_own(row, begin + j) ? -infinity : density<true>(t, examples.peak[j][l]);
        };
        T largest = -infinity, sum = T(0);
        for (int j = 0; j < count; ++j) {
          const T value = at(j);
          largest = largest < value ? value : largest;
        }
        const T now = totals[k].raise(largest);
        for (int j = 0; j < count; ++j) sum += exp_or_zero<true>(at(j) - now, kLowestExponent<T>);
        totals[k].sum += sum;
      }
      __syncthreads();  // before the tile is filled again
    }
    VAEKIT_UNROLL(2)
    for (int k = 0; k < kOwners; ++k) {
      const int64_t row = first_row + lanes.owner(k);
      if (row < p.rows && d < p.latents) p.marginals[row * p.latents + d] = totals[k].value();
    }
  });
}

// The sums over a block's rows, for each example and latent.
template <class T>
__global__ void __launch_bounds__(kThreads) aggregate_columns(__grid_constant__ const AggregateBackward<T> p) {
  __shared__ T mus[kTile][kTile], shifts[kTile][kTile], totals[kTile][kTile], factors[kTile][kTile];
  const Lanes lanes = lanes_of(p.latents);
  for_each_piece(lanes, p.examples, p.latents, [&](int64_t first_example, int64_t first_latent) {
    const int64_t d = first_latent + lanes.latent(), end = p.start + p.count;
    const int l = lanes.latent();
    T mean[kOwners], scale[kOwners], peak[kOwners];
    Sum<T> of_mean[kOwners] = {}, of_scale[kOwners] = {};
    VAEKIT_UNROLL(2)
    for (int k = 0; k < kOwners; ++k) {
      const int64_t example = first_example + lanes.owner(k), place = example * p.latents + d;
      const bool exists = example < p.examples && d < p.latents;
      mean[k] = exists ? p.mean[place] : T(0), scale[k] = exists ? p.scale[place] : T(0), peak[k] = exists ? p.peak[place] : T(0);
    }
    for (int64_t row = p.start; row < end; row += kTile) {
      fill<T>(lanes, View{p.row_means(), 0, p.latents, 1}, end, row, p.latents, first_latent, mus);
      fill<T>(lanes, View{p.shift, 0, p.latents, 1}, end, row, p.latents, first_latent, shifts);
      fill<T>(lanes, p.marginals, end, row, p.latents, first_latent, totals);
      fill<T>(lanes, p.of_marginals, end, row, p.latents, first_latent, factors);
      __syncthreads();
      const int count = end - row < kTile ? static_cast<int>(end - row) : kTile;
      VAEKIT_UNROLL(2)
      for (int k = 0; k < kOwners; ++k) {
        const int64_t example = first_example + lanes.owner(k);
        T by_mean = T(0), by_scale = T(0);
        for (int i = 0; i < count && example < p.examples; ++i) {
          if (p.is_own(row + i, example)) continue;
          const T t = standardized(mus[i][l], shifts[i][l], mean[k], scale[k]);
          const T weight = exp_or_zero<true>(density<true>(t, peak[k]) - totals[i][l], kLowestExponent<T>);
          const T g = multiply_add<true>(weight, factors[i][l], p.weights[(row + i - p.start) * p.examples + example]);
          const T gt = g * t;  // times t again, not g times t^2, which may overflow where g is 0
          by_mean += gt;
          by_scale = multiply_add<true>(gt, t, multiply_add<true>(T(-0.5), g, by_scale));
        }
        of_mean[k].add(by_mean), of_scale[k].add(by_scale);
      }
      __syncthreads();  // before the tiles are filled again
    }
    VAEKIT_UNROLL(2)
    for (int k = 0; k < kOwners; ++k) {
      const int64_t example = first_example + lanes.owner(k), place = example * p.latents + d;
      if (example >= p.examples || d >= p.latents) continue;
      p.of_mean[place] = (p.start > 0 ? p.of_mean[place] : 0.0) + of_mean[k].wide();
      p.of_scale[place] = (p.start > 0 ? p.of_scale[place] : 0.0) + of_scale[k].wide();
    }
  });
}

// The sums over all examples, for each row of a block and latent.
template <class T>
__global__ void __launch_bounds__(kThreads) aggregate_rows(__grid_constant__ const AggregateBackward<T> p) {
  __shared__ Examples<T> examples;
  const Lanes lanes = lanes_of(p.latents);
  for_each_piece(lanes, p.count, p.latents, [&](int64_t first_row, int64_t first_latent) {
    const int64_t d = first_latent + lanes.latent();
    const int l = lanes.latent();
    RowInLatent<T> rows[kOwners];
    T totals[kOwners], factors[kOwners];
    Sum<T> sums[kOwners] = {};
    VAEKIT_UNROLL(2)
    for (int k = 0; k < kOwners; ++k) {
      const int64_t i = first_row + lanes.owner(k), row = p.start + i;
      const bool exists = i < p.count && d < p.latents;
      rows[k] = row_in<T>(p, exists ? row : p.rows, d);
      totals[k] = exists ? element<T>(p.marginals, row, d) : T(0), factors[k] = exists ? element<T>(p.of_marginals, row, d) : T(0);
    }
    for (int64_t begin = 0; begin < p.examples; begin += kTile) {
      fill(lanes, p, begin, first_latent, examples);
      __syncthreads();
      const int count = p.examples - begin < kTile ? static_cast<int>(p.examples - begin) : kTile;
      VAEKIT_UNROLL(2)
      for (int k = 0; k < kOwners; ++k) {
        const int64_t i = first_row + lanes.owner(k);
        T sum = T(0);
        for (int j = 0; j < count && i < p.count; ++j) {
          if (p.is_own(p.start + i, begin + j)) continue;
          const T t = standardized(rows[k].mu, rows[k].shift, examples.mean[j][l], examples.scale[j][l]);
          const T weight = exp_or_zero<true>(density<true>(t, examples.peak[j][l]) - totals[k], kLowestExponent<T>);
          const T g = multiply_add<true>(weight, factors[k], p.weights[i * p.examples + begin + j]);
          sum = multiply_add<true>(g * t, examples.scale[j][l], sum);
        }
        sums[k].add(sum);
      }
      __syncthreads();  // before the tile is filled again
    }
    VAEKIT_UNROLL(2)
    for (int k = 0; k < kOwners; ++k) {
      const int64_t i = first_row + lanes.owner(k);
      if (i < p.count && d < p.latents) p.of_row[(p.start + i) * p.latents + d] = sums[k].wide();
    }
  });
}

// The gradients of an example, from the sums; a row with its own example, where t is a constant, is added here. A warp has an example.
template <class T>
__global__ void __launch_bounds__(kThreads) aggregate_gradients(__grid_constant__ const AggregateBackward<T> p) {
  constexpr int at_once = kThreads / kWarp;
  for (int64_t start = int64_t{blockIdx.x} * at_once; start < p.examples; start += int64_t{gridDim.x} * at_once) {
    const int64_t example = start + threadIdx.x / kWarp, row = example - p.first;
    const bool is_row = example < p.examples && 0 <= row && row < p.rows;
    const T own = own_joint(p, is_row ? row : p.rows);
    T of_own = T(0);
    if (is_row) {
      const T joint = static_cast<const T*>(p.joint.data)[p.joint.offset(row)];
      of_own = static_cast<const T*>(p.of_joint.data)[p.of_joint.offset(row)] * exp_or_zero<true>(own - joint, kLowestExponent<T>);
    }
    for (int64_t d = threadIdx.x % kWarp; example < p.examples && d < p.latents; d += kWarp) {
      const int64_t place = example * p.latents + d;
      double of_mu = p.rows > 0 ? 2.0 * p.of_mean[place] * p.scale[place] : 0.0;  // scale has sqrt(1/2), and t has
      double of_logvar = p.rows > 0 ? p.of_scale[place] : 0.0;
      if (is_row) {
        const int64_t in_row = row * p.latents + d;
        const T total = element<T>(p.marginals, row, d), factor = element<T>(p.of_marginals, row, d);
        const T part = exp_or_zero<true>((p.own[in_row] + p.own_weight) - total, kLowestExponent<T>);
        const double of_row = -2.0 * p.of_row[in_row];
        of_mu += of_row;
        of_logvar += 0.5 * of_row * p.shift[in_row] - 0.5 * multiply_add<true>(part, factor, of_own);
      }
      p.of_mu[place] = static_cast<T>(of_mu);
      p.of_logvar[place] = static_cast<T>(of_logvar);
    }
  }
}

// --- host ------------------------------------------------------------------------------------------------------------------

// How many rows backward takes at a time: a multiple of a tile's.
template <class T>
int64_t rows_at_once(const Aggregate<T>& p) {
  const int64_t wanted = kWeightsAtOnce / (p.examples > 0 ? p.examples : 1) / kTile * kTile;
  return at_most(p.rows, wanted < kTile ? kTile : wanted);
}

inline int64_t pieces_of(int64_t owners, int64_t latents) {
  const Lanes lanes = lanes_of(latents);
  return ceiling(owners, lanes.owners()) * ceiling(latents, lanes.latents());
}

template <class T, class Launch>
void prepare(const Prepare<T>& p, int processors, const Launch& launch) {
  launch(prepare_aggregate<T>, line_of(ceiling(p.examples * p.latents, kThreads), processors), p);
}

template <class T, class Launch>
void forward_aggregate(const AggregateForward<T>& p, int processors, const Launch& launch) {
  launch(aggregate_marginals<T>, line_of(pieces_of(p.rows, p.latents), processors), p);
  launch(aggregate_joint<T>, line_of(ceiling(p.rows, kTile), processors), p);
}

template <class T, class Launch>
void backward_aggregate(AggregateBackward<T> p, int processors, const Launch& launch) {
  const int64_t block = rows_at_once(p);
  for (p.start = 0; p.start < p.rows; p.start += block) {
    p.count = at_most(block, p.rows - p.start);
    launch(aggregate_weights<T>, line_of(ceiling(p.count, kTile) * ceiling(p.examples, kTile), processors), p);
    launch(aggregate_columns<T>, line_of(pieces_of(p.examples, p.latents), processors), p);
    launch(aggregate_rows<T>, line_of(pieces_of(p.count, p.latents), processors), p);
  }
  launch(aggregate_gradients<T>, line_of(ceiling(p.examples, kThreads / kWarp), processors), p);
}

}  // namespace cuda
}  // namespace vaekit
