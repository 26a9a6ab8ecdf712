// The operands of the operators that compare every pair of a batch, and their checks: shared by all devices. The specifications are
// vaekit/ops/log_aggregate.py and vaekit/ops/kernel_sum.py.
#pragma once

#include <vector>

#include "tensors.h"

namespace vaekit {

constexpr const char* kLogAggregate = "log_aggregate";
constexpr const char* kKernelSum = "kernel_sum";

// --- log_aggregate ---------------------------------------------------------------------------------------------------------

struct AggregateArguments {
  const Tensor &mu, &logvar, &eps;
  int64_t first;
  double own;
};

inline void check_aggregate_like(const Tensor& tensor, int64_t rows, const AggregateArguments& a, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 2 && tensor.size(0) == rows && tensor.size(1) == a.mu.size(1), kLogAggregate, ": ", name,
                  " has a shape that does not fit mu's");
  STD_TORCH_CHECK(tensor.scalar_type() == a.mu.scalar_type() && on_device_of(tensor, a.mu), kLogAggregate, ": ", name,
                  " has not mu's dtype and device");
  check_memory(tensor, kLogAggregate, name);
}

inline void check(const AggregateArguments& a) {
  const ScalarType dtype = a.mu.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, kLogAggregate, " takes float32 or float64");
  STD_TORCH_CHECK(a.mu.dim() == 2 && a.mu.size(1) > 0, kLogAggregate, ": mu is not [examples, latents], of at least one latent");
  STD_TORCH_CHECK(a.eps.dim() == 2, kLogAggregate, ": eps is not [rows, latents]");
  check_aggregate_like(a.mu, a.mu.size(0), a, "mu");
  check_aggregate_like(a.logvar, a.mu.size(0), a, "logvar");
  check_aggregate_like(a.eps, a.eps.size(0), a, "eps");
  STD_TORCH_CHECK(0 <= a.first && a.first <= a.mu.size(0) - a.eps.size(0), kLogAggregate,
                  ": the rows are not examples first, first + 1, ... of mu");
}

inline void check_row_like(const Tensor& tensor, const AggregateArguments& a, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == 1 && tensor.size(0) == a.eps.size(0) && tensor.scalar_type() == a.mu.scalar_type() &&
                      on_device_of(tensor, a.mu),
                  kLogAggregate, ": ", name, " is not like the result for q(z)");
  check_memory(tensor, kLogAggregate, name);
}

// --- kernel_sum ------------------------------------------------------------------------------------------------------------

struct KernelSumArguments {
  const Tensor& x;
  const OptionalTensor& y;  // absent: x itself
  const std::vector<double>& bandwidths;
  bool is_gaussian;

  const Tensor& points() const { return y ? *y : x; }
};

inline void check_points(const Tensor& points, const Tensor& x, const char* name) {
  STD_TORCH_CHECK(points.dim() == 2 && points.size(1) == x.size(1) && points.scalar_type() == x.scalar_type() && on_device_of(points, x),
                  kKernelSum, ": ", name, " is not [points, latents] with x's latents, dtype and device");
  check_memory(points, kKernelSum, name);
}

inline void check(const KernelSumArguments& a) {
  const ScalarType dtype = a.x.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double, kKernelSum, " takes float32 or float64");
  STD_TORCH_CHECK(a.x.dim() == 2, kKernelSum, ": x is not [points, latents]");
  check_points(a.x, a.x, "x");
  if (a.y) check_points(*a.y, a.x, "y");
}

inline void check_gradient(const Tensor& grad, const KernelSumArguments& a) {
  STD_TORCH_CHECK(grad.dim() == 0 && grad.scalar_type() == ScalarType::Double && on_device_of(grad, a.x), kKernelSum,
                  ": the gradient is not one float64 number on x's device");
  check_memory(grad, kKernelSum, "grad");
}

}  // namespace vaekit
