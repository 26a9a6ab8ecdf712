// vaekit::reparameterize_kl and its backward for CUDA: lays the operands out and launches the kernels.
#include "../operator.h"
#include "launch.h"
#include "reparameterize_kl.cuh"

namespace vaekit {
namespace cuda {
namespace {

class Call {
 public:
  explicit Call(const Arguments& a)
      : shape(checked_shape(a)),
        row_dims(a.mu.dim() - a.event_dims),
        samples(a.num_samples ? std::optional<int64_t>(0) : std::nullopt),
        mu(a.mu, kReparameterizeKl, row_dims),
        logvar(a.logvar, kReparameterizeKl, row_dims),
        eps(a.eps, kReparameterizeKl, row_dims, samples),
        prior_mu(a.prior_mu, kReparameterizeKl, row_dims),
        prior_logvar(a.prior_logvar, kReparameterizeKl, row_dims),
        device(a.mu) {}

  template <class Problem>
  void fill(Problem& p, const Arguments& a) const {
    if (a.key) check_alignment(*a.key, kReparameterizeKl);
    p.work.rows = shape.rows, p.work.event = shape.event;
    p.samples = shape.samples;
    p.key = a.key ? static_cast<const int64_t*>(a.key->const_data_ptr()) : nullptr;
    p.key_stride = a.key ? a.key->stride(0) : 0;
    p.start = shape.start;
    p.mu = mu, p.logvar = logvar, p.eps = eps, p.prior_mu = prior_mu, p.prior_logvar = prior_logvar;
    p.wide_eps = a.eps && a.eps->scalar_type() != a.mu.scalar_type();
    p.reduce = a.reduce_event;
  }

  const Shape shape;
  const int64_t row_dims;
  const std::optional<int64_t> samples;  // their dimension
  const Operand mu, logvar, eps, prior_mu, prior_logvar;
  const Device device;
};

std::tuple<Tensor, Tensor> reparameterize_kl_forward(const Tensor& mu, const Tensor& logvar, const OptionalTensor& key,
                                             const OptionalTensor& eps, const OptionalTensor& prior_mu,
                                             const OptionalTensor& prior_logvar, std::optional<int64_t> num_samples,
                                             int64_t row_start, int64_t event_dims, bool reduce_event) {
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Call call(a);
  const auto [z, kl] = empty_results(a);
  if (call.shape.elements() == 0) {  // no element: no rows, or rows whose sum is empty
    call.device.set_to_zero(kl);
    return {z, kl};
  }
  Forward p;
  call.fill(p, a);
  p.z = z.mutable_data_ptr();
  p.kl = kl.mutable_data_ptr();
  const Array<double> segments(segments_of(p), mu, kReparameterizeKl);
  p.segments = segments;
  with_storage(mu.scalar_type(), [&](auto storage) { forward<decltype(storage)>(p, call.device.processors, call.device); });
  return {z, kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> reparameterize_kl_backward(
    const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Tensor& mu, const Tensor& logvar, const OptionalTensor& key,
    const OptionalTensor& eps, const OptionalTensor& prior_mu, const OptionalTensor& prior_logvar,
    std::optional<int64_t> num_samples, int64_t row_start, int64_t event_dims, bool reduce_event, int64_t wanted, bool packed) {
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Call call(a);
  check_gradients(grad_z, grad_kl, a);
  const Gradients out = empty_gradients(a, wanted, packed);
  const auto address = [](const Tensor& gradient) { return gradient.defined() ? gradient.mutable_data_ptr() : nullptr; };
  if (call.shape.elements() > 0) {
    const Operand of_z(grad_z, kReparameterizeKl, call.row_dims, call.samples), of_kl(grad_kl, kReparameterizeKl, call.row_dims);
    Backward p;
    call.fill(p, a);
    p.grad_z = of_z, p.grad_kl = of_kl;
    p.grad_mu = address(out.mu), p.grad_logvar = address(out.logvar);
    p.grad_stride = call.shape.event;
    if (packed) {
      p.grad_logvar = static_cast<char*>(p.grad_mu) + call.shape.event * static_cast<int64_t>(mu.element_size());
      p.grad_stride *= 2;
    }
    p.grad_prior_mu = grad_kl ? address(out.prior_mu) : nullptr;
    p.grad_prior_logvar = grad_kl ? address(out.prior_logvar) : nullptr;
    for (const Tensor& gradient : {out.prior_mu, out.prior_logvar}) {
      if (gradient.defined() && !grad_kl) call.device.set_to_zero(gradient);
    }
    with_storage(mu.scalar_type(), [&](auto storage) { backward<decltype(storage)>(p, call.device.processors, call.device); });
  }
  return {out.mu, out.logvar, out.prior_mu, out.prior_logvar};
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
