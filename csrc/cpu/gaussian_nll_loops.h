// Loops over elements of gaussian_nll; for_each_instruction_set.h includes them for each instruction set.

namespace vaekit {
namespace VAEKIT_ISA {
namespace gaussian {

// The mean, and the log variance of each element or of its feature.
template <class T>
VAEKIT_TARGET void values(const NllTile<T>& tile, T* VAEKIT_RESTRICT nll) {
  const T* VAEKIT_RESTRICT mean = tile.parameters[0];
  const T* VAEKIT_RESTRICT logvar = tile.parameters[1];
  const T* VAEKIT_RESTRICT x = tile.x;
  for (int i = 0; i < tile.n; ++i) {
    const WideExp<T> precision = wide_exp<VAEKIT_FUSED>(T(-0.5) * logvar[i]);
    nll[i] = gaussian_nll<VAEKIT_FUSED>(mean[i], logvar[i], precision, x[i]);
  }
}

template <class T>
VAEKIT_TARGET void gradients_of_both(const NllTile<T>& tile, const T* VAEKIT_RESTRICT grad, T* VAEKIT_RESTRICT to_mean,
                                     T* VAEKIT_RESTRICT to_logvar) {
  const T* VAEKIT_RESTRICT mean = tile.parameters[0];
  const T* VAEKIT_RESTRICT logvar = tile.parameters[1];
  const T* VAEKIT_RESTRICT x = tile.x;
  for (int i = 0; i < tile.n; ++i) {
    const WideExp<T> precision = wide_exp<VAEKIT_FUSED>(T(-0.5) * logvar[i]);
    const GaussianSlopes<T> slopes = gaussian_nll_slopes<VAEKIT_FUSED>(mean[i], precision, x[i]);
    to_mean[i] = grad[i] * slopes.mean;
    to_logvar[i] = grad[i] * slopes.logvar;
  }
}

template <class T>
VAEKIT_TARGET void gradients(const NllTile<T>& tile, const T* grad, T* const* parameters, T*) {
  gradients_of_both(tile, grad, parameters[0], parameters[1]);
}

template <class T>
VAEKIT_TARGET void gradients_of_features(const NllTile<T>& tile, const T* grad, T* const* parameters, T* to_logvar) {
  gradients_of_both(tile, grad, parameters[0], to_logvar);
}

// The mean alone; all elements have one log variance.
template <class T>
VAEKIT_TARGET void values_of_one(const NllTile<T>& tile, T* VAEKIT_RESTRICT nll) {
  const T* VAEKIT_RESTRICT mean = tile.parameters[0];
  const T* VAEKIT_RESTRICT x = tile.x;
  const T logvar = tile.shared;
  const WideExp<T> precision = wide_exp<VAEKIT_FUSED>(T(-0.5) * logvar);
  for (int i = 0; i < tile.n; ++i) nll[i] = gaussian_nll<VAEKIT_FUSED>(mean[i], logvar, precision, x[i]);
}

template <class T>
VAEKIT_TARGET void gradients_of_one(const NllTile<T>& tile, const T* VAEKIT_RESTRICT grad, T* const* parameters,
                                    T* VAEKIT_RESTRICT to_logvar) {
  const T* VAEKIT_RESTRICT mean = tile.parameters[0];
  const T* VAEKIT_RESTRICT x = tile.x;
  T* VAEKIT_RESTRICT to_mean = parameters[0];
  const WideExp<T> precision = wide_exp<VAEKIT_FUSED>(T(-0.5) * tile.shared);
  if (to_logvar == nullptr) {
    for (int i = 0; i < tile.n; ++i) to_mean[i] = grad[i] * gaussian_nll_slopes<VAEKIT_FUSED>(mean[i], precision, x[i]).mean;
    return;
  }
  for (int i = 0; i < tile.n; ++i) {
    const GaussianSlopes<T> slopes = gaussian_nll_slopes<VAEKIT_FUSED>(mean[i], precision, x[i]);
    to_mean[i] = grad[i] * slopes.mean;
    to_logvar[i] = grad[i] * slopes.logvar;
  }
}

template <class T>
constexpr NllLoops<T> kLoops = {&values<T>, &gradients<T>};
template <class T>
constexpr NllLoops<T> kLoopsOfFeatures = {&values<T>, &gradients_of_features<T>};
template <class T>
constexpr NllLoops<T> kLoopsOfOne = {&values_of_one<T>, &gradients_of_one<T>};

}  // namespace gaussian
}  // namespace VAEKIT_ISA
}  // namespace vaekit
