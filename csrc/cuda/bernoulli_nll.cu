// vaekit::bernoulli_nll and its backward for CUDA.
#include "bernoulli_nll.cuh"
#include "nll.h"

namespace vaekit {
namespace cuda {
namespace {

NllOperands bernoulli_operands(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  const NllOperands operands = {"bernoulli_nll", parameters, x, std::nullopt, ignore_missing};
  check_nll(operands, {1});
  return operands;
}

Tensor bernoulli_nll_forward(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  return nll<BernoulliNll>(bernoulli_operands(parameters, x, ignore_missing), {});
}

Tensor bernoulli_nll_backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  return std::get<0>(nll_backward<BernoulliNll>(grad, bernoulli_operands(parameters, x, ignore_missing), {}));
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
