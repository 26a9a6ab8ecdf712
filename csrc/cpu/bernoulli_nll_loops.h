// Loops over elements of bernoulli_nll; for_each_instruction_set.h includes them for each instruction set.

namespace vaekit {
namespace VAEKIT_ISA {
namespace bernoulli {

template <class T>
VAEKIT_TARGET void values(const NllTile<T>& tile, T* VAEKIT_RESTRICT nll) {
  const T* VAEKIT_RESTRICT logit = tile.parameters[0];
  const T* VAEKIT_RESTRICT x = tile.x;
  const T limit = tile.limit;
  for (int i = 0; i < tile.n; ++i) nll[i] = bernoulli_nll<VAEKIT_FUSED>(logit[i], x[i], limit);
}

template <class T>
VAEKIT_TARGET void gradients(const NllTile<T>& tile, const T* VAEKIT_RESTRICT grad, T* const* parameters, T*) {
  const T* VAEKIT_RESTRICT logit = tile.parameters[0];
  const T* VAEKIT_RESTRICT x = tile.x;
  T* VAEKIT_RESTRICT to_logit = parameters[0];
  const T limit = tile.limit;
  for (int i = 0; i < tile.n; ++i) to_logit[i] = grad[i] * bernoulli_nll_slope<VAEKIT_FUSED>(logit[i], x[i], limit);
}

template <class T>
constexpr NllLoops<T> kLoops = {&values<T>, &gradients<T>};

}  // namespace bernoulli
}  // namespace VAEKIT_ISA
}  // namespace vaekit
