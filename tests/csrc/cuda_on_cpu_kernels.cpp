// A test-only module: small kernels, right and wrong ones, run by cuda_on_cpu.h.
#include "cuda_on_cpu.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

namespace py = pybind11;
using cuda_on_cpu::launch;
using cuda_on_cpu::Order;
using cuda_on_cpu::Settings;

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

Settings settings(const std::string& order, uint64_t seed) {
  if (order == "natural") return {Order::kNatural, seed};
  if (order == "reversed") return {Order::kReversed, seed};
  if (order == "shuffled") return {Order::kShuffled, seed};
  throw std::invalid_argument("order");
}

// The calling thread's number in the grid.
__device__ unsigned place() { return blockIdx.x * blockDim.x + threadIdx.x; }

// --- what is right ---------------------------------------------------------------------------------------------------------

// Which thread came as which, in two steps with a barrier between them.
__global__ void visits(int* counter, int* out) {
  const unsigned threads = gridDim.x * blockDim.x;
  out[(*counter)++] = static_cast<int>(place() + threadIdx.y + threadIdx.z + (blockDim.y - 1) + (gridDim.z - 1));
  __syncthreads();
  out[(*counter)++] = static_cast<int>(place() + threads);
}

// The sum of each block by a tree in shared memory; wrong without its barriers.
template <bool kBarriers>
__global__ void __launch_bounds__(1024) tree_sums(const int64_t* values, int64_t* sums) {
  __shared__ int64_t tree[1024];
  tree[threadIdx.x] = values[place()];
  if (kBarriers) __syncthreads();
  for (unsigned count = blockDim.x; count > 1;) {
    const unsigned half = (count + 1) / 2;
    if (threadIdx.x < count / 2) tree[threadIdx.x] += tree[threadIdx.x + half];
    if (kBarriers) __syncthreads();
    count = half;
  }
  if (threadIdx.x == 0) sums[blockIdx.x] = tree[0];
}

// Sums of whole warps, then of the block's warps, twice; without the last barrier a warp that is ahead spoils what others read.
template <bool kLastBarrier>
__device__ double block_sum(double value) {
  __shared__ double partial[32];
  for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(0xffffffff, value, lanes);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / 32; ++warp) sum += partial[warp];
  if (kLastBarrier) __syncthreads();
  return sum;
}

template <bool kLastBarrier>
__global__ void two_sums(const double* values, double* out) {
  const double first = block_sum<kLastBarrier>(values[place()]);
  const double second = block_sum<kLastBarrier>(values[place()] * values[place()]);
  out[2 * place()] = first, out[2 * place() + 1] = second;
}

// The last warp of a block need not be whole, but its lanes have to be a power of two.
template <class T>
__global__ void warp_sums(const T* values, T* out) {
  const unsigned rest = blockDim.x - threadIdx.x / 32 * 32, lanes = rest < 32 ? rest : 32;
  T value = values[place()];
  for (unsigned i = lanes / 2; i > 0; i /= 2) value += __shfl_xor_sync(0xffffffffu >> (32 - lanes), value, static_cast<int>(i));
  out[place()] = value;
}

template <class T>
__global__ void shuffles(int kind, const T* values, const int* by, int width, T* out) {
  const T value = values[threadIdx.x];
  const int b = by[threadIdx.x];
  out[threadIdx.x] = kind == 0   ? __shfl_sync(0xffffffff, value, b, width)
                     : kind == 1 ? __shfl_up_sync(0xffffffff, value, b, width)
                     : kind == 2 ? __shfl_down_sync(0xffffffff, value, b, width)
                                 : __shfl_xor_sync(0xffffffff, value, b, width);
}

// The even lanes vote among themselves, and so do the odd ones.
__global__ void votes(const int* values, unsigned* ballot, int* any, int* all) {
  const unsigned mask = threadIdx.x % 2 == 0 ? 0x55555555 : 0xaaaaaaaa;
  ballot[threadIdx.x] = __ballot_sync(mask, values[threadIdx.x]);
  any[threadIdx.x] = __any_sync(mask, values[threadIdx.x]);
  all[threadIdx.x] = __all_sync(mask, values[threadIdx.x]);
}

// Each lane takes what its neighbour wrote; wrong without the __syncwarp.
template <bool kBarrier>
__global__ void neighbours(const int* values, int* out) {
  __shared__ int shared[1024];
  shared[threadIdx.x] = values[place()];
  if (kBarrier) __syncwarp();
  out[place()] = shared[threadIdx.x ^ 1];
}

