// The arithmetic of one element of `vaekit::bernoulli_nll`. No torch header; compiles for host and device, and becomes vector code as
// real.h does.
#pragma once

#include "real.h"

namespace vaekit {

// -log p(x | logit) = log(1 + e^l) - x l, in nats: of two terms that are not negative for x in [0, 1], so that nothing cancels.
template <bool fused, class T>
VAEKIT_INLINE T bernoulli_nll(T logit, T x, T limit) {
  const T size = logit > T(0) ? logit : -logit;
  const T weight = logit > T(0) ? T(1) - x : x;
  const T e = exponential<fused>(-size, limit).value;
  return multiply_add<fused>(size, weight, log1p_unit<fused>(e));
}

// Its derivative in the logit, sigmoid(l) - x.
template <bool fused, class T>
VAEKIT_INLINE T bernoulli_nll_slope(T logit, T x, T limit) {
  const T size = logit > T(0) ? logit : -logit;
  const T weight = logit > T(0) ? T(1) - x : x;
  const T e = exponential<fused>(-size, limit).value;
  const T slope = e / (T(1) + e) - weight;
  return logit > T(0) ? -slope : slope;
}

}  // namespace vaekit
