// vaekit::reparameterize_kl and its backward for CUDA, on torch's stable ABI: lays the operands out and launches the kernels on the
// current stream. Nothing here waits for the device or copies from it, so that a CUDA graph can record a call.

#include <cuda_runtime.h>

#include <string>

#include "../operator.h"
#include "reparameterize_kl.cuh"

namespace vaekit {
namespace {

int processors_of(int device) {
  int count = 0;
  STD_CUDA_CHECK(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
  return count;
}

// A GPU cannot read a number at an address that is not a multiple of its size; trying would make the device useless to the process.
void check_alignment(const Tensor& tensor) {
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % tensor.element_size() == 0,
                  "reparameterize_kl: an operand's address is not a multiple of its element size; pass a clone()");
}

// An operand as the kernels take it: with one stride from row to row and one within a row. A tensor with other strides, channels
// last for example, is copied first; the copy lives until the kernels are launched.
class Operand {
 public:
  Operand(const OptionalTensor& tensor, int64_t row_dims, bool samples) {
    if (!tensor || fits(*tensor, row_dims, samples)) return;
    try {
      copy_ = torch::stable::contiguous(*tensor);
    } catch (const std::exception&) {  // whose words are those of a call that failed
      STD_TORCH_CHECK(false, "reparameterize_kl: there is not enough memory on the GPU for a contiguous copy of ",
                      described(tensor->sizes().data(), tensor->dim(), tensor->scalar_type()));
    }
    fits(*copy_, row_dims, samples);
  }

  operator const cuda::View&() const { return view_; }

 private:
  bool fits(const Tensor& tensor, int64_t row_dims, bool samples) {
    const int extra = samples ? 1 : 0, rows = static_cast<int>(row_dims), dims = static_cast<int>(tensor.dim());
    const int64_t *sizes = tensor.sizes().data() + extra, *strides = tensor.strides().data() + extra;
    view_.data = tensor.const_data_ptr();
    check_alignment(tensor);
    view_.sample_stride = samples ? tensor.stride(0) : 0;
    return cuda::single_stride(rows, sizes, strides, view_.row_stride) &&
           cuda::single_stride(dims - extra - rows, sizes + rows, strides + rows, view_.column_stride);
  }

  cuda::View view_;
  OptionalTensor copy_;
};

class Call {
 public:
  explicit Call(const Arguments& a)
      : shape(checked_shape(a)),
        row_dims(a.mu.dim() - a.event_dims),
        sampled(a.num_samples.has_value()),
        mu(a.mu, row_dims, false),
        logvar(a.logvar, row_dims, false),
        eps(a.eps, row_dims, sampled),
        prior_mu(a.prior_mu, row_dims, false),
        prior_logvar(a.prior_logvar, row_dims, false),
        device(a.mu.get_device_index()),
        guard(device),
        processors(processors_of(device)) {
    STD_CUDA_CHECK(cudaSetDevice(device));  // the guard sets it for torch's runtime, and this library has its own
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  }

  template <class Problem>
  void fill(Problem& p, const Arguments& a) const {
    if (a.key) check_alignment(*a.key);
    p.work.rows = shape.rows, p.work.event = shape.event;
    p.samples = shape.samples;
    p.key = a.key ? static_cast<const int64_t*>(a.key->const_data_ptr()) : nullptr;
    p.key_stride = a.key ? a.key->stride(0) : 0;
    p.start = shape.start;
    p.mu = mu, p.logvar = logvar, p.eps = eps, p.prior_mu = prior_mu, p.prior_logvar = prior_logvar;
    p.wide_eps = a.eps && a.eps->scalar_type() != a.mu.scalar_type();
    p.reduce = a.reduce_event;
  }

