// Sums that hardly round, on a GPU: of floats as a high and a low part, 48 bits together, in float arithmetic, because most GPUs have a
// 32nd or a 64th as much of double's. No torch header and no CUDA header.
//
// The error of each addition is found without rounding: D. E. Knuth, "Seminumerical Algorithms", 1969, 4.2.2, theorem B.
#pragma once

#include "rows.cuh"

namespace vaekit {
namespace cuda {

template <class T>
struct Sum;

template <>
struct Sum<float> {
  float high, low;

  VAEKIT_INLINE void add(float value) {
    const float sum = high + value, part = sum - high;
    low += (high - (sum - part)) + (value - part);
    high = sum;
  }
  VAEKIT_INLINE void add(const Sum& other) {
    add(other.high);
    low += other.low;
  }
  // What rounding took of infinity is NaN.
  VAEKIT_INLINE bool is_finite() const { return high - high == 0.0f; }
  VAEKIT_INLINE float value() const { return is_finite() ? high + low : high; }
  VAEKIT_INLINE double wide() const { return is_finite() ? static_cast<double>(high) + low : high; }
};

template <>
struct Sum<double> {
  double high;

  VAEKIT_INLINE void add(double value) { high += value; }
  VAEKIT_INLINE void add(const Sum& other) { high += other.high; }
  VAEKIT_INLINE double value() const { return high; }
  VAEKIT_INLINE double wide() const { return high; }
};

VAEKIT_DEVICE Sum<float> from_lane(const Sum<float>& sum, int distance, int width) {
  const float high = __shfl_xor_sync(kWholeWarp, sum.high, distance, width);
  return {high, __shfl_xor_sync(kWholeWarp, sum.low, distance, width)};
}

VAEKIT_DEVICE Sum<double> from_lane(const Sum<double>& sum, int distance, int width) {
  return {__shfl_xor_sync(kWholeWarp, sum.high, distance, width)};
}

// The sum over `width` neighbouring threads, in the first of them; every thread of the warp takes part.
template <class T>
VAEKIT_DEVICE Sum<T> sum_over_threads(Sum<T> sum, int width) {
  for (int distance = width / 2; distance > 0; distance /= 2) sum.add(from_lane(sum, distance, width));
  return sum;
}

// The sum over the block, in its first thread; every thread takes part.
template <class T>
VAEKIT_DEVICE Sum<T> sum_over_block(Sum<T> sum) {
  __shared__ Sum<T> of_warps[kThreads / kWarp];
  sum = sum_over_threads(sum, kWarp);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = sum;
  __syncthreads();
  if (threadIdx.x == 0) {
    for (int warp = 1; warp < kThreads / kWarp; ++warp) sum.add(of_warps[warp]);
  }
  __syncthreads();  // before the next sums are written
  return sum;
}

}  // namespace cuda
}  // namespace vaekit
