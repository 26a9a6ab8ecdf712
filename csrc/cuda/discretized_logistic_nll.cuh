// The arithmetic of vaekit::discretized_logistic_nll for the kernels of nll.cuh: an element at a time, whose components are read one after
// another, because there may be any number of them.
#pragma once

#include "../discretized_logistic_nll.h"
#include "nll.cuh"

namespace vaekit {
namespace cuda {

// log(sum of e^x) over values that come one after another: the largest, and the sum relative to it.
template <class T>
struct LogSum {
  T largest, sum;

  VAEKIT_INLINE void add(T x) {
    const T limit = Real<T>::kExpLimit, before = largest;
    largest = x > largest ? x : largest;
    sum = multiply_add<true>(sum, exponential<true>(before - largest, limit).value, exponential<true>(x - largest, limit).value);
  }
  VAEKIT_INLINE T log_of_sum() const { return sum == sum ? T(-0.5) * minus_two_log<true>(sum) : sum; }
};

// What the components of an element share.
template <class T>
struct Mixture {
  int64_t count;
  Levels<T> levels;
  Bin<T> bin;
  T smallest;            // log scale
  LogSum<T> logits;
  LogSum<T> components;  // of logit - the largest logit + the log of the bin's probability
};

struct DiscretizedLogisticNll {
  static constexpr bool kTakesVectors = false;

  template <class S, class T>
  static VAEKIT_INLINE T parameter(const Place<S, 1>& place, int64_t plane) {
    T out[1];
    place.plane(plane, out);
    return out[0];
  }

  template <class S, class T>
  static VAEKIT_INLINE LogBin<T> bin_of_component(const Place<S, 1>& place, const Mixture<T>& m, int64_t k) {
    return log_bin<true>(parameter<S, T>(place, m.count + k), parameter<S, T>(place, 2 * m.count + k), m.bin, m.levels, m.smallest,
                         T(Real<T>::kExpLimit));
  }

  template <class S, class T>
  static VAEKIT_INLINE Mixture<T> mixture(const Place<S, 1>& place, T x) {
    const Nll& p = place.p;
    const T last = static_cast<T>(p.option - 1), lowest = -Real<T>::kLargest;
    Mixture<T> m = {p.planes / 3, {last, static_cast<T>(p.constants[2]), static_cast<T>(p.constants[0])}, {}, static_cast<T>(p.constants[1]),
                    {parameter<S, T>(place, 0), T(0)}, {lowest, T(0)}};
    m.bin = bin_of(x, m.levels);
    for (int64_t k = 0; k < m.count; ++k) m.logits.add(parameter<S, T>(place, k));
    for (int64_t k = 0; k < m.count; ++k) {
      m.components.add((parameter<S, T>(place, k) - m.logits.largest) + bin_of_component(place, m, k).value);
    }
    return m;
  }

  template <class S, class T>
  static VAEKIT_INLINE void values(const Place<S, 1>& place, const T (&x)[1], T (&nll)[1]) {
    const Mixture<T> m = mixture(place, x[0]);
    const T value = (m.logits.log_of_sum() - m.components.log_of_sum()) - m.components.largest;
    nll[0] = m.components.sum == T(0) ? T(Real<T>::kInfinity) : value;  // every component is infinitely far
  }

  template <class S, class T>
  static VAEKIT_INLINE void gradients(const Place<S, 1>& place, const T (&x)[1], T grad, const GradientsOf<S, 1>& out, T (&)[1]) {
    const Mixture<T> m = mixture(place, x[0]);
    const T limit = Real<T>::kExpLimit, alike = T(3) / static_cast<T>(place.p.planes);
    const bool is_lost = m.components.sum == T(0);
    for (int64_t k = 0; k < m.count; ++k) {
      const T logit = parameter<S, T>(place, k) - m.logits.largest, mean = parameter<S, T>(place, m.count + k);
      const LogBin<T> bin = bin_of_component(place, m, k);
      const T share = exponential<true>((logit + bin.value) - m.components.largest, limit).value / (is_lost ? T(1) : m.components.sum);
      const T prior = exponential<true>(logit, limit).value / m.logits.sum;
      const T scaled = grad * (is_lost ? alike : share);
      // Scaled first: what is infinitely far has a share of 0.
      const T by_upper = scaled * bin.by_upper, by_lower = scaled * bin.by_lower;
      const T distances = by_upper * (m.bin.upper - mean) * bin.precision + by_lower * (m.bin.lower - mean) * bin.precision;
      const T to_logit[1] = {is_lost ? T(0) : grad * (prior - share)}, to_mean[1] = {(by_upper + by_lower) * bin.precision};
      const T to_log_scale[1] = {distances - scaled * bin.by_log_scale};
      out.plane(k, to_logit);
      out.plane(m.count + k, to_mean);
      out.plane(2 * m.count + k, to_log_scale);
    }
  }
};

}  // namespace cuda
}  // namespace vaekit
