// vaekit::gaussian_nll and its backward for the CPU. The specification is `Gaussian.element_nll`.
#include "../gaussian_nll.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll.h"

#define VAEKIT_LOOPS "gaussian_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

NllOperands checked(const Tensor& parameters, const Tensor& x, const OptionalTensor& logvar, bool ignore_missing) {
  const NllOperands operands = {"gaussian_nll", parameters, x, logvar, ignore_missing};
  logvar ? check_nll(operands, {1}) : check_nll(operands, {1, 2});
  return operands;
}

// One parameter is the mean, and the log variance is `start`, the shared one or the feature's; two are the mean and the log variance.
NllKernel kernel(const NllOperands& o, double start) {
  const int set = instruction_set();
  if (o.parameters.size(1) == 2) {
    return {VAEKIT_TABLE_OF(set, gaussian::kLoops<float>), VAEKIT_TABLE_OF(set, gaussian::kLoops<double>), 8192};
  }
  if (o.shared && o.shared->dim() > 0) {
    return {VAEKIT_TABLE_OF(set, gaussian::kLoopsOfFeatures<float>), VAEKIT_TABLE_OF(set, gaussian::kLoopsOfFeatures<double>), 8192,
            start, true};
  }
  return {VAEKIT_TABLE_OF(set, gaussian::kLoopsOfOne<float>), VAEKIT_TABLE_OF(set, gaussian::kLoopsOfOne<double>), 16384, start};
}

Tensor forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& logvar, double start, bool ignore_missing) {
  const NllOperands operands = checked(parameters, x, logvar, ignore_missing);
  return nll(operands, kernel(operands, start));
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, const OptionalTensor& logvar,
                                    double start, bool ignore_missing) {
  const NllOperands operands = checked(parameters, x, logvar, ignore_missing);
  return nll_backward(grad, operands, kernel(operands, start));
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(gaussian_nll, vaekit::forward, vaekit::backward)
