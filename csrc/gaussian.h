// The arithmetic of one element: exp, log, sincos, normals from Philox words, the draw, the divergence and their gradients. No
// torch header; compiles for host and device. Written without branches and without calls, so that a loop over elements becomes vector code.
//
// Only + - * / sqrt and, where `fused`, fused multiply-adds written out, each rounded once and none contracted by the compiler
// (-ffp-contract=off, -fmad=false): so every instruction set with fused multiply-adds (x86-64-v3 and v4, arm64, CUDA) gives the same
// bits, and those without (plain x86-64) give the same bits among themselves. Between the two, normals differ by at most
// 4e-7 * max(1, |value|) and divergences by 1e-6 of their value, as either does from the exact value.
// Largest errors found by tests/csrc: e^x 1.7 ulp, -2 log x 1.1 ulp, cos and sin 1.6 ulp, all over the whole range.
#pragma once

#include <cmath>
#include <cstring>
#include <limits>

#include "macros.h"
#include "philox.h"

namespace vaekit {

template <class To, class From>
VAEKIT_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast keeps the size");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// a b + c, rounded once or twice.
template <bool fused, class T>
VAEKIT_INLINE T multiply_add(T a, T b, T c) {
  if constexpr (fused) {
#if defined(__GNUC__) && !defined(__CUDACC__)
    if constexpr (sizeof(T) == 4) return __builtin_fmaf(a, b, c);  // no call, even unoptimised
    return __builtin_fma(a, b, c);
#else
    return std::fma(a, b, c);
#endif
  } else {
    return a * b + c;
  }
}

// What differs between the two precisions in which the operator computes.
template <class T>
struct Real;

template <>
struct Real<float> {
  using Int = int32_t;
  using Bits = uint32_t;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding and subtracting it rounds to a whole number
  static constexpr float kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;  // High has 10 bits: n * High is exact
  static constexpr float kExpLimit = 104.0f;  // beyond it e^x is 0 or infinite
};

template <>
struct Real<double> {
  using Int = int64_t;
  using Bits = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLn2High = 0.693147180369123816490, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLimit = 746.0;
};

// (e^r - 1 - r) / r^2 on [-0.8, 0.8]: minimax, relative error 2.5e-8 and 6e-17.
template <bool fused>
VAEKIT_INLINE float exp_series(float r) {
  float p = 2.4903796656872146e-05f;
  p = multiply_add<fused>(p, r, 0.0002015071950154379f);
  p = multiply_add<fused>(p, r, 0.0013889885740354657f);
  p = multiply_add<fused>(p, r, 0.008332347497344017f);
  p = multiply_add<fused>(p, r, 0.041666626930236816f);
  p = multiply_add<fused>(p, r, 0.16666674613952637f);
  return multiply_add<fused>(p, r, 0.5f);
}

template <bool fused>
VAEKIT_INLINE double exp_series(double r) {
  double p = 1.1503577654103953e-11;
  p = multiply_add<fused>(p, r, 1.6218388479771545e-10);
  p = multiply_add<fused>(p, r, 2.0877241105130176e-09);
  p = multiply_add<fused>(p, r, 2.5050836143142776e-08);
  p = multiply_add<fused>(p, r, 2.7557313075179664e-07);
  p = multiply_add<fused>(p, r, 2.7557324092067856e-06);
  p = multiply_add<fused>(p, r, 2.4801587326361938e-05);
  p = multiply_add<fused>(p, r, 0.0001984126983222766);
  p = multiply_add<fused>(p, r, 0.001388888888884788);
  p = multiply_add<fused>(p, r, 0.008333333333340518);
  p = multiply_add<fused>(p, r, 0.04166666666666691);
  p = multiply_add<fused>(p, r, 0.1666666666666665);
  return multiply_add<fused>(p, r, 0.5);
}

// -2 (log(1 + f) - f + f^2 / 2) for 1 + f in [sqrt(1/2), sqrt(2)]. float: f^3 times a minimax polynomial, with no division.
template <bool fused>
VAEKIT_INLINE float log_series(float f) {
  float p = 0.1594753273287964f;
  p = multiply_add<fused>(p, f, -0.25311559438705444f);
  p = multiply_add<fused>(p, f, 0.2597887814044952f);
  p = multiply_add<fused>(p, f, -0.28419893980026245f);
  p = multiply_add<fused>(p, f, 0.33283141255378723f);
  p = multiply_add<fused>(p, f, -0.40002402663230896f);
  p = multiply_add<fused>(p, f, 0.5000060796737671f);
  p = multiply_add<fused>(p, f, -0.6666666269302368f);
  return p * (f * (f * f));
}

// double: from 2 artanh(s) with s = f / (2 + f), which needs half as many terms.
template <bool fused>
VAEKIT_INLINE double log_series(double f) {
  const double s = f / (2.0 + f), t = s * s;
  double p = 0.14608801955921372;
  p = multiply_add<fused>(p, t, 0.1311024205166348);
  p = multiply_add<fused>(p, t, 0.15392705524021671);
  p = multiply_add<fused>(p, t, 0.18181665429834487);
  p = multiply_add<fused>(p, t, 0.2222222373017783);
  p = multiply_add<fused>(p, t, 0.28571428564295354);
  p = multiply_add<fused>(p, t, 0.40000000000012714);
  p = multiply_add<fused>(p, t, 0.6666666666666666);
  return -2.0 * (s * (0.5 * f * f + t * p));
}

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

// sigma = e^(logvar / 2), and what a divergence needs of e^d for d = logvar without cancelling near 0.
template <class T>
struct Exponential {
  T value;      // e^x
  T minus_one;  // e^(2x) - 1
  T excess;     // e^(2x) - 1 - 2x
};

// `limit` is Real<T>::kExpLimit, passed in: where GCC sees the constant it treats x = limit as a case of its own, blends the two and
// slows the loop down.
template <bool fused, class T>
VAEKIT_INLINE Exponential<T> exponential(T x, T limit) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  const T below = limit < x ? limit : x;  // a comparison with NaN is false: NaN stays
  const T bounded = -limit > below ? -limit : below;
  // x = 2 m ln 2 + r with |r| <= ln 2. Where m = 0, r is x itself, and nothing cancels in e^(2x) - 1 and e^(2x) - 1 - 2x.
  const T round = R::kRound + T(R::kBias);
  const T shifted = multiply_add<fused>(bounded, T(0.72134752044448170368), round);
  const T m = shifted - round;
  const T high = multiply_add<fused>(m, T(-2) * R::kLn2High, bounded);
  const T r = multiply_add<fused>(m, T(-2) * R::kLn2Low, high);
  const T tail = (r * r) * exp_series<fused>(r);                         // e^r - 1 - r
  const T scale = bit_cast<T>(bit_cast<Bits>(shifted) << R::kMantissa);  // 2^m; kBias is already added
  const T value = (((T(1) + r) + tail) * scale) * scale;  // in two steps, for results outside the normal range
  const T minus_one = r + tail;
  const T square_minus_one = multiply_add<fused>(value, value, T(-1));
  const bool near = m == T(0);
  return {value, near ? minus_one * (minus_one + T(2)) : square_minus_one,
          near ? multiply_add<fused>(minus_one, minus_one, T(2) * tail) : multiply_add<fused>(T(-2), below, square_minus_one)};
}

// -2 log x for positive normal x.
template <bool fused, class T>
VAEKIT_INLINE T minus_two_log(T x) {
  using R = Real<T>;
  using Int = typename R::Int;
  const Int sqrt_half = bit_cast<Int>(T(0.70710678118654752440));
  const Int distance = bit_cast<Int>(x) - sqrt_half;  // x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2))
  const T e = static_cast<T>(distance >> R::kMantissa);
  const T f = bit_cast<T>((distance & ((Int{1} << R::kMantissa) - 1)) + sqrt_half) - T(1);
  const T low = multiply_add<fused>(f, f, multiply_add<fused>(e, T(-2) * R::kLn2Low, log_series<fused>(f)));
  return multiply_add<fused>(e, T(-2) * R::kLn2High, multiply_add<fused>(T(-2), f, low));
}

template <class T>
struct Pair {
  T first, second;
};

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
