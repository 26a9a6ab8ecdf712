// vaekit::zero_inflated_negative_binomial_nll and its backward for the CPU. The specification is
// `ZeroInflatedNegativeBinomial.element_nll`.
#include "../counts.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll.h"
#include "rows.h"

namespace vaekit {

constexpr int64_t kOfElement = 1;  // the option: the decoder gives log t for each element

}  // namespace vaekit

#define VAEKIT_LOOPS "zero_inflated_negative_binomial_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

NllOperands operands_of(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, bool ignore_missing) {
  const NllOperands operands = {"zero_inflated_negative_binomial_nll", parameters, x, log_theta, ignore_missing};
  check_nll(operands, {2, 3});
  STD_TORCH_CHECK(!log_theta || parameters.size(1) == 2, operands.op, ": log t is given for each element and once more");
  return operands;
}

NllKernel kernel_of(const Tensor& parameters, double start) {
  const int set = instruction_set();
  const bool of_element = parameters.size(1) == 3;
  return {VAEKIT_TABLE_OF(set, zero_inflated_negative_binomial::kLoops<float>),
          VAEKIT_TABLE_OF(set, zero_inflated_negative_binomial::kLoops<double>),
          4096, start, !of_element, of_element ? kOfElement : 0};
}

Tensor forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, double start, bool ignore_missing) {
  const NllOperands operands = operands_of(parameters, x, log_theta, ignore_missing);  // checked before their sizes are read
  return nll(operands, kernel_of(parameters, start));
}

std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& parameters, const Tensor& x,
                                    const OptionalTensor& log_theta, double start, bool ignore_missing) {
  const NllOperands operands = operands_of(parameters, x, log_theta, ignore_missing);
  return nll_backward(grad, operands, kernel_of(parameters, start));
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(zero_inflated_negative_binomial_nll, vaekit::forward, vaekit::backward)
