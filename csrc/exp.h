// e^x of one element, for sums of many: faster than real.h's, for arguments that are not large. No torch header; compiles for host
// and device, and becomes vector code as real.h does.
// Within 2 ulp, as tests/csrc looks after.
#pragma once

#include "real.h"

namespace vaekit {

// e^r for |r| <= ln(2) / 2: minimax, relative error 3.1e-9 and 7e-17, and 1 at 0.
template <bool fused>
VAEKIT_INLINE float short_exp_series(float r) {
  float p = 0.0013814599553094666f;
  p = multiply_add<fused>(p, r, 0.008368716875262360f);
  p = multiply_add<fused>(p, r, 0.041668388031037609f);
  p = multiply_add<fused>(p, r, 0.16666520631773323f);
  p = multiply_add<fused>(p, r, 0.49999993447838350f);
  p = multiply_add<fused>(p, r, 1.0f);
  return multiply_add<fused>(p, r, 1.0f);
}

template <bool fused>
VAEKIT_INLINE double short_exp_series(double r) {
  double p = 2.2981311538834364e-08;
  p = multiply_add<fused>(p, r, 2.762629655421717e-07);
  p = multiply_add<fused>(p, r, 2.7564254929439036e-06);
  p = multiply_add<fused>(p, r, 2.480150451103708e-05);
  p = multiply_add<fused>(p, r, 0.000198412614913928);
  p = multiply_add<fused>(p, r, 0.0013888888932340796);
  p = multiply_add<fused>(p, r, 0.00833333333771546);
  p = multiply_add<fused>(p, r, 0.041666666666573635);
  p = multiply_add<fused>(p, r, 0.166666666666573);
  p = multiply_add<fused>(p, r, 0.5000000000000006);
  p = multiply_add<fused>(p, r, 1.0000000000000007);
  return multiply_add<fused>(p, r, 1.0);
}

constexpr double kLog2E = 1.44269504088896340736, kLn2 = 0.69314718055994530942;

template <class T>
constexpr T kLowestExponent = static_cast<T>(-kLn2 * Real<T>::kBias);  // e^x is 0 from there on down

// e^x for x below 88 (float) or 709 (double); 0 where it is too small for a normal number, exactly. `lowest` is
// kLowestExponent<T>, passed in for the reason given in real.h.
template <bool fused, class T>
VAEKIT_INLINE T exp_or_zero(T x, T lowest) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  const T bounded = lowest > x ? lowest : x;  // a comparison with NaN is false: NaN stays
  const T round = R::kRound + T(R::kBias);
  const T shifted = multiply_add<fused>(bounded, T(kLog2E), round);
  const T m = shifted - round;
  const T r = multiply_add<fused>(m, -R::kLn2Low, multiply_add<fused>(m, -R::kLn2High, bounded));
  // kBias is already added: the exponent 0 of the lowest x makes the factor 0.
  return short_exp_series<fused>(r) * bit_cast<T>(bit_cast<Bits>(shifted) << R::kMantissa);
}

}  // namespace vaekit
