// vaekit::poisson_nll, negative_binomial_nll, zero_inflated_negative_binomial_nll and their backwards for CUDA.
#include "count_nll.cuh"
#include "nll.h"

namespace vaekit {
namespace cuda {
namespace {

NllOperands poisson_operands(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  const NllOperands operands = {"poisson_nll", parameters, x, std::nullopt, ignore_missing};
  check_nll(operands, {1});
  return operands;
}

Tensor poisson_nll_forward(const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  return nll<PoissonNll>(poisson_operands(parameters, x, ignore_missing), {});
}

Tensor poisson_nll_backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, bool ignore_missing) {
  return std::get<0>(nll_backward<PoissonNll>(grad, poisson_operands(parameters, x, ignore_missing), {}));
}

// Of so many planes where log t is none of them.
template <class A>
struct NegativeBinomialOperator {
  const char* name;
  int64_t planes;

  NllOperands operands(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, bool ignore_missing) const {
    const NllOperands operands = {name, parameters, x, log_theta, ignore_missing};
    check_nll(operands, {planes, planes + 1});
    STD_TORCH_CHECK(!log_theta || parameters.size(1) == planes, name, ": log t is given for each element and once more");
    return operands;
  }

  NllOptions options(const Tensor& parameters, double start) const {
    return {start, parameters.size(1) == planes ? 0 : kOfElement};
  }

  Tensor forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, double start, bool ignore_missing) const {
    const NllOperands checked = operands(parameters, x, log_theta, ignore_missing);  // before their sizes are read
    return nll<A>(checked, options(parameters, start));
  }

  std::tuple<Tensor, Tensor> backward(const Tensor& grad, const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta,
                                      double start, bool ignore_missing) const {
    const NllOperands checked = operands(parameters, x, log_theta, ignore_missing);
    return nll_backward<A>(grad, checked, options(parameters, start));
  }
};

constexpr NegativeBinomialOperator<NegativeBinomialNll> kNegativeBinomial = {"negative_binomial_nll", 1};
constexpr NegativeBinomialOperator<ZeroInflatedNll> kZeroInflated = {"zero_inflated_negative_binomial_nll", 2};

Tensor negative_binomial_nll_forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta, double start,
                                     bool ignore_missing) {
  return kNegativeBinomial.forward(parameters, x, log_theta, start, ignore_missing);
}

std::tuple<Tensor, Tensor> negative_binomial_nll_backward(const Tensor& grad, const Tensor& parameters, const Tensor& x,
                                                          const OptionalTensor& log_theta, double start, bool ignore_missing) {
  return kNegativeBinomial.backward(grad, parameters, x, log_theta, start, ignore_missing);
}

Tensor zero_inflated_negative_binomial_nll_forward(const Tensor& parameters, const Tensor& x, const OptionalTensor& log_theta,
                                                   double start, bool ignore_missing) {
  return kZeroInflated.forward(parameters, x, log_theta, start, ignore_missing);
}

std::tuple<Tensor, Tensor> zero_inflated_negative_binomial_nll_backward(const Tensor& grad, const Tensor& parameters,
                                                                        const Tensor& x, const OptionalTensor& log_theta,
                                                                        double start, bool ignore_missing) {
  return kZeroInflated.backward(grad, parameters, x, log_theta, start, ignore_missing);
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
