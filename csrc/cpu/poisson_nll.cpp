// vaekit::poisson_nll and its backward for the CPU. The specification is `Poisson.element_nll`.
#include "../counts.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll.h"
#include "rows.h"

#define VAEKIT_LOOPS "poisson_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

constexpr const char* kName = "poisson_nll";

NllKernel kernel() {
  const int set = instruction_set();
  return {VAEKIT_TABLE_OF(set, poisson::kLoops<float>), VAEKIT_TABLE_OF(set, poisson::kLoops<double>), 8192};
}

Tensor forward(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  const NllOperands operands = {kName, parameters, x, std::nullopt, ignore_missing};
  check_nll(operands, {1});
  return nll(operands, kernel());
}

Tensor backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  const NllOperands operands = {kName, parameters, x, std::nullopt, ignore_missing};
  check_nll(operands, {1});
  return std::get<0>(nll_backward(grad, operands, kernel()));
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(poisson_nll, vaekit::forward, vaekit::backward)