// More local variables than there are registers live across barriers, integers and floating-point numbers.
__global__ void local_state(int steps, double* out) {
  uint64_t a = place(), b = a + 1, c = a + 2, d = a + 3, e = a + 4, f = a + 5, g = a + 6, h = a + 7;
  double x = static_cast<double>(a), y = x + 1, z = x + 2;
  for (int i = 0; i < steps; ++i) {
    a = 3 * a + b, b = 5 * b + c, c = 7 * c + d, d = 9 * d + e;
    __syncthreads();
    e = 3 * e + f, f = 5 * f + g, g = 7 * g + h, h = 9 * h + a;
    x = x * 0.5 + y, y = y * 0.25 + z, z = z * 0.125 + x;
    __syncwarp();
  }
  out[place()] = static_cast<double>((a ^ b ^ c ^ d ^ e ^ f ^ g ^ h) >> 20) + x + y + z;
}

// Exceptions that stay in the kernel: while one thread handles its own, no other runs.
__global__ void catches(int* out) {
  for (int i = 0; i < 3; ++i) {
    try {
      if (threadIdx.x % 2 == 0) throw static_cast<int>(place());
      out[place()] -= 1;
    } catch (int thrown) {
      out[place()] += thrown;
    }
    __syncthreads();
  }
}

__global__ void throws(unsigned thread, bool waited) {
  if (waited) __syncthreads();
  if (place() == thread) throw std::out_of_range("thrown by the kernel");
  if (waited) __syncthreads();
}

// --- what is wrong ---------------------------------------------------------------------------------------------------------

// Each case is one misuse. The blocks have 64 threads, or 20 where the name says "short".
__global__ void misuses(const std::string& name) {
  const unsigned thread = threadIdx.x;
  if (name == "deadlock") {
    if (thread < 40) {
      __syncthreads();
    } else {
      __syncwarp();
    }
  } else if (name == "partial barrier") {
    if (thread == 5 || thread == 6 || thread == 9) return;
    __syncthreads();
  } else if (name == "return at a barrier") {
    if (thread != 63) __syncthreads();
  } else if (name == "two barriers") {
    if (thread == 7) {
      __syncthreads();
    } else {
      __syncthreads();
    }
  } else if (name == "not in own mask") {
    __syncwarp(0xfffffff7);
  } else if (name == "other masks") {
    __syncwarp(thread == 3 ? 0xffffffff : 0x0000ffff);
  } else if (name == "a mask that is not returned") {  // lane 0 names lane 1, which does not name lane 0
    __syncwarp(thread % 32 == 0 ? 0x00000003 : 0xfffffffe);
  } else if (name == "one lane in two masks") {  // lane 1 waits for lane 0, which waits for lane 2
    if (thread % 32 < 3) __syncwarp(thread % 32 == 1 ? 0x00000003 : 0x00000005);
  } else if (name == "other operations") {
    // clang-format off
    if (thread == 3) __any_sync(0xffffffff, 1); else __all_sync(0xffffffff, 1);
    // clang-format on
  } else if (name == "other widths") {
    __shfl_sync(0xffffffff, 1, 0, thread == 3 ? 16 : 32);
  } else if (name == "other lines") {
    if (thread == 3) {
      __shfl_sync(0xffffffff, 1, 0);
    } else {
      __shfl_sync(0xffffffff, 1, 0);
    }
  } else if (name == "returned lane") {
    if (thread == 3) return;
    __syncwarp();
  } else if (name == "lane returns") {
    if (thread == 31) return;
    __syncwarp();
  } else if (name == "short: beyond the block") {
    __syncwarp();
  } else if (name == "short: mask with a gap") {  // the usual mistake with xor where the number of lanes is no power of two
    __shfl_xor_sync(0x000fffff, 1.0, 16);
  } else if (name == "width 24") {
    __shfl_down_sync(0xffffffff, 1.0, 1, 24);
  } else if (name == "width 0") {
    __shfl_down_sync(0xffffffff, 1.0, 1, 0);
  } else if (name == "width 64") {
    __shfl_down_sync(0xffffffff, 1.0, 1, 64);
  } else if (name == "reads outside the mask") {
    if (thread < 8) __shfl_down_sync(0x000000ff, 1.0, 4);
  } else {
    throw std::invalid_argument("no misuse " + name);
  }
}

__global__ void writes_shared(int index, int* out) {
  __shared__ int shared[8];
  shared[threadIdx.x] = static_cast<int>(threadIdx.x);
  __syncthreads();
  if (threadIdx.x == 0) shared[index] = 1;
  __syncthreads();
  out[threadIdx.x] = shared[threadIdx.x];
}

__device__ __attribute__((noinline)) int deep(int kibibytes) {
  volatile char room[1024];
  room[0] = static_cast<char>(kibibytes);
  return kibibytes <= 1 ? room[0] : deep(kibibytes - 1) + room[0];
}

__global__ void stack(int kibibytes, int* out) {
  out[threadIdx.x] = deep(kibibytes);
  __syncthreads();
  out[threadIdx.x] += deep(kibibytes);
}

__global__ void launches() { launch(writes_shared, 1, 1, 0, static_cast<int*>(nullptr)); }

__global__ void waits(int count) {
  for (int i = 0; i < count; ++i) __syncthreads();
}

