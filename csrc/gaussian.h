// The arithmetic of one element of the operator: normals from Philox words, the draw, the divergence and their gradients. No torch
// header; compiles for host and device, and becomes vector code as real.h does.
//
// Instruction sets with fused multiply-adds give the same bits, and so do those without: see real.h. Between the two, normals differ
// by at most 4e-7 * max(1, |value|) and divergences by 1e-6 of their value, as either does from the exact value.
// Largest error of cos and sin found by tests/csrc: 1.6 ulp over the whole range.
#pragma once

#include "philox.h"
#include "real.h"

namespace vaekit {

// sin(2 pi f) / f and (cos(2 pi f) - 1) / f^2 in t = f^2, for |f| at most 1/8.
template <bool fused>
VAEKIT_INLINE float sin_series(float t) {
  float p = -76.77486419677734f;
  p = multiply_add<fused>(p, t, 81.62562561035156f);
  p = multiply_add<fused>(p, t, -41.34186553955078f);
  return multiply_add<fused>(p, t, 6.2831854820251465f);
}

template <bool fused>
VAEKIT_INLINE double sin_series(double t) {
  double p = 3.748255733562442;
  p = multiply_add<fused>(p, t, -15.092279195517646);
  p = multiply_add<fused>(p, t, 42.05865829345174);
  p = multiply_add<fused>(p, t, -76.70585948854587);
  p = multiply_add<fused>(p, t, 81.60524927516175);
  p = multiply_add<fused>(p, t, -41.34170224039859);
  return multiply_add<fused>(p, t, 6.283185307179586);
}

template <bool fused>
VAEKIT_INLINE float cos_series(float t) {
  float p = 54.651302337646484f;
  p = multiply_add<fused>(p, t, -85.3369140625f);
  p = multiply_add<fused>(p, t, 64.93871307373047f);
  return multiply_add<fused>(p, t, -19.739208221435547f);
}

template <bool fused>
VAEKIT_INLINE double cos_series(double t) {
  double p = -1.5259098648787943;
  p = multiply_add<fused>(p, t, 7.895092099354956);
  p = multiply_add<fused>(p, t, -26.426110633351147);
  p = multiply_add<fused>(p, t, 60.24464019676208);
  p = multiply_add<fused>(p, t, -85.45681720240569);
  p = multiply_add<fused>(p, t, 64.93939402266254);
  return multiply_add<fused>(p, t, -19.739208802178716);
}

// (cos, sin)(2 pi u) for u in [0, 1].
template <bool fused, class T>
VAEKIT_INLINE Pair<T> cos_sin_turns(T u) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  constexpr T round = R::kRound / 4;  // adding and subtracting it rounds to a multiple of 1/4, counted in its last bits
  const T shifted = u + round;
  const Bits quarter = bit_cast<Bits>(shifted);
  const T f = u - (shifted - round);  // exact, |f| <= 1/8
  const T t = f * f;
  const T sine = f * sin_series<fused>(t), cosine = multiply_add<fused>(t, cos_series<fused>(t), T(1));
  constexpr int places = sizeof(T) * 8 - 2;
  constexpr Bits sign = Bits{1} << (places + 1);
  const bool odd = (quarter & 1) != 0;
  return {bit_cast<T>(bit_cast<Bits>(odd ? sine : cosine) ^ (((quarter + 1) << places) & sign)),
          bit_cast<T>(bit_cast<Bits>(odd ? cosine : sine) ^ ((quarter << places) & sign))};
}

// Two normals from two uniforms in (0, 1]: G. E. P. Box and M. E. Muller, 1958.
template <bool fused, class T>
VAEKIT_INLINE Pair<T> box_muller(T u0, T u1) {
  const T radius = std::sqrt(minus_two_log<fused>(u0));
  const Pair<T> angle = cos_sin_turns<fused>(u1);
  return {radius * angle.first, radius * angle.second};
}

VAEKIT_INLINE float uniform(uint32_t x) { return static_cast<float>(x) * 0x1p-32f + 0x1p-33f; }

