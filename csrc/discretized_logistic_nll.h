// The arithmetic of one element of `vaekit::discretized_logistic_nll`, a mixture of K logistics in the bins of L levels. No torch header;
// compiles for host and device, and becomes vector code as real.h does.
#pragma once

#include "real.h"

namespace vaekit {

// log(1 - e) for e in [0, 0.65], right to a few ulp however small e is.
template <bool fused, class T>
VAEKIT_INLINE T log_one_minus(T e) {
  // 1 - e is 1 + f or, below the square root of 1/2, (1 + f) / 2.
  const bool is_far = e > T(0.29289321881345247560);
  const T f = is_far ? T(1) - T(2) * e : -e;
  const T rest = T(-0.5) * multiply_add<fused>(f, f, log_series<fused>(f));
  return (is_far ? T(-0.69314718055994530942) : T(0)) + (f + rest);
}

// log(sigmoid(u)) and its derivative, sigmoid(-u).
template <class T>
struct LogSigmoid {
  T value, slope;
};

template <bool fused, class T>
VAEKIT_INLINE LogSigmoid<T> log_sigmoid(T u, T limit) {
  const T e = exponential<fused>(u > T(0) ? -u : u, limit).value;
  return {(u > T(0) ? T(0) : u) - log1p_unit<fused>(e), (u > T(0) ? e : T(1)) / (T(1) + e)};
}

template <class T>
struct Levels {
  T last, width, log_width;  // L - 1, 2 / (L - 1), and its logarithm
};

// The edges of a level's bin, in the units in which the data spans -1 to 1. The first bin, whose lower edge is below -1, and the last,
// whose upper edge is above 1, reach to infinity.
template <class T>
struct Bin {
  T lower, upper;
};

template <class T>
VAEKIT_INLINE Bin<T> bin_of(T x, const Levels<T>& levels) {
  const T scaled = x * levels.last;
  const T level = scaled < T(2097152) ? (scaled + Real<T>::kRound) - Real<T>::kRound : scaled;  // to the nearest, ties to even
  const T middle = T(2) * level - levels.last;
  return {(middle - T(1)) / levels.last, (middle + T(1)) / levels.last};
}

// The logarithm of a bin's probability under one logistic, and of what its derivatives are made: by `upper` and `lower`, the distances of
// the edges in scales, with their signs, and by the log scale where the distances stay as they are.
template <class T>
struct LogBin {
  T value, by_upper, by_lower, by_log_scale, precision;
};

// sigmoid(upper) - sigmoid(lower) = sigmoid(upper) sigmoid(-lower) (1 - e^(lower - upper)), of which nothing cancels.
template <bool fused, class T>
VAEKIT_INLINE LogBin<T> log_bin(T mean, T log_scale, const Bin<T>& bin, const Levels<T>& levels, T smallest, T limit) {
  const T bounded = log_scale < smallest ? smallest : log_scale;  // no 0 times infinity behind it
  const T precision = exponential<fused>(-bounded, limit).value;
  const LogSigmoid<T> above = log_sigmoid<fused>((bin.upper - mean) * precision, limit);
  const LogSigmoid<T> below = log_sigmoid<fused>((mean - bin.lower) * precision, limit);
  // log(1 - e^-t), and its derivative by -log t, which is log_scale: -t / (e^t - 1).
  const T t = levels.width * precision, e = exponential<fused>(-t, limit).value, square = t * t;
  const bool is_narrow = t < T(0.5);
  // log(sinh(t / 2) / (t / 2)) in powers of t^2: B_2n / (2n (2n)!), DLMF 4.19.7 with an imaginary argument.
  T p = T(-691.0 / 15692092416000.0);
  p = multiply_add<fused>(p, square, T(1.0 / 479001600.0));
  p = multiply_add<fused>(p, square, T(-1.0 / 9676800.0));
  p = multiply_add<fused>(p, square, T(1.0 / 181440.0));
  p = multiply_add<fused>(p, square, T(-1.0 / 2880.0));
  p = multiply_add<fused>(p, square, T(1.0 / 24.0));
  // and t / 2 - 1 + t / (e^t - 1), its derivative times t
  T q = T(-691.0 / 1307674368000.0);
  q = multiply_add<fused>(q, square, T(1.0 / 47900160.0));
  q = multiply_add<fused>(q, square, T(-1.0 / 1209600.0));
  q = multiply_add<fused>(q, square, T(1.0 / 30240.0));
  q = multiply_add<fused>(q, square, T(-1.0 / 720.0));
  q = multiply_add<fused>(q, square, T(1.0 / 12.0));
  const T inside = is_narrow ? (levels.log_width - bounded) + multiply_add<fused>(p, square, T(-0.5) * t)
                             : log_one_minus<fused>(is_narrow ? T(0) : e);
  const T by_inside = is_narrow ? multiply_add<fused>(q, square, T(1) - T(0.5) * t) : t * e / (T(1) - (is_narrow ? T(0) : e));
  const bool is_first = bin.lower < T(-1), is_last = bin.upper > T(1), reaches = is_first || is_last;
  return {(is_last ? T(0) : above.value) + (is_first ? T(0) : below.value) + (reaches ? T(0) : inside),
          is_last ? T(0) : above.slope, is_first ? T(0) : -below.slope, reaches ? T(0) : -by_inside, precision};
}

}  // namespace vaekit