// --- the module ------------------------------------------------------------------------------------------------------------

template <class T>
Array<T> zeros(py::ssize_t count) {
  Array<T> out(count);
  std::fill(out.mutable_data(), out.mutable_data() + count, T(0));
  return out;
}

// One value in and `each` values out for each thread, or for each block.
template <class T>
auto map(void (*kernel)(const T*, T*), int each = 1, bool of_block = false) {
  return [=](const Array<T>& values, unsigned block, const std::string& order, uint64_t seed) {
    if (values.size() % block != 0) throw std::invalid_argument("block");
    const unsigned grid = static_cast<unsigned>(values.size()) / block;
    Array<T> out = zeros<T>(of_block ? grid : each * values.size());
    launch(settings(order, seed), kernel, grid, block, values.data(), out.mutable_data());
    return out;
  };
}

template <class T>
Array<T> shuffled(int kind, const Array<T>& values, const Array<int>& by, int width, const std::string& order, uint64_t seed) {
  if (by.size() != values.size() || values.size() % 32 != 0) throw std::invalid_argument("by");
  Array<T> out(values.size());
  launch(settings(order, seed), &shuffles<T>, 1, static_cast<unsigned>(values.size()), kind, values.data(), by.data(), width,
         out.mutable_data());
  return out;
}

PYBIND11_MODULE(MODULE_NAME, m) {
#if defined(CUDA_ON_CPU_PORTABLE)
  m.attr("PORTABLE") = true;
#else
  m.attr("PORTABLE") = false;
#endif
  m.def("visits", [](unsigned grid, unsigned block, const std::string& order, uint64_t seed) {
    Array<int> out = zeros<int>(py::ssize_t{2} * grid * block);
    int counter = 0;
    launch(settings(order, seed), visits, grid, block, &counter, out.mutable_data());
    return out;
  });
  m.def("tree_sums", map(&tree_sums<true>, 1, true));
  m.def("tree_sums_without_barriers", map(&tree_sums<false>, 1, true));
  m.def("two_sums", map(&two_sums<true>, 2));
  m.def("two_sums_without_the_last_barrier", map(&two_sums<false>, 2));
  m.def("warp_sums_float", map(&warp_sums<float>));
  m.def("warp_sums_double", map(&warp_sums<double>));
  m.def("warp_sums_int64", map(&warp_sums<int64_t>));
  m.def("neighbours", map(&neighbours<true>));
  m.def("neighbours_without_barrier", map(&neighbours<false>));
  m.def("shuffle_float32", &shuffled<float>);
  m.def("shuffle_float64", &shuffled<double>);
  m.def("shuffle_int32", &shuffled<int32_t>);
  m.def("shuffle_uint32", &shuffled<uint32_t>);
  m.def("shuffle_int64", &shuffled<int64_t>);
  m.def("shuffle_uint64", &shuffled<uint64_t>);
  m.def("votes", [](const Array<int>& values, const std::string& order, uint64_t seed) {
    Array<unsigned> ballot(values.size());
    Array<int> any(values.size()), all(values.size());
    launch(settings(order, seed), votes, 1, static_cast<unsigned>(values.size()), values.data(), ballot.mutable_data(),
           any.mutable_data(), all.mutable_data());
    return py::make_tuple(ballot, any, all);
  });
  m.def("local_state", [](unsigned grid, unsigned block, int steps, const std::string& order, uint64_t seed) {
    Array<double> out(py::ssize_t{grid} * block);
    launch(settings(order, seed), local_state, grid, block, steps, out.mutable_data());
    return out;
  });
  m.def("catches", [](unsigned grid, unsigned block, const std::string& order, uint64_t seed) {
    Array<int> out = zeros<int>(py::ssize_t{grid} * block);
    launch(settings(order, seed), catches, grid, block, out.mutable_data());
    return out;
  });
  m.def("throws", [](unsigned grid, unsigned block, unsigned thread, bool waited) { launch(throws, grid, block, thread, waited); });
  m.def("misuse", [](const std::string& name, const std::string& order, uint64_t seed) {
    launch(settings(order, seed), misuses, 1, name.rfind("short", 0) == 0 ? 20 : 64, name);
  });
  m.def("writes_shared", [](int index) {
    Array<int> out(8);
    launch(writes_shared, 1, 8, index, out.mutable_data());
    return out;
  });
  m.attr("STACK") = CUDA_ON_CPU_STACK;
  m.def("stack", [](unsigned block, int kibibytes) {
    Array<int> out(block);
    launch(stack, 1, block, kibibytes, out.mutable_data());
    return out;
  });
  m.def("launches", [] { launch(launches, 1, 1); });
  m.def("configuration", [](unsigned grid, unsigned block) { launch(waits, grid, block, 0); });
  m.def("waits", [](unsigned grid, unsigned block, int count) { launch(waits, grid, block, count); });
}
