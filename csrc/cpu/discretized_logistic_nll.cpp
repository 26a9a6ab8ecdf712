// vaekit::discretized_logistic_nll and its backward for the CPU. The specification is `DiscretizedLogistic.element_nll`.
#include "../discretized_logistic_nll.h"

#include <algorithm>
#include <limits>

#include "instruction_sets.h"
#include "library.h"
#include "nll.h"

#define VAEKIT_LOOPS "discretized_logistic_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

NllOperands checked(const Tensor& parameters, const Tensor& x, int64_t levels, bool ignore_missing) {
  const NllOperands operands = {"discretized_logistic_nll", parameters, x, std::nullopt, ignore_missing};
  check_nll(operands, {});
  STD_TORCH_CHECK(parameters.size(1) > 0 && parameters.size(1) % 3 == 0, operands.op, ": it has another number of parameters");
  STD_TORCH_CHECK(levels >= 2, operands.op, ": there are fewer than two levels");
  return operands;
}

NllKernel kernel(const Tensor& parameters, int64_t levels) {
  const int set = instruction_set();
  const int64_t planes = parameters.size(1);
  NllKernel kernel = {VAEKIT_TABLE_OF(set, discretized_logistic::kLoops<float>),
                      VAEKIT_TABLE_OF(set, discretized_logistic::kLoops<double>), std::max<int64_t>(64, 4096 / planes)};
  kernel.option = levels;
  kernel.scratch = 6 + 2 * (planes / 3);
  const bool is_double = parameters.scalar_type() == ScalarType::Double;
  kernel.constants[0] = std::log(2.0 / static_cast<double>(levels - 1));
  kernel.constants[1] = 0.5 - std::log(is_double ? std::numeric_limits<double>::max() : std::numeric_limits<float>::max());
  return kernel;
}

Tensor forward(const Tensor& parameters, const Tensor& x, int64_t levels, bool ignore_missing) {
  const NllOperands operands = checked(parameters, x, levels, ignore_missing);
  return nll(operands, kernel(parameters, levels));
}

Tensor backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, int64_t levels, bool ignore_missing) {
  const NllOperands operands = checked(parameters, x, levels, ignore_missing);
  return std::get<0>(nll_backward(grad, operands, kernel(parameters, levels)));
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(discretized_logistic_nll, vaekit::forward, vaekit::backward)
