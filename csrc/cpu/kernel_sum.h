// The loops of kernel_sum over a chunk of points j, of one row i. Lengths are multiples of kLanes.
#pragma once

#include "../kernel_sum.h"
#include "lanes.h"

namespace vaekit {

constexpr int kLatentsAtOnce = 4;  // for which the arrays over j are read and written once

template <class T>
struct KernelLoops {
  // Adds (x_d - y_jd)^2 of some latents, which lie `stride` apart.
  void (*add_squares)(const T* x, const T* y, int64_t stride, int n, T* squared);
  // The kernel of one bandwidth summed over j, and its slopes added to those of others: by kernel, inverse multiquadric and Gaussian.
  double (*sum[2])(const T* squared, int n, T bandwidth, T lowest);
  void (*add_slopes[2])(const T* squared, int n, T bandwidth, T lowest, T* slope);
  // Adds the sums over j of slope_j (x_d - y_jd), of some latents.
  void (*add_differences)(const T* x, const T* y, int64_t stride, int n, const T* slope, double* out);
};

}  // namespace vaekit
