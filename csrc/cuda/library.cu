// The library for CUDA: every operator's kernels, and what the library says of itself to vaekit/ops/native.py. All in one unit of
// compilation, because torch's headers cost nvcc more than the kernels do, once for each architecture.

#include "bernoulli_nll.cu"
#include "count_nll.cu"
#include "discretized_logistic_nll.cu"
#include "gaussian_nll.cu"
#include "kernel_sum.cu"
#include "log_aggregate.cu"
#include "reparameterize_kl.cu"

#define VAEKIT_CUDA_OPERATORS(f)         \
  f(reparameterize_kl)                   \
  f(bernoulli_nll)                       \
  f(gaussian_nll)                        \
  f(discretized_logistic_nll)            \
  f(poisson_nll)                         \
  f(negative_binomial_nll)               \
  f(zero_inflated_negative_binomial_nll) \
  f(log_aggregate)                       \
  f(kernel_sum)

// Why the kernels cannot be used here, or empty. The CUDA runtime in this library needs a driver of its own major version or later,
// whatever runtime torch has. Without a driver there is no GPU, and nothing to report.
VAEKIT_EXPORT const char* vaekit_cuda_obstacle() {
  static const std::string obstacle = [] {
    int driver = 0;
    if (cudaDriverGetVersion(&driver) != cudaSuccess || driver == 0 || driver / 1000 >= CUDART_VERSION / 1000) return std::string();
    const auto text = [](int version) { return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10); };
    return "it was built with CUDA " + text(CUDART_VERSION) + ", and the driver here is for CUDA " + text(driver);
  }();
  return obstacle.c_str();
}

STABLE_TORCH_LIBRARY_IMPL(vaekit, CUDA, m) {
  if (*vaekit_cuda_obstacle()) return;
#define VAEKIT_REGISTER(name)                              \
  m.impl(#name, TORCH_BOX(&vaekit::cuda::name##_forward)); \
  m.impl(#name "_backward", TORCH_BOX(&vaekit::cuda::name##_backward));
  VAEKIT_CUDA_OPERATORS(VAEKIT_REGISTER)
}

// The architectures that the kernels were compiled for.
VAEKIT_EXPORT const char* vaekit_cuda_capability() { return VAEKIT_CUDA_ARCHITECTURES; }

// The operators that have kernels, separated by spaces.
VAEKIT_EXPORT const char* vaekit_cuda_operators() {
#define VAEKIT_NAME(name) " " #name
  static const char names[] = VAEKIT_CUDA_OPERATORS(VAEKIT_NAME);
  return names + 1;
}
