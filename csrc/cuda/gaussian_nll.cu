// vaekit::gaussian_nll and its backward for CUDA.
#include "gaussian_nll.cuh"
#include "nll.h"

namespace vaekit {
namespace cuda {
namespace {

NllOperands gaussian_operands(const Tensor& parameters, const Tensor& x, const OptionalTensor& logvar, bool ignore_missing) {
  const NllOperands operands = {"gaussian_nll", parameters, x, logvar, ignore_missing};
  logvar ? check_nll(operands, {1}) : check_nll(operands, {1, 2});
  return operands;
}

Tensor gaussian_nll_forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& logvar, double start,
                            bool ignore_missing) {
  return nll<GaussianNll>(gaussian_operands(parameters, x, logvar, ignore_missing), {start});
}

std::tuple<Tensor, Tensor> gaussian_nll_backward(const Tensor& grad, const Tensor& parameters, const Tensor& x,
                                                 const OptionalTensor& logvar, double start, bool ignore_missing) {
  return nll_backward<GaussianNll>(grad, gaussian_operands(parameters, x, logvar, ignore_missing), {start});
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
