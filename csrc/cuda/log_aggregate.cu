// vaekit::log_aggregate and its backward for CUDA.
#include "../pair_operands.h"
#include "launch.h"
#include "log_aggregate.cuh"

namespace vaekit {
namespace cuda {
namespace {

// The operands laid out contiguously, by a first kernel.
template <class T>
class AggregateCall {
 public:
  explicit AggregateCall(const AggregateArguments& a)
      : mu_(a.mu, kLogAggregate, 1), logvar_(a.logvar, kLogAggregate, 1), eps_(a.eps, kLogAggregate, 1), device(a.mu),
        mean_(a.mu.numel(), a.mu, kLogAggregate), scale_(a.mu.numel(), a.mu, kLogAggregate),
        peak_(a.mu.numel(), a.mu, kLogAggregate), shift_(a.eps.numel(), a.mu, kLogAggregate),
        own_(a.eps.numel(), a.mu, kLogAggregate) {
    Prepare<T> p;
    fill(p, a);
    p.mu = mu_, p.logvar = logvar_, p.eps = eps_;
    prepare<T>(p, device.processors, device);
  }

  void fill(Aggregate<T>& p, const AggregateArguments& a) const {
    p.rows = a.eps.size(0), p.examples = a.mu.size(0), p.latents = a.mu.size(1), p.first = a.first;
    p.own_weight = static_cast<T>(a.own);
    p.mean = mean_, p.scale = scale_, p.peak = peak_, p.shift = shift_, p.own = own_;
  }

 private:
  const Operand mu_, logvar_, eps_;

 public:
  const Device device;

 private:
  const Array<T> mean_, scale_, peak_, shift_, own_;
};

template <class T>
void log_aggregate_forward_as(const AggregateArguments& a, const Tensor& joint, const Tensor& marginals) {
  const AggregateCall<T> call(a);
  AggregateForward<T> p;
  call.fill(p, a);
  p.joint = static_cast<T*>(joint.mutable_data_ptr()), p.marginals = static_cast<T*>(marginals.mutable_data_ptr());
  forward_aggregate<T>(p, call.device.processors, call.device);
}

std::tuple<Tensor, Tensor> log_aggregate_forward(const Tensor& mu, const Tensor& logvar, const Tensor& eps, int64_t first, double own) {
  const AggregateArguments a = {mu, logvar, eps, first, own};
  check(a);
  Tensor joint = empty(eps.sizes().data(), 1, mu.scalar_type(), mu, kLogAggregate);
  Tensor marginals = empty(eps.sizes().data(), 2, mu.scalar_type(), mu, kLogAggregate);
  if (eps.size(0) > 0) {
    mu.scalar_type() == ScalarType::Double ? log_aggregate_forward_as<double>(a, joint, marginals)
                                           : log_aggregate_forward_as<float>(a, joint, marginals);
  }
  return {joint, marginals};
}

template <class T>
void log_aggregate_backward_as(const AggregateArguments& a, const Tensor& of_joint, const Tensor& of_marginals, const Tensor& joint,
                               const Tensor& marginals, const Tensor& of_mu, const Tensor& of_logvar) {
  const Operand to_joint(of_joint, kLogAggregate, 1), to_marginals(of_marginals, kLogAggregate, 1);
  const Operand joints(joint, kLogAggregate, 1), totals(marginals, kLogAggregate, 1);
  const AggregateCall<T> call(a);
  AggregateBackward<T> p;
  call.fill(p, a);
  p.of_joint = to_joint, p.of_marginals = to_marginals, p.joint = joints, p.marginals = totals;
  const Array<T> weights(rows_at_once(p) * p.examples, a.mu, kLogAggregate);
  const Array<double> of_mean(a.mu.numel(), a.mu, kLogAggregate), of_scale(a.mu.numel(), a.mu, kLogAggregate);
  const Array<double> of_row(a.eps.numel(), a.mu, kLogAggregate);
  p.weights = weights, p.of_mean = of_mean, p.of_scale = of_scale, p.of_row = of_row;
  p.of_mu = static_cast<T*>(of_mu.mutable_data_ptr()), p.of_logvar = static_cast<T*>(of_logvar.mutable_data_ptr());
  backward_aggregate<T>(p, call.device.processors, call.device);
}

std::tuple<Tensor, Tensor> log_aggregate_backward(const Tensor& of_joint, const Tensor& of_marginals, const Tensor& joint,
                                                  const Tensor& marginals, const Tensor& mu, const Tensor& logvar,
                                                  const Tensor& eps, int64_t first, double own) {
  const AggregateArguments a = {mu, logvar, eps, first, own};
  check(a);
  check_row_like(of_joint, a, "of_joint");
  check_row_like(joint, a, "joint");
  check_aggregate_like(of_marginals, eps.size(0), a, "of_marginals");
  check_aggregate_like(marginals, eps.size(0), a, "marginals");
  Tensor of_mu = empty(mu.sizes().data(), 2, mu.scalar_type(), mu, kLogAggregate);
  Tensor of_logvar = empty(mu.sizes().data(), 2, mu.scalar_type(), mu, kLogAggregate);
  if (mu.size(0) > 0) {
    mu.scalar_type() == ScalarType::Double
        ? log_aggregate_backward_as<double>(a, of_joint, of_marginals, joint, marginals, of_mu, of_logvar)
        : log_aggregate_backward_as<float>(a, of_joint, of_marginals, joint, marginals, of_mu, of_logvar);
  }
  return {of_mu, of_logvar};
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
