// The CUDA library itself, csrc/cuda/library.cu, compiled by the host's compiler: its operators take tensors on the CPU and its kernels
// run there (cuda_on_cpu.h). Registered as vaekit_cuda_on_cpu::reparameterize_kl and so on, or, with IN_PLACE_OF_THE_CPU_KERNEL, as the
// CPU kernels of vaekit's own operators, so that all their tests can run on them.

// What a torch without CUDA has not, or not for tensors on the CPU: torch's headers declare these names instead, defined below.
#define aoti_torch_get_current_cuda_stream on_cpu_get_current_cuda_stream
#define aoti_torch_create_device_guard on_cpu_create_device_guard
#define aoti_torch_delete_device_guard on_cpu_delete_device_guard
#define torch_c10_cuda_check_msg on_cpu_cuda_check_msg
#define torch_c10_cuda_free_error_msg on_cpu_cuda_free_error_msg

#include <cuda_runtime.h>  // the one in cuda_on_cpu_runtime/

#include <torch/csrc/stable/library.h>

extern "C" {
AOTITorchError aoti_torch_get_current_cuda_stream(int32_t, void** stream) { return *stream = &cuda_on_cpu::current_stream, 0; }
AOTITorchError aoti_torch_create_device_guard(int32_t, DeviceGuardHandle* guard) {
  cuda_on_cpu::guarded = true, cuda_on_cpu::set = false;
  return *guard = reinterpret_cast<DeviceGuardHandle>(&cuda_on_cpu::guarded), 0;
}
AOTITorchError aoti_torch_delete_device_guard(DeviceGuardHandle) { return cuda_on_cpu::guarded = cuda_on_cpu::set = false, 0; }
AOTITorchError torch_c10_cuda_check_msg(int32_t, const char*, const char*, uint32_t, bool, char** message) {
  return *message = nullptr, 0;
}
void torch_c10_cuda_free_error_msg(char*) {}
}

#undef STABLE_TORCH_LIBRARY_IMPL
#if defined(IN_PLACE_OF_THE_CPU_KERNEL)
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) _STABLE_TORCH_LIBRARY_IMPL(vaekit, CPU, m, 0)
#else
#define STABLE_TORCH_LIBRARY_IMPL(ns, k, m) _STABLE_TORCH_LIBRARY_IMPL(vaekit_cuda_on_cpu, CPU, m, 0)
#endif
#define VAEKIT_CUDA_ARCHITECTURES "on the CPU"

#include "cuda/library.cu"

VAEKIT_EXPORT const char* vaekit_cpu_capability() { return "CUDA on the CPU"; }
VAEKIT_EXPORT const char* vaekit_cpu_operators() { return vaekit_cuda_operators(); }

// The launches that come: their order of threads and blocks (natural, reversed, shuffled with the seed), and for how many
// multiprocessors a call is laid out.
VAEKIT_EXPORT void set_launches(int order, uint64_t seed, int processors) {
  cuda_on_cpu::settings = {static_cast<cuda_on_cpu::Order>(order), seed};
  cuda_on_cpu::processors = processors;
}
