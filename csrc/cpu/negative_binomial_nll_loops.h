// Loops over elements of negative_binomial_nll; for_each_instruction_set.h includes them for each instruction set.
#include "count_loops.h"

namespace vaekit {
namespace VAEKIT_ISA {
namespace negative_binomial {

template <class T>
VAEKIT_TARGET counts::Elements<T> elements_of(const NllTile<T>& tile) {
  const T* const* p = tile.parameters;
  return {p[0], p[1], p[0], tile.x};
}

template <class T>
VAEKIT_TARGET void values(const NllTile<T>& tile, T* nll) {
  counts::values<NegativeBinomial>(elements_of(tile), tile.n, tile.limit, nll);
}

template <class T>
VAEKIT_TARGET void gradients(const NllTile<T>& tile, const T* grad, T* const* parameters, T* shared) {
  alignas(64) T unwanted[kMaxTile];
  T* by_log_theta = tile.option == kOfElement ? parameters[1] : shared != nullptr ? shared : unwanted;
  counts::gradients<NegativeBinomial>(elements_of(tile), tile.n, tile.limit, grad, {parameters[0], by_log_theta, nullptr});
}

template <class T>
constexpr NllLoops<T> kLoops = {&values<T>, &gradients<T>};

}  // namespace negative_binomial
}  // namespace VAEKIT_ISA
}  // namespace vaekit
