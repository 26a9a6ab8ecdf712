// What every CUDA operator does on the host, on torch's stable ABI: lays its operands out and launches kernels on the current stream.
// Nothing here waits for the device or copies from it, so that a CUDA graph can record a call.
#pragma once

#include <cuda_runtime.h>

#include "../tensors.h"
#include "rows.cuh"

namespace vaekit {
namespace cuda {

// A GPU cannot read a number at an address that is not a multiple of its size; trying would make the device useless to the process.
inline void check_alignment(const Tensor& tensor, const char* op) {
  STD_TORCH_CHECK(reinterpret_cast<uintptr_t>(tensor.const_data_ptr()) % tensor.element_size() == 0, op,
                  ": an operand's address is not a multiple of its element size; pass a clone()");
}

// An operand as the kernels take it: with one stride from row to row and one within a row, its first `row_dims` dimensions being the
// rows'. A dimension `extra` has a stride of its own besides, the view's `sample_stride`. A tensor with other strides, channels last for
// example, is copied first; the copy lives until the kernels are launched.
class Operand {
 public:
  Operand(const OptionalTensor& tensor, const char* op, int64_t row_dims, std::optional<int64_t> extra = std::nullopt) {
    if (!tensor || fits(*tensor, op, row_dims, extra)) return;
    try {
      copy_ = torch::stable::contiguous(*tensor);
    } catch (const std::exception&) {  // whose words are those of a call that failed
      STD_TORCH_CHECK(false, op, ": there is not enough memory on the GPU for a contiguous copy of ",
                      described(tensor->sizes().data(), tensor->dim(), tensor->scalar_type()));
    }
    fits(*copy_, op, row_dims, extra);
  }

  operator const View&() const { return view_; }

 private:
  bool fits(const Tensor& tensor, const char* op, int64_t row_dims, std::optional<int64_t> extra) {
    int64_t sizes[kMaxDims], strides[kMaxDims];
    int dims = 0;
    for (int64_t i = 0; i < tensor.dim(); ++i) {
      if (i != extra) sizes[dims] = tensor.size(i), strides[dims++] = tensor.stride(i);
    }
    const int rows = static_cast<int>(row_dims);
    view_.data = tensor.const_data_ptr();
    check_alignment(tensor, op);
    view_.sample_stride = extra ? tensor.stride(*extra) : 0;
    return single_stride(rows, sizes, strides, view_.row_stride) &&
           single_stride(dims - rows, sizes + rows, strides + rows, view_.column_stride);
  }

  View view_;
  OptionalTensor copy_;
};

// The device of a tensor and its current stream, while it lives.
class Device {
 public:
  explicit Device(const Tensor& like) : index_(like.get_device_index()), guard_(index_) {
    STD_CUDA_CHECK(cudaSetDevice(index_));  // the guard sets it for torch's runtime, and this library has its own
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, index_));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(index_, &stream_));
  }

  template <class Problem>
  void operator()(void (*kernel)(Problem), const Grid& grid, const Problem& p) const {
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(grid.x, grid.y, grid.z);
    config.blockDim = dim3(kThreads);
    config.stream = static_cast<cudaStream_t>(stream_);
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, p);
    STD_TORCH_CHECK(error != cudaErrorNoKernelImageForDevice,
                    "vaekit's CUDA library has no code for this GPU, only " VAEKIT_CUDA_ARCHITECTURES
                    "; build it for this one (TORCH_CUDA_ARCH_LIST), or set VAEKIT_CUDA=0 to do without it");
    STD_CUDA_CHECK(error);
  }

  void set_to_zero(const Tensor& tensor) const {
    if (tensor.numel() == 0) return;
    STD_CUDA_CHECK(cudaMemsetAsync(tensor.mutable_data_ptr(), 0, tensor.numel() * tensor.element_size(),
                                   static_cast<cudaStream_t>(stream_)));
  }

 private:
  int index_;
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;

 public:
  int processors = 0;
};

// An array that lives as long as a call of the operator `op`; torch's allocator does not reuse it before the kernels of this stream are
// done. Null where it has no elements.
template <class T>
class Array {
 public:
  Array(int64_t count, const Tensor& like, const char* op) {
    if (count == 0) return;
    tensor_ = empty(&count, 1, sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float, like, op);
    data_ = static_cast<T*>(tensor_->mutable_data_ptr());
  }
  operator T*() const { return data_; }

 private:
  OptionalTensor tensor_;
  T* data_ = nullptr;
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

}  // namespace cuda
}  // namespace vaekit
