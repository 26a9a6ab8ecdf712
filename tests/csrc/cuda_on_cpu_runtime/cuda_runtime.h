// What csrc/cuda/reparameterize_kl.cu uses of CUDA's runtime, for cuda_library.cpp: a kernel runs on the CPU, at once.
#pragma once

#include <mutex>

#include "../cuda_on_cpu.h"

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount };

struct dim3 {
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
  unsigned x, y, z;
};

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

namespace cuda_on_cpu {
inline Settings settings;  // of the launches that come
inline int processors = 1;
inline std::mutex one_at_a_time;
}  // namespace cuda_on_cpu

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
  *value = cuda_on_cpu::processors;
  return cudaSuccess;
}

inline cudaError_t cudaSetDevice(int) { return cudaSuccess; }

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t count, cudaStream_t) {
  std::memset(data, value, count);
  return cudaSuccess;
}

template <class Parameter>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameter), const Parameter& parameter) {
  const std::lock_guard<std::mutex> lock(cuda_on_cpu::one_at_a_time);
  cuda_on_cpu::launch(cuda_on_cpu::settings, kernel, {config->gridDim.x, config->gridDim.y}, config->blockDim.x, parameter);
  return cudaSuccess;
}