  template <class Problem>
  void operator()(void (*kernel)(Problem), const cuda::Grid& grid, const Problem& p) const {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid.x, grid.y, grid.z);
    config.blockDim = dim3(cuda::kThreads);
    config.stream = static_cast<cudaStream_t>(stream);
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, p);
    STD_TORCH_CHECK(error != cudaErrorNoKernelImageForDevice,
                    "vaekit's CUDA library has no code for this GPU, only " VAEKIT_CUDA_ARCHITECTURES
                    "; build it for this one (TORCH_CUDA_ARCH_LIST), or set VAEKIT_CUDA=0 to do without it");
    STD_CUDA_CHECK(error);
  }

  const Shape shape;
  const int64_t row_dims;
  const bool sampled;
  const Operand mu, logvar, eps, prior_mu, prior_logvar;
  const int device;
  const torch::stable::accelerator::DeviceGuard guard;
  const int processors;
  void* stream = nullptr;
};

// f(a value of the storage type)
template <class F>
void with_storage(ScalarType dtype, const F& f) {
  switch (dtype) {
    case ScalarType::Float: return f(float());
    case ScalarType::Double: return f(double());
    case ScalarType::BFloat16: return f(BFloat16());
    default: return f(Half());
  }
}

void set_to_zero(const Tensor& tensor, const Call& call) {
  STD_CUDA_CHECK(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, tensor.numel() * tensor.element_size(),
                                 static_cast<cudaStream_t>(call.stream)));
}

std::tuple<Tensor, Tensor> forward(const Tensor& mu, const Tensor& logvar, const OptionalTensor& key, const OptionalTensor& eps,
                                   const OptionalTensor& prior_mu, const OptionalTensor& prior_logvar,
                                   std::optional<int64_t> num_samples, int64_t row_start, int64_t event_dims,
                                   bool reduce_event) {
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Call call(a);
  const auto [z, kl] = empty_results(a);
  if (call.shape.elements() == 0) {  // no element: no rows, or rows whose sum is empty
    if (kl.numel() > 0) set_to_zero(kl, call);
    return {z, kl};
  }
  cuda::Forward p;
  call.fill(p, a);
  p.z = z.mutable_data_ptr();
  p.kl = kl.mutable_data_ptr();
  // Freed on return; torch's allocator does not reuse it before the kernels of this stream are done.
  OptionalTensor sums;
  p.segments = nullptr;
  if (const int64_t segments = cuda::segments_of(p)) {
    sums = empty(&segments, 1, ScalarType::Double, mu, kReparameterizeKl);
    p.segments = static_cast<double*>(sums->mutable_data_ptr());
  }
  with_storage(mu.scalar_type(), [&](auto storage) { cuda::forward<decltype(storage)>(p, call.processors, call); });
  return {z, kl};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                                    const Tensor& mu, const Tensor& logvar, const OptionalTensor& key,
                                                    const OptionalTensor& eps, const OptionalTensor& prior_mu,
                                                    const OptionalTensor& prior_logvar, std::optional<int64_t> num_samples,
                                                    int64_t row_start, int64_t event_dims, bool reduce_event, int64_t wanted,
                                                    bool packed) {
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Call call(a);
  check_gradients(grad_z, grad_kl, a);
  const Gradients out = empty_gradients(a, wanted, packed);
  const auto address = [](const Tensor& gradient) { return gradient.defined() ? gradient.mutable_data_ptr() : nullptr; };
  if (call.shape.elements() > 0) {
    const Operand of_z(grad_z, call.row_dims, call.sampled), of_kl(grad_kl, call.row_dims, false);
    cuda::Backward p;
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
      if (gradient.defined() && !grad_kl) set_to_zero(gradient, call);
    }
    with_storage(mu.scalar_type(), [&](auto storage) { cuda::backward<decltype(storage)>(p, call.processors, call); });
  }
  return {out.mu, out.logvar, out.prior_mu, out.prior_logvar};
}

}  // namespace
}  // namespace vaekit

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
  m.impl("reparameterize_kl", TORCH_BOX(&vaekit::forward));
  m.impl("reparameterize_kl_backward", TORCH_BOX(&vaekit::backward));
}

// The architectures that the kernels were compiled for.
VAEKIT_EXPORT const char* vaekit_cuda_capability() { return VAEKIT_CUDA_ARCHITECTURES; }
