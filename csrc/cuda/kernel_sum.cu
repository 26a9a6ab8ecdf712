// vaekit::kernel_sum and its backward for CUDA. The bandwidths are brought along by launches, so that nothing is copied from the host.
#include "../pair_operands.h"
#include "kernel_sum.cuh"
#include "launch.h"

namespace vaekit {
namespace cuda {
namespace {

template <class T>
class KernelSumCall {
 public:
  explicit KernelSumCall(const KernelSumArguments& a)
      : x_(a.x, kKernelSum, 1), y_(a.points(), kKernelSum, 1), device(a.x),
        bandwidths_(static_cast<int64_t>(a.bandwidths.size()), a.x, kKernelSum) {
    copy_bandwidths<T>(a.bandwidths.data(), static_cast<int64_t>(a.bandwidths.size()), bandwidths_, device);
  }

  void fill(KernelSum& p, const KernelSumArguments& a) const {
    p.x = x_, p.y = y_;
    p.rows = a.x.size(0), p.points = a.points().size(0), p.latents = a.x.size(1);
    p.within = !a.y;
    p.bandwidths = bandwidths_, p.count = static_cast<int64_t>(a.bandwidths.size());
  }

 private:
  const Operand x_, y_;

 public:
  const Device device;

 private:
  const Array<T> bandwidths_;
};

template <class T>
void kernel_sum_forward_as(const KernelSumArguments& a, const Tensor& out) {
  const KernelSumCall<T> call(a);
  KernelSumForward p;
  call.fill(p, a);
  if (p.rows == 0 || p.points == 0) return call.device.set_to_zero(out);
  const Array<double> strips(strips_of(p), a.x, kKernelSum);
  p.strips = strips;
  forward_kernel_sum<T>(p, a.is_gaussian, out.mutable_data_ptr(), call.device.processors, call.device);
}

Tensor kernel_sum_forward(const Tensor& x, const OptionalTensor& y, std::vector<double> bandwidths, bool is_gaussian) {
  const KernelSumArguments a = {x, y, bandwidths, is_gaussian};
  check(a);
  Tensor out = empty(nullptr, 0, ScalarType::Double, x, kKernelSum);
  x.scalar_type() == ScalarType::Double ? kernel_sum_forward_as<double>(a, out) : kernel_sum_forward_as<float>(a, out);
  return out;
}

template <class T>
void kernel_sum_backward_as(const KernelSumArguments& a, const Tensor& grad, const Tensor& out) {
  const KernelSumCall<T> call(a);
  KernelSumBackward p;
  call.fill(p, a);
  p.grad = static_cast<const double*>(grad.const_data_ptr());
  p.out = out.mutable_data_ptr();
  backward_kernel_sum<T>(p, a.is_gaussian, call.device.processors, call.device);
}

// Of x.
Tensor kernel_sum_backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y, std::vector<double> bandwidths,
                           bool is_gaussian) {
  const KernelSumArguments a = {x, y, bandwidths, is_gaussian};
  check(a);
  check_gradient(grad, a);
  check_alignment(grad, kKernelSum);
  Tensor out = empty(x.sizes().data(), 2, x.scalar_type(), x, kKernelSum);
  if (out.numel() == 0) return out;
  x.scalar_type() == ScalarType::Double ? kernel_sum_backward_as<double>(a, grad, out) : kernel_sum_backward_as<float>(a, grad, out);
  return out;
}

}  // namespace
}  // namespace cuda
}  // namespace vaekit
