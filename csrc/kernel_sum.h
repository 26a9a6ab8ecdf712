// The arithmetic of one pair of `vaekit::kernel_sum`, at one bandwidth. No torch header; compiles for host and device, and becomes vector
// code as real.h does.
#pragma once

#include "exp.h"

namespace vaekit {

// Both as a function of the squared distance: the value, and the derivative without its sign.
template <bool fused, class T>
struct InverseMultiquadric {
  static VAEKIT_INLINE T value(T squared, T bandwidth, T) { return bandwidth / (bandwidth + squared); }
  static VAEKIT_INLINE T slope(T squared, T bandwidth, T) {
    const T sum = bandwidth + squared;
    return bandwidth / sum / sum;
  }
};

template <bool fused, class T>
struct Gaussian {
  static VAEKIT_INLINE T value(T squared, T bandwidth, T lowest) { return exp_or_zero<fused>(squared / -bandwidth, lowest); }
  static VAEKIT_INLINE T slope(T squared, T bandwidth, T lowest) { return value(squared, bandwidth, lowest) / bandwidth; }
};

}  // namespace vaekit
