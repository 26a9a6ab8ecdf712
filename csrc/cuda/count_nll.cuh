// The arithmetic of vaekit::poisson_nll, negative_binomial_nll and zero_inflated_negative_binomial_nll for the kernels of nll.cuh. The
// planes are log m, log t where the decoder gives it for each element (the option), and the logit.
#pragma once

#include "../counts.h"
#include "nll.cuh"

namespace vaekit {
namespace cuda {

constexpr int64_t kOfElement = 1;  // the option: log t is a plane, and otherwise the shared parameter

// A thread takes a count at a time, for the formula of those that are not 0 is long.
template <class Arithmetic>
struct CountElements {
  static constexpr bool kTakesVectors = false;

  template <class S, class T>
  static VAEKIT_INLINE CountNll<T> of(const Place<S, 1>& place, T x) {
    T log_mean[1], log_theta[1] = {}, logit[1] = {};
    const bool of_element = place.p.option == kOfElement;
    place.plane(0, log_mean);
    if constexpr (Arithmetic::kParameters > 1) {
      if (of_element) {
        place.plane(1, log_theta);
      } else {
        log_theta[0] = place.shared();
      }
    }
    if constexpr (Arithmetic::kParameters > 2) place.plane(of_element ? 2 : 1, logit);
    if (x == T(0)) return Arithmetic::template of_none<true>(log_mean[0], log_theta[0], logit[0], Real<T>::kExpLimit);
    return Arithmetic::template of_count<true>(log_mean[0], log_theta[0], logit[0], x < T(1) ? T(1) : x, Real<T>::kExpLimit);
  }

  template <class S, class T>
  static VAEKIT_INLINE void values(const Place<S, 1>& place, const T (&x)[1], T (&nll)[1]) {
    nll[0] = of(place, x[0]).nll;
  }

  template <class S, class T>
  static VAEKIT_INLINE void gradients(const Place<S, 1>& place, const T (&x)[1], T grad, const GradientsOf<S, 1>& out, T (&shared)[1]) {
    const CountNll<T> e = of(place, x[0]);
    const bool of_element = place.p.option == kOfElement;
    const T by_log_mean[1] = {grad * e.by_log_mean}, by_logit[1] = {grad * e.by_logit};
    out.plane(0, by_log_mean);
    if constexpr (Arithmetic::kParameters > 1) {
      shared[0] = grad * e.by_log_theta;
      if (of_element) out.plane(1, shared);
    }
    if constexpr (Arithmetic::kParameters > 2) out.plane(of_element ? 2 : 1, by_logit);
  }
};

struct PoissonNll : CountElements<Poisson> {};
struct NegativeBinomialNll : CountElements<NegativeBinomial> {};
struct ZeroInflatedNll : CountElements<ZeroInflated> {};

}  // namespace cuda
}  // namespace vaekit
