// The arithmetic of vaekit::bernoulli_nll for the kernels of nll.cuh.
#pragma once

#include "../bernoulli_nll.h"
#include "nll.cuh"

namespace vaekit {
namespace cuda {

struct BernoulliNll {
  static constexpr bool kTakesVectors = true;

  template <class S, int n, class T>
  static VAEKIT_INLINE void values(const Place<S, n>& place, const T (&x)[n], T (&nll)[n]) {
    T logit[n];
    place.plane(0, logit);
    VAEKIT_UNROLL(8)
    for (int i = 0; i < n; ++i) nll[i] = bernoulli_nll<true>(logit[i], x[i], Real<T>::kExpLimit);
  }

  template <class S, int n, class T>
  static VAEKIT_INLINE void gradients(const Place<S, n>& place, const T (&x)[n], T grad, const GradientsOf<S, n>& out, T (&)[n]) {
    T logit[n];
    place.plane(0, logit);
    VAEKIT_UNROLL(8)
    for (int i = 0; i < n; ++i) logit[i] = grad * bernoulli_nll_slope<true>(logit[i], x[i], Real<T>::kExpLimit);
    out.plane(0, logit);
  }
};

}  // namespace cuda
}  // namespace vaekit
