// The arithmetic of one element of `vaekit::gaussian_nll`. No torch header; compiles for host and device, and becomes vector code as
// real.h does.
#pragma once

#include "real.h"

namespace vaekit {

// -log N(x; mean, e^logvar), in nats; `precision` is e^(-logvar / 2).
template <bool fused, class T>
VAEKIT_INLINE T gaussian_nll(T mean, T logvar, const WideExp<T>& precision, T x) {
  const T standardized = precision.times(x - mean);
  return multiply_add<fused>(T(0.5) * standardized, standardized, T(0.5) * (logvar + T(1.8378770664093454836)));
}

template <class T>
struct GaussianSlopes {
  T mean, logvar;
};

// Its derivatives.
template <bool fused, class T>
VAEKIT_INLINE GaussianSlopes<T> gaussian_nll_slopes(T mean, const WideExp<T>& precision, T x) {
  const T standardized = precision.times(x - mean);
  return {-precision.times(standardized), multiply_add<fused>(T(-0.5) * standardized, standardized, T(0.5))};
}

}  // namespace vaekit
