// The arithmetic of one pair of `vaekit::log_aggregate`: the log density of a latent of one example's posterior at another's draw.
// No torch header; compiles for host and device, and becomes vector code as real.h does.
#pragma once

#include "exp.h"

namespace vaekit {

// log q(z_d | x_j) = peak - t^2 with t = (z_d - mu_jd) scale, where scale is sqrt(1/2) / sigma.
constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kLog2Pi = 1.83787706640934548356;  // log(2 pi)

template <class T>
constexpr T kLogLargest = static_cast<T>(sizeof(T) == 8 ? 709.782712893383973096 : 88.7228391116729996);  // of T's numbers

// Within these limits everything is finite for means up to 1e18 in float, and so no product is 0 times infinity. They show at none
// but equal means: others are infinitely far apart, in units of such a sigma, with them as without.
template <class T>
struct AggregateLimits {
  // Of e^x, of exp_or_zero, and of the logarithms of 1 / sigma and sigma.
  T exp = Real<T>::kExpLimit, lowest = kLowestExponent<T>, inverse_sigma = kLogLargest<T> - T(43), sigma = kLogLargest<T> - T(3);
};

template <bool fused, class T>
VAEKIT_INLINE T scale_of(T logvar, const AggregateLimits<T>& limits) {
  const T x = T(-0.5) * logvar;
  return T(kSqrtHalf) * exponential<fused>(x > limits.inverse_sigma ? limits.inverse_sigma : x, limits.exp).value;
}

template <class T>
VAEKIT_INLINE T peak_of(T logvar) {
  return T(-0.5) * (logvar + T(kLog2Pi));
}

// z - mu of an example and its own draw.
template <bool fused, class T>
VAEKIT_INLINE T shift_of(T logvar, T eps, const AggregateLimits<T>& limits) {
  const T x = T(0.5) * logvar;
  return exponential<fused>(x > limits.sigma ? limits.sigma : x, limits.exp).value * eps;
}

// The log density of a latent at the example's own draw.
template <bool fused, class T>
VAEKIT_INLINE T own_density(T logvar, T eps) {
  return multiply_add<fused>(T(-0.5) * eps, eps, peak_of(logvar));
}

// t, by way of mu_i - mu_j: where sigma is far below |mu|, z alone has lost the noise.
template <class T>
VAEKIT_INLINE T standardized(T mu, T shift, T mean, T scale) {
  return ((mu - mean) + shift) * scale;
}

template <bool fused, class T>
VAEKIT_INLINE T density(T t, T peak) {
  return multiply_add<fused>(-t, t, peak);
}

}  // namespace vaekit
