// What csrc/cuda/ uses of CUDA's runtime, for cuda_library.cpp: a kernel runs on the CPU, at once. It insists on
// the current stream, on a device that was guarded and set, and on CUDA's limits of a grid.
#pragma once

#include <cstdlib>
#include <mutex>

#include "../cuda_on_cpu.h"

#define CUDART_VERSION 13000

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess, cudaErrorNoKernelImageForDevice = 209 };
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
inline char current_stream;                           // its address is the stream
inline thread_local bool guarded = false, set = false;  // the device: by torch's guard, and within it by cudaSetDevice

inline void check_call(const char* what, cudaStream_t stream) {
  if (stream != &current_stream) throw std::runtime_error(std::string(what) + " is not on the current stream");
  if (!guarded || !set) throw std::runtime_error(std::string(what) + " without a device that is guarded and set");
}

}  // namespace cuda_on_cpu

inline cudaError_t cudaDriverGetVersion(int* version) {
  const char* told = std::getenv("CUDA_ON_CPU_DRIVER");
  *version = told ? std::atoi(told) : CUDART_VERSION;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) { return *value = cuda_on_cpu::processors, cudaSuccess; }

inline cudaError_t cudaSetDevice(int) {
  cuda_on_cpu::set = cuda_on_cpu::guarded;
  return cudaSuccess;
}

inline cudaError_t cudaMemsetAsync(void* data, int value, size_t count, cudaStream_t stream) {
  cuda_on_cpu::check_call("cudaMemsetAsync", stream);
  std::memset(data, value, count);
  return cudaSuccess;
}

template <class Parameter>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameter), const Parameter& parameter) {
  cuda_on_cpu::check_call("a kernel", config->stream);
  const std::lock_guard<std::mutex> lock(cuda_on_cpu::one_at_a_time);
  const dim3& grid = config->gridDim;
  cuda_on_cpu::launch(cuda_on_cpu::settings, kernel, {grid.x, grid.y, grid.z}, config->blockDim.x, parameter);
  return cudaSuccess;
}
