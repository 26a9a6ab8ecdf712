// Elementary functions of one element: exp, log and what follows from them without cancelling. No torch header; compiles for host and
// device. Written without branches and without calls, so that a loop over elements becomes vector code.
//
// Only + - * / sqrt and, where `fused`, fused multiply-adds written out, each rounded once and none contracted by the compiler
// (-ffp-contract=off, -fmad=false): so every instruction set with fused multiply-adds (x86-64-v3 and v4, arm64, CUDA) gives the same
// bits, and those without (plain x86-64) give the same bits among themselves.
// Largest errors found by tests/csrc: e^x 1.7 ulp, -2 log x 1.1 ulp, both over the whole range.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "macros.h"

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
  static constexpr float kLargest = std::numeric_limits<float>::max(), kInfinity = std::numeric_limits<float>::infinity();
};

template <>
struct Real<double> {
  using Int = int64_t;
  using Bits = uint64_t;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRound = 6755399441055744.0;
  static constexpr double kLn2High = 0.693147180369123816490, kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLimit = 746.0;
  static constexpr double kLargest = std::numeric_limits<double>::max(), kInfinity = std::numeric_limits<double>::infinity();
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

// sigma = e^(logvar / 2), and what a divergence needs of e^d for d = logvar without cancelling near 0.
template <class T>
struct Exponential {
  T value;      // e^x
  T growth;     // e^x - 1
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
  return {value, near ? minus_one : value - T(1), near ? minus_one * (minus_one + T(2)) : square_minus_one,
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

// log(1 + e) for e in [0, 1], right to a few ulp however small e is.
template <bool fused, class T>
VAEKIT_INLINE T log1p_unit(T e) {
  // 1 + e is 1 + f or, beyond the square root of 2, 2 (1 + f).
  const bool is_far = e > T(0.41421356237309504880);
  const T f = is_far ? T(0.5) * (e - T(1)) : e;
  const T rest = T(-0.5) * multiply_add<fused>(f, f, log_series<fused>(f));
  return (is_far ? T(0.69314718055994530942) : T(0)) + (f + rest);
}

// e^x as a factor and four powers of 2, so that it may be beyond the range.
template <class T>
struct WideExp {
  T factor, powers[4];

  // value e^x, also where e^x alone is out of range: 0 where the value is. What is between lies between value and result.
  VAEKIT_INLINE T times(T value) const {
    return ((((value * factor) * powers[0]) * powers[1]) * powers[2]) * powers[3];
  }
};

template <bool fused, class T>
VAEKIT_INLINE WideExp<T> wide_exp(T x) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  // Beyond this every value but 0 has become 0 or infinite, as the smallest number is e^-limit.
  constexpr T limit = T(3) * R::kExpLimit;
  const T below = limit < x ? limit : x;
  const T bounded = -limit > below ? -limit : below;
  // x = k ln 2 + r, and k is divided into four parts.
  const T round = R::kRound + T(4 * R::kBias);
  const T shifted = multiply_add<fused>(bounded, T(1.44269504088896340736), round);
  const T k = shifted - round;
  const T r = multiply_add<fused>(-k, R::kLn2Low, multiply_add<fused>(-k, R::kLn2High, bounded));
  const Bits biased = bit_cast<Bits>(shifted) & ((Bits{1} << (R::kMantissa - 1)) - 1);  // k + 4 kBias
  const auto power = [&](Bits rest) { return bit_cast<T>(((biased + rest) >> 2) << R::kMantissa); };
  return {(T(1) + r) + (r * r) * exp_series<fused>(r), {power(0), power(1), power(2), power(3)}};
}

}  // namespace vaekit
