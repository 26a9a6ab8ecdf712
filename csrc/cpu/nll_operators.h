// The operators `vaekit::*_nll` that differ in no more than their name, loops and parameters. Each is a struct:
//   kName, kGrain  its name, and how many elements are worth another thread;
//   kPlanes        how many parameters of an element the decoder gives, besides log t where there is one;
//   loops<T>()     its loops on the instruction set in use.
#pragma once

#include "nll.h"

namespace vaekit {

// Without any parameter but the decoder's.
template <class Operator>
struct PlainNll {
  static NllOperands checked(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
    const NllOperands operands = {Operator::kName, parameters, x, std::nullopt, ignore_missing};
    check_nll(operands, {Operator::kPlanes});
    return operands;
  }

  static NllKernel kernel() {
    return {Operator::template loops<float>(), Operator::template loops<double>(), Operator::kGrain};
  }

  static Tensor forward(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
    return nll(checked(parameters, x, ignore_missing), kernel());
  }

  static Tensor backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, bool ignore_missing) {
    return std::get<0>(nll_backward(grad, checked(parameters, x, ignore_missing), kernel()));
  }
};

constexpr int64_t kOfElement = 1;  // the loops' option: the decoder gives log t for each element

// With log t, the logarithm of an inverse dispersion: the decoder's, learned, or `start`.
template <class Operator>
struct DispersedNll {
  static NllOperands checked(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, bool ignore_missing) {
    const NllOperands operands = {Operator::kName, parameters, x, log_theta, ignore_missing};
    check_nll(operands, {Operator::kPlanes, Operator::kPlanes + 1});
    STD_TORCH_CHECK(!log_theta || parameters.size(1) == Operator::kPlanes, operands.op,
                    ": log t is given for each element and once more");
    return operands;
  }

  static NllKernel kernel(const Tensor& parameters, double start) {
    const bool of_element = parameters.size(1) > Operator::kPlanes;
    return {Operator::template loops<float>(), Operator::template loops<double>(), Operator::kGrain, start, !of_element,
            of_element ? kOfElement : 0};
  }

  static Tensor forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, double start,
                        bool ignore_missing) {
    const NllOperands operands = checked(parameters, x, log_theta, ignore_missing);  // before their sizes are read
    return nll(operands, kernel(parameters, start));
  }

  static std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& parameters, const Tensor& x,
                                             const OptionalTensor& log_theta, double start, bool ignore_missing) {
    const NllOperands operands = checked(parameters, x, log_theta, ignore_missing);
    return nll_backward(grad, operands, kernel(parameters, start));
  }
};

}  // namespace vaekit