// From 53 bits of two words; the two halves are exact in double.
VAEKIT_INLINE double uniform(uint32_t a, uint32_t b) {
  return (static_cast<double>(a) * 2097152.0 + static_cast<double>(b >> 11)) * 0x1p-53 + 0x1p-54;
}

template <class T>
constexpr int kPerBlock = sizeof(T) == 8 ? 2 : 4;  // normals from one Philox block

// --- one element of the operator; `limit` is Real<T>::kExpLimit ------------------------------------------------------------

template <class T>
struct Divergence {
  T sigma;  // e^(logvar / 2), with which `draw` makes z
  T kl;     // nats
};

template <bool fused, class T>
VAEKIT_INLINE T draw(T mu, T sigma, T eps) { return multiply_add<fused>(sigma, eps, mu); }

// From N(0, 1).
template <bool fused, class T>
VAEKIT_INLINE Divergence<T> divergence(T mu, T logvar, T limit) {
  const Exponential<T> e = exponential<fused>(T(0.5) * logvar, limit);
  return {e.value, T(0.5) * multiply_add<fused>(mu, mu, e.excess)};
}

// From N(prior_mu, e^prior_logvar).
template <bool fused, class T>
VAEKIT_INLINE Divergence<T> divergence_from(T mu, T logvar, T prior_mu, T prior_logvar, T limit) {
  const T standardized = (mu - prior_mu) * exponential<fused>(T(-0.5) * prior_logvar, limit).value;
  const T sigma = exponential<fused>(T(0.5) * logvar, limit).value;
  // The difference is rounded, and e^d makes of half its last bit up to 4e-6 of the value where it is above 64. To add what was
  // lost would make this loop a twentieth slower.
  const T excess = exponential<fused>(T(0.5) * (logvar - prior_logvar), limit).excess;
  return {sigma, T(0.5) * multiply_add<fused>(standardized, standardized, excess)};
}

template <class T>
struct Gradient {
  T mu, logvar;
};

// Of one draw and of its divergence from N(0, 1).
template <bool fused, class T>
VAEKIT_INLINE Gradient<T> gradient(T mu, T logvar, T eps, T grad_z, T grad_kl, T limit) {
  const Exponential<T> e = exponential<fused>(T(0.5) * logvar, limit);
  return {multiply_add<fused>(grad_kl, mu, grad_z), T(0.5) * multiply_add<fused>(e.value, grad_z * eps, grad_kl * e.minus_one)};
}

// Of draws alone, in logvar; `scaled` is the sum of grad_z eps.
template <bool fused, class T>
VAEKIT_INLINE T draw_gradient(T logvar, T scaled, T limit) {
  return T(0.5) * (exponential<fused>(T(0.5) * logvar, limit).value * scaled);
}

// `sum`, the gradient of the draws, and that of the divergence from N(0, 1).
template <bool fused, class T>
VAEKIT_INLINE Gradient<T> add_divergence(Gradient<T> sum, T mu, T logvar, T grad_kl, T limit) {
  const T slope = exponential<fused>(T(0.5) * logvar, limit).minus_one;
  return {multiply_add<fused>(grad_kl, mu, sum.mu), multiply_add<fused>(T(0.5) * grad_kl, slope, sum.logvar)};
}

// The same from N(prior_mu, e^prior_logvar): what it adds, and the prior's own gradient.
template <class T>
struct GradientFrom {
  Gradient<T> posterior, prior;
};

template <bool fused, class T>
VAEKIT_INLINE GradientFrom<T> divergence_gradient_from(T mu, T logvar, T prior_mu, T prior_logvar, T grad_kl, T limit) {
  const T offset = mu - prior_mu;
  const T half_precision = exponential<fused>(T(-0.5) * prior_logvar, limit).value;  // multiplied by twice: its square overflows earlier
  const T by_mu = grad_kl * (offset * half_precision * half_precision);
  const T by_logvar = (T(0.5) * grad_kl) * exponential<fused>(T(0.5) * (logvar - prior_logvar), limit).minus_one;
  return {{by_mu, by_logvar}, {-by_mu, -(T(0.5) * by_mu * offset + by_logvar)}};
}

}  // namespace vaekit
