// The arithmetic of vaekit::gaussian_nll for the kernels of nll.cuh. Of one plane, the mean, the log variance is the shared parameter; of
// two the second.
#pragma once

#include "../gaussian_nll.h"
#include "nll.cuh"

namespace vaekit {
namespace cuda {

struct GaussianNll {
  static constexpr bool kTakesVectors = true;

  template <class S, int n, class T>
  static VAEKIT_INLINE void read(const Place<S, n>& place, T (&mean)[n], T (&logvar)[n]) {
    place.plane(0, mean);
    if (place.p.planes == 2) {
      place.plane(1, logvar);
    } else {
      const T shared = place.shared();
      VAEKIT_UNROLL(8)
      for (int i = 0; i < n; ++i) logvar[i] = shared;
    }
  }

  template <class S, int n, class T>
  static VAEKIT_INLINE void values(const Place<S, n>& place, const T (&x)[n], T (&nll)[n]) {
    T mean[n], logvar[n];
    read(place, mean, logvar);
    VAEKIT_UNROLL(8)
    for (int i = 0; i < n; ++i) nll[i] = gaussian_nll<true>(mean[i], logvar[i], wide_exp<true>(T(-0.5) * logvar[i]), x[i]);
  }

  template <class S, int n, class T>
  static VAEKIT_INLINE void gradients(const Place<S, n>& place, const T (&x)[n], T grad, const GradientsOf<S, n>& out, T (&shared)[n]) {
    T mean[n], logvar[n];
    read(place, mean, logvar);
    VAEKIT_UNROLL(8)
    for (int i = 0; i < n; ++i) {
      const GaussianSlopes<T> slopes = gaussian_nll_slopes<true>(mean[i], wide_exp<true>(T(-0.5) * logvar[i]), x[i]);
      mean[i] = grad * slopes.mean;
      shared[i] = grad * slopes.logvar;
    }
    out.plane(0, mean);
    if (place.p.planes == 2) out.plane(1, shared);
  }
};

}  // namespace cuda
}  // namespace vaekit
