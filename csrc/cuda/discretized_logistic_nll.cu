// vaekit::discretized_logistic_nll and its backward for CUDA.
#include <cmath>
#include <limits>

#include "discretized_logistic_nll.cuh"
#include "nll.h"

namespace vaekit {
namespace cuda {
namespace {

NllOperands logistic_operands(const Tensor& parameters, const Tensor& x, int64_t levels, bool ignore_missing) {
  const NllOperands operands = {"discretized_logistic_nll", parameters, x, std::nullopt, ignore_missing};
  check_nll(operands, {});
  STD_TORCH_CHECK(parameters.size(1) > 0 && parameters.size(1) % 3 == 0, operands.op, ": it has another number of parameters");
  STD_TORCH_CHECK(levels >= 2, operands.op, ": there are fewer than two levels");
  return operands;
}

// The logarithm of a bin's width, the smallest log scale and the width.
NllOptions logistic_options(const Tensor& parameters, int64_t levels) {
  const bool is_double = parameters.scalar_type() == ScalarType::Double;
  const double most = is_double ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max();
  const double width = 2.0 / static_cast<double>(levels - 1);
  return {0, levels, {std::log(width), 0.5 - std::log(most), width}};
}

Tensor discretized_logistic_nll_forward(const Tensor& parameters, const Tensor& x, int64_t levels, bool ignore_missing) {
  const NllOperands operands = logistic_operands(parameters, x, levels, ignore_missing);
  return nll<DiscretizedLogisticNll>(operands, logistic_options(parameters, levels));
}

Tensor discretized_logistic_nll_backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, int64_t levels,
                                         bool ignore_missing) {
  const NllOperands operands = logistic_operands(parameters, x, levels, ignore_missing);
  return std::get<0>(nll_backward<DiscretizedLogisticNll>(grad, operands, logistic_options(parameters, levels)));
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
