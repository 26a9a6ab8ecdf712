// Loops over elements of poisson_nll; for_each_instruction_set.h includes them for each instruction set.
#include "count_loops.h"

namespace vaekit {
namespace VAEKIT_ISA {
namespace poisson {

template <class T>
VAEKIT_TARGET counts::Elements<T> elements_of(const NllTile<T>& tile) {
  const T* const* p = tile.parameters;
  return {p[0], p[0], p[0], tile.x};
}

template <class T>
VAEKIT_TARGET void values(const NllTile<T>& tile, T* nll) {
  counts::values<Poisson>(elements_of(tile), tile.n, tile.limit, nll);
}

template <class T>
VAEKIT_TARGET void gradients(const NllTile<T>& tile, const T* grad, T* const* parameters, T*) {
  counts::gradients<Poisson>(elements_of(tile), tile.n, tile.limit, grad, {parameters[0], nullptr, nullptr});
}

template <class T>
constexpr NllLoops<T> kLoops = {&values<T>, &gradients<T>};

}  // namespace poisson
}  // namespace VAEKIT_ISA
}  // namespace vaekit
