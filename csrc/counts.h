// The arithmetic of one count: -log p under a Poisson, a negative binomial and a zero-inflated negative binomial, and its
// derivatives. No torch header; compiles for host and device, and becomes vector code as real.h does.
//
// The formulas are those of vaekit/likelihoods/special.py, where the reason for each is: a deviance, which is 0 where the count
// is what the parameters expect, and Stirling's remainders, so that a count of a million does not cancel. Here the derivatives
// are written out as well. Counts of 0, most of a cell's, have a formula of their own, a fraction of the other's work.
#pragma once

#include "real.h"

namespace vaekit {

template <class T>
constexpr double kLogBound = sizeof(T) == 8 ? 700.0 : 80.0;  // up to it, a number times its exponential is far from overflow
constexpr double kHalfLogTwoPi = 0.91893853320467274178;

// (artanh(s) / s - 1) / s^2 in t = s^2, for |s| at most 1/3: minimax, absolute error 3.5e-9 and 1.2e-18.
template <bool fused>
VAEKIT_INLINE float artanh_series(float t) {
  float p = 0.11627185344696045f;
  p = multiply_add<fused>(p, t, 0.1084996834397316f);
  p = multiply_add<fused>(p, t, 0.14296407997608185f);
  p = multiply_add<fused>(p, t, 0.19999848306179047f);
  return multiply_add<fused>(p, t, 0.3333333432674408f);
}

template <bool fused>
VAEKIT_INLINE double artanh_series(double t) {
  double p = 0.07827306081828493;
  p = multiply_add<fused>(p, t, 0.03739417467746987);
  p = multiply_add<fused>(p, t, 0.054241550016489226);
  p = multiply_add<fused>(p, t, 0.05866935590429502);
  p = multiply_add<fused>(p, t, 0.06667605363665913);
  p = multiply_add<fused>(p, t, 0.07692271201095494);
  p = multiply_add<fused>(p, t, 0.09090909972131785);
  p = multiply_add<fused>(p, t, 0.1111111109872458);
  p = multiply_add<fused>(p, t, 0.1428571428580345);
  p = multiply_add<fused>(p, t, 0.19999999999999749);
  return multiply_add<fused>(p, t, 0.3333333333333333);
}

// log(1 + a) for a in [-1/2, 1].
template <bool fused, class T>
VAEKIT_INLINE T log_one_plus(T a) {
  const T s = a / (T(2) + a), t = s * s, twice = s + s;
  return multiply_add<fused>(twice * t, artanh_series<fused>(t), twice);
}

// Stirling's remainder, log gamma(z + 1) - z log z + z - log(2 pi z) / 2, is v times this, with v = 1 / z and w = v - 1/2, for z
// of at least 1: minimax, absolute error 2.9e-9 and 2.6e-17.
template <bool fused>
VAEKIT_INLINE float stirling_series(float w) {
  float p = 0.00013711326755583286f;
  p = multiply_add<fused>(p, w, -0.00021841151465196162f);
  p = multiply_add<fused>(p, w, -1.5484403775190003e-05f);
  p = multiply_add<fused>(p, w, 0.000807356380391866f);
  p = multiply_add<fused>(p, w, -0.0019406734500080347f);
  p = multiply_add<fused>(p, w, -0.0024600496981292963f);
  return multiply_add<fused>(p, w, 0.08268139511346817f);
}

template <bool fused>
VAEKIT_INLINE double stirling_series(double w) {
  double p = -0.0001691212618781002;
  p = multiply_add<fused>(p, w, 6.307455275049827e-05);
  p = multiply_add<fused>(p, w, 0.0002455377673871057);
  p = multiply_add<fused>(p, w, -0.00015413545116673864);
  p = multiply_add<fused>(p, w, -7.002323840584956e-05);
  p = multiply_add<fused>(p, w, 7.269390172260749e-05);
  p = multiply_add<fused>(p, w, -2.779878077520034e-05);
  p = multiply_add<fused>(p, w, 3.828519493289131e-05);
  p = multiply_add<fused>(p, w, -3.717864267187942e-05);
  p = multiply_add<fused>(p, w, 6.475815793200214e-06);
  p = multiply_add<fused>(p, w, 3.1796792472943074e-05);
  p = multiply_add<fused>(p, w, -6.145089533439208e-05);
  p = multiply_add<fused>(p, w, 6.653380101692501e-05);
  p = multiply_add<fused>(p, w, -2.9989266427638354e-05);
  p = multiply_add<fused>(p, w, -5.47074516529726e-05);
  p = multiply_add<fused>(p, w, 0.0001630312169542737);
  p = multiply_add<fused>(p, w, -0.00020492937016836578);
  p = multiply_add<fused>(p, w, -2.0194625290677496e-05);
  p = multiply_add<fused>(p, w, 0.0008061463951304671);
  p = multiply_add<fused>(p, w, -0.0019404175524264217);
  p = multiply_add<fused>(p, w, -0.002460020129812298);
  return multiply_add<fused>(p, w, 0.08268139191081861);
}

// Its derivative by z is -v^2 times this: minimax, absolute error 4.3e-9 and 5.7e-18.
template <bool fused>
VAEKIT_INLINE float stirling_slope_series(float w) {
  float p = -0.0003065725904889405f;
  p = multiply_add<fused>(p, w, -0.0002900386170949787f);
  p = multiply_add<fused>(p, w, 0.0010287516051903367f);
  p = multiply_add<fused>(p, w, -0.0007937102345749736f);
  p = multiply_add<fused>(p, w, -0.000621116254478693f);
  p = multiply_add<fused>(p, w, 0.003187961410731077f);
  p = multiply_add<fused>(p, w, -0.00461175199598074f);
  p = multiply_add<fused>(p, w, -0.006860528606921434f);
  return multiply_add<fused>(p, w, 0.08145137876272202f);
}

template <bool fused>
VAEKIT_INLINE double stirling_slope_series(double w) {
  double p = 0.0020092506216004185;
  p = multiply_add<fused>(p, w, -0.0036922770507623994);
  p = multiply_add<fused>(p, w, 8.012259840144595e-06);
  p = multiply_add<fused>(p, w, 0.0037144628356838272);
  p = multiply_add<fused>(p, w, -0.00202869467919761);
  p = multiply_add<fused>(p, w, -0.0004163464181831291);
  p = multiply_add<fused>(p, w, 0.0004135938102584017);
  p = multiply_add<fused>(p, w, -6.592846091683276e-05);
  p = multiply_add<fused>(p, w, 0.0003492072375320794);
  p = multiply_add<fused>(p, w, -0.000541399826851915);
  p = multiply_add<fused>(p, w, 0.0004106647515200597);
  p = multiply_add<fused>(p, w, -0.00013927314779503216);
  p = multiply_add<fused>(p, w, -0.00016096627075819895);
  p = multiply_add<fused>(p, w, 0.00040826294771652955);
  p = multiply_add<fused>(p, w, -0.000501012896533618);
  p = multiply_add<fused>(p, w, 0.00035890822482363455);
  p = multiply_add<fused>(p, w, 2.9508488146261513e-05);
  p = multiply_add<fused>(p, w, -0.0005576504188629662);
  p = multiply_add<fused>(p, w, 0.0009497417057070103);
  p = multiply_add<fused>(p, w, -0.0007404818121147627);
  p = multiply_add<fused>(p, w, -0.0006132965331706571);
  p = multiply_add<fused>(p, w, 0.0031841963221642382);
  p = multiply_add<fused>(p, w, -0.004612033064744584);
  p = multiply_add<fused>(p, w, -0.006860457812027696);
  return multiply_add<fused>(p, w, 0.08145138184591268);
}

template <bool fused, class T>
VAEKIT_INLINE T stirling(T inverse) {
  return inverse * stirling_series<fused>(inverse - T(0.5));
}

// -z^2 times the derivative of Stirling's remainder at z = 1 / inverse.
template <bool fused, class T>
VAEKIT_INLINE T stirling_slope(T inverse) {
  return stirling_slope_series<fused>(inverse - T(0.5));
}

// -log p of a count, in nats, and its derivatives by the logarithms of the mean m and of the inverse dispersion t, and by the
// logit of the probability that the count was lost: 0 where a distribution has no such parameter.
template <class T>
struct CountNll {
  T nll, by_log_mean, by_log_theta, by_logit;
};

// Of a count of 0 under a negative binomial: t log(1 + m / t). `limit` is Real<T>::kExpLimit.
template <bool fused, class T>
VAEKIT_INLINE CountNll<T> negative_binomial_of_none(T log_mean, T log_theta, T limit) {
  const bool mean_is_less = log_mean <= log_theta;
  const T distance = log_mean - log_theta;
  const T least = exponential<fused>(mean_is_less ? log_mean : log_theta, limit).value;
  const T ratio = exponential<fused>(mean_is_less ? distance : -distance, limit).value;  // of the lesser to the greater
  const T one = T(1) + ratio, two = T(2) + ratio, inverse = T(1) / (one * two);
  const T share = inverse * two, half = inverse * one;  // 1 / (1 + ratio) and 1 / (2 + ratio)
  // log(1 + ratio) = 2 artanh(s) = 2 s + 2 s rest. Without its part ratio / (1 + ratio), which the derivative by log t lacks, it
  // is a sum of positive terms.
  const T s = ratio * half, t = s * s, rest = t * artanh_series<fused>(t);
  const T log_one = multiply_add<fused>(s + s, rest, s + s), beyond = distance + log_one;
  const T most = Real<T>::kLargest, finite = least > most ? most : least;  // 0 times it is 0
  return {least * (mean_is_less ? multiply_add<fused>(half + half, rest, half + half) : beyond), least * share,
          finite * (mean_is_less ? half * multiply_add<fused>(ratio, share, rest + rest) : beyond - share), T(0)};
}

// Of a count x of at least 1.
template <bool fused, class T>
VAEKIT_INLINE CountNll<T> negative_binomial_of_count(T log_mean, T given_log_theta, T x, T limit) {
  const T bound = T(kLogBound<T>);
  const T log_theta = given_log_theta > bound ? bound : given_log_theta;
  const T theta = exponential<fused>(log_theta, limit).value;
  const T log_x = T(-0.5) * minus_two_log<fused>(x);
  const T shift = log_mean - log_x, distance = log_mean - log_theta, apart = log_x - log_theta;
  const T total = x + theta, inverse_total = T(1) / total;
  const T share = x * inverse_total, rest = theta * inverse_total;
  const bool x_is_less = x < theta, mean_is_less = distance <= T(0), near = (shift < T(0) ? -shift : shift) <= T(1);
  const T log_one_ratio = log_one_plus<fused>(x_is_less ? x / theta : theta / x);  // log(total / the greater of the two)

  // With q = x / (x + t) and p = m / (m + t): log(q / p) and log((1 - q) / (1 - p)), which differ by the shift. Near 0 that of
  // the smaller share is a log(1 + a); far from it each is a difference of two such logarithms.
  const T toward = x_is_less ? shift : -shift, below = mean_is_less ? distance : -distance;
  const Exponential<T> e = exponential<fused>(near ? toward : below, limit);
  // What rounding took of the distance of two large logarithms, NaN where one is infinite (D. E. Knuth, "Seminumerical Algorithms",
  // 1969, 4.2.2): where t is as good as infinite, this is what the mean is off by.
  const T back = distance - log_mean, exact_lost = (log_mean - (distance - back)) - (log_theta + back);
  const T lost = exact_lost == exact_lost ? exact_lost : T(0);
  const T ratio = multiply_add<fused>(e.value, mean_is_less ? lost : -lost, e.value);  // of the lesser of m and t to the greater
  const T a = near ? (x_is_less ? share : rest) * e.growth : ratio;
  const T log_one = log_one_plus<fused>(a), base = near ? log_one : log_one - log_one_ratio;
  const T far_ratio = mean_is_less ? (x_is_less ? -shift : -distance) : (x_is_less ? apart : T(0));
  const T far_rest_ratio = mean_is_less ? (x_is_less ? T(0) : -apart) : (x_is_less ? distance : shift);
  const T log_ratio = base + (near ? (x_is_less ? -shift : T(0)) : far_ratio);
  const T log_rest_ratio = base + (near ? (x_is_less ? T(0) : shift) : far_rest_ratio);
  const T scaled = theta * log_rest_ratio, deviance = multiply_add<fused>(x, log_ratio, scaled);

  // t (m - x) / (m + t)
  const T mean = exponential<fused>(log_mean, limit).value;
  const T near_slope = (x_is_less ? x : -x) * rest * e.growth;
  const T far_slope = mean_is_less ? mean - x : multiply_add<fused>(-x, ratio, theta);
  const T by_log_mean = (near ? near_slope : far_slope) / (T(1) + a);

  // What is beside the deviance. Below 1 the remainder at t is that at t + 1 and what the two differ by.
  const bool tiny = theta < T(1);
  const T inverse_theta = T(1) / (tiny ? theta + T(1) : theta);
  const T log_step = log_one_plus<fused>(tiny ? theta : T(1)) - log_theta;  // log((t + 1) / t)
  const T half_up = theta + T(0.5);
  const T remainders = (stirling<fused>(inverse_theta) - stirling<fused>(inverse_total)) + stirling<fused>(T(1) / x);
  const T step = tiny ? multiply_add<fused>(half_up, log_step, T(-1)) : T(0);
  const T logs = log_x + (log_one_ratio + (x_is_less ? T(0) : apart));  // log x + log(total / t)
  const T choice = multiply_add<fused>(T(0.5), logs, (remainders + step) + T(kHalfLogTwoPi));

  // t (e^-l - 1 + l) with l = log_rest_ratio, where t (e^-l - 1) is -by_log_mean
  const bool small = (log_rest_ratio < T(0) ? -log_rest_ratio : log_rest_ratio) <= T(0.5);
  const T by_deviance = small ? (scaled * log_rest_ratio) * exp_series<fused>(-log_rest_ratio) : scaled - by_log_mean;
  const T slope_at_total = (rest * inverse_total) * stirling_slope<fused>(inverse_total);
  const T slope_at_theta = (theta * inverse_theta) * (inverse_theta * stirling_slope<fused>(inverse_theta));
  const T step_slope = tiny ? multiply_add<fused>(theta, log_step, -(half_up * inverse_theta)) : T(0);
  const T by_choice = (slope_at_total - slope_at_theta) + multiply_add<fused>(T(-0.5), share, step_slope);
  return {deviance + choice, by_log_mean, by_deviance + by_choice, T(0)};
}

// Of a count of 0 that may have been lost, -log(d + (1 - d) e^-n), where d is the sigmoid of the logit and n what the negative
// binomial says of a 0.
template <bool fused, class T>
VAEKIT_INLINE CountNll<T> zero_inflated_of_none(T log_mean, T log_theta, T logit, T limit) {
  // Beyond this no count is 0, and n and its derivatives would overflow.
  const T bound = T(kLogBound<T>);
  const bool never = log_mean > bound && log_theta > bound;
  const CountNll<T> n = negative_binomial_of_none<fused>(never ? bound : log_mean, never ? bound : log_theta, limit);
  const T sum = logit + n.nll;
  const bool likely = logit > T(0), surely = sum > T(0);
  const T e_logit = exponential<fused>(likely ? -logit : logit, limit).value, one = T(1) / (T(1) + e_logit);
  const T e_sum = exponential<fused>(surely ? -sum : sum, limit).value, one_sum = T(1) / (T(1) + e_sum);
  const T growth = exponential<fused>(-n.nll, limit).growth;  // e^-n - 1
  const T kept = likely ? e_logit * one : one;                // 1 - d
  const T lost = surely ? one_sum : e_sum * one_sum;          // the probability that the 0 is a lost count
  const T counted = surely ? e_sum * one_sum : one_sum;
  // log(1 + (1 - d) (e^-n - 1)), or where that is too small for it the difference of softplus(logit) and log(e^logit + e^-n)
  const bool near = likely || n.nll < T(0.69);
  const T log_one = log_one_plus<fused>(near ? kept * growth : e_sum);
  const T far = (log_one_plus<fused>(e_logit) - log_one) + (-logit < n.nll ? -logit : n.nll);
  // Where nothing was counted, what n's derivative is does not matter, if it is a number.
  const T most = Real<T>::kLargest;
  const T by_log_theta = n.by_log_theta > most ? most : n.by_log_theta;
  return {near ? -log_one : far, counted * n.by_log_mean, counted * by_log_theta, lost * (growth * kept)};
}

// Of a count x of at least 1: it was not lost.
template <bool fused, class T>
VAEKIT_INLINE CountNll<T> zero_inflated_of_count(T log_mean, T log_theta, T logit, T x, T limit) {
  const CountNll<T> n = negative_binomial_of_count<fused>(log_mean, log_theta, x, limit);
  const bool likely = logit > T(0);
  const T e = exponential<fused>(likely ? -logit : logit, limit).value;
  const T softplus = (likely ? logit : T(0)) + log_one_plus<fused>(e);
  return {n.nll + softplus, n.by_log_mean, n.by_log_theta, (likely ? T(1) : e) / (T(1) + e)};
}

// Of a count of 0 under a Poisson distribution.
template <bool fused, class T>
VAEKIT_INLINE CountNll<T> poisson_of_none(T log_mean, T limit) {
  const T mean = exponential<fused>(log_mean, limit).value;
  return {mean, mean, T(0), T(0)};
}

// Of a count x of at least 1: x (e^s - 1 - s) with s = log(m / x), and Stirling's remainder.
template <bool fused, class T>
VAEKIT_INLINE CountNll<T> poisson_of_count(T log_mean, T x, T limit) {
  const T log_x = T(-0.5) * minus_two_log<fused>(x);
  const Exponential<T> e = exponential<fused>(T(0.5) * (log_mean - log_x), limit);
  const T rest = multiply_add<fused>(T(0.5), log_x, T(kHalfLogTwoPi)) + stirling<fused>(T(1) / x);
  return {multiply_add<fused>(x, e.excess, rest), x * e.minus_one, T(0), T(0)};
}

// --- the same under one name, for the loops over elements -------------------------------------------------------------------

struct Poisson {
  static constexpr int kParameters = 1;
  template <bool fused, class T>
  static VAEKIT_INLINE CountNll<T> of_none(T log_mean, T, T, T limit) {
    return poisson_of_none<fused>(log_mean, limit);
  }
  template <bool fused, class T>
  static VAEKIT_INLINE CountNll<T> of_count(T log_mean, T, T, T x, T limit) {
    return poisson_of_count<fused>(log_mean, x, limit);
  }
};

struct NegativeBinomial {
  static constexpr int kParameters = 2;
  template <bool fused, class T>
  static VAEKIT_INLINE CountNll<T> of_none(T log_mean, T log_theta, T, T limit) {
    return negative_binomial_of_none<fused>(log_mean, log_theta, limit);
  }
  template <bool fused, class T>
  static VAEKIT_INLINE CountNll<T> of_count(T log_mean, T log_theta, T, T x, T limit) {
    return negative_binomial_of_count<fused>(log_mean, log_theta, x, limit);
  }
};

struct ZeroInflated {
  static constexpr int kParameters = 3;
  template <bool fused, class T>
  static VAEKIT_INLINE CountNll<T> of_none(T log_mean, T log_theta, T logit, T limit) {
    return zero_inflated_of_none<fused>(log_mean, log_theta, logit, limit);
  }
  template <bool fused, class T>
  static VAEKIT_INLINE CountNll<T> of_count(T log_mean, T log_theta, T logit, T x, T limit) {
    return zero_inflated_of_count<fused>(log_mean, log_theta, logit, x, limit);
  }
};

}  // namespace vaekit
