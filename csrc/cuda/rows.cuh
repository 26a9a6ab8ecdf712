// Rows of elements on a GPU: which threads share a row, what each thread takes of it, their sums, and how a call is laid out. No torch
// header and no CUDA header.
//
// A group of threads takes a row at a time: a few threads for a tiny row, so that a warp holds many; a warp for a short one; the block
// for a long one, and several blocks for one longer than kSegment. Which threads share a row depends on its length alone.
#pragma once

#include "storage.cuh"

#if !defined(__CUDACC__) && !defined(__grid_constant__)
#define __grid_constant__
#endif

#if defined(__CUDACC__)
#define VAEKIT_DEVICE __device__ __forceinline__
#else
#define VAEKIT_DEVICE inline
#endif

namespace vaekit {
namespace cuda {

constexpr int kBlockBits = 8, kThreads = 1 << kBlockBits;  // of a block
constexpr int kWarp = 32;
constexpr int kSegment = 4096;              // elements of a row that one block takes
constexpr int64_t kBlocksPerProcessor = 32;  // beyond these, a block takes several rows

constexpr unsigned kWholeWarp = 0xFFFFFFFFu;

// --- device: a thread's place ----------------------------------------------------------------------------------------------

// What a group of threads does: rows of so many elements, each in segments that different blocks take.
struct Work {
  int64_t rows, event, segments;
  int segment;     // elements of a segment: those of the row, or kSegment
  int group_bits;  // 2^group_bits threads share a row: up to a warp, or the whole block

  VAEKIT_INLINE int group() const { return 1 << group_bits; }
};

// This thread's place in its group.
VAEKIT_DEVICE int lane_of(const Work& work) { return threadIdx.x & (work.group() - 1); }

// A piece of work of a group of threads: `length` columns of a row, from `begin` on.
struct Segment {
  int64_t row, begin, number;
  int length;
};

// Calls f for each piece of work of this thread's group. All threads of a block go round together, so that f may wait for the
// others; where there is no row left for a group the length is 0.
template <class F>
VAEKIT_DEVICE void for_each_segment(const Work& work, const F& f) {
  const int64_t at_once = kThreads >> work.group_bits, mine = threadIdx.x >> work.group_bits;
  for (int64_t number = blockIdx.y; number < work.segments; number += gridDim.y) {
    const int64_t begin = number * work.segment, left = work.event - begin;
    const int length = left < work.segment ? static_cast<int>(left) : work.segment;
    for (int64_t first = blockIdx.x * at_once; first < work.rows; first += gridDim.x * at_once) {
      const int64_t row = first + mine;
      f(Segment{row, begin, number, row < work.rows ? length : 0});
    }
  }
}

// --- device: sums ----------------------------------------------------------------------------------------------------------

// The sum over `width` neighbouring threads, in the first of them; every thread of the warp takes part.
template <class T>
VAEKIT_DEVICE T sum_over_threads(T value, int width) {
  for (int distance = width / 2; distance > 0; distance /= 2) value += __shfl_xor_sync(kWholeWarp, value, distance, width);
  return value;
}

// The sum over the block, in its first thread; every thread takes part.
template <class T>
VAEKIT_DEVICE double sum_over_block(T value) {
  __shared__ double of_warps[kThreads / kWarp];
  const T of_warp = sum_over_threads(value, kWarp);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = of_warp;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < kThreads / kWarp; ++warp) sum += of_warps[warp];
  }
  __syncthreads();  // before the next row's sums are written
  return sum;
}

// Sums of which blocks have left parts: out[i] is that of values[i * stride + k * step] for k below `count`.
struct Parts {
  const double* values;
  int64_t results, stride, count, step;
  void* out;  // [results]

  // Whether a thread adds up a result of its own, and not a block.
  VAEKIT_INLINE bool are_few() const { return count <= kWarp || results >= 4 * kThreads; }
};

template <class T>
__global__ void __launch_bounds__(kThreads) add_parts(__grid_constant__ const Parts p) {
  const bool few = p.are_few();
  const int64_t at_once = few ? kThreads : 1, first = few ? 0 : threadIdx.x, step = few ? 1 : kThreads;
  for (int64_t start = blockIdx.x * at_once; start < p.results; start += gridDim.x * at_once) {
    const int64_t i = few ? start + threadIdx.x : start;
    double sum = 0;
    for (int64_t k = i < p.results ? first : p.count; k < p.count; k += step) sum += p.values[i * p.stride + k * p.step];
    if (!few) sum = sum_over_block(sum);
    if (i < p.results && (few || threadIdx.x == 0)) static_cast<T*>(p.out)[i] = static_cast<T>(sum);
  }
}

// --- host: how a call is laid out ------------------------------------------------------------------------------------------

// The stride from one element to the next of some dimensions of a tensor, in row-major order; false where there is not one.
inline bool single_stride(int dims, const int64_t* sizes, const int64_t* strides, int64_t& stride) {
  stride = 0;
  int64_t count = 1;  // elements of the dimensions seen
  for (int i = dims - 1; i >= 0; --i) {
    if (sizes[i] == 1) continue;
    if (count == 1) {
      stride = strides[i];
    } else if (strides[i] != count * stride) {
      return false;
    }
    count *= sizes[i];
  }
  return true;
}

// Whether 16 bytes can be taken at a time, for elements of so many bytes; or as many as `width` bytes.
inline bool takes_vectors(const View& view, int64_t bytes, int64_t width = kVectorBytes) {
  const auto whole = [&](int64_t stride) { return stride * bytes % width == 0; };
  return !view || (reinterpret_cast<uintptr_t>(view.data) % width == 0 && whole(view.sample_stride) && whole(view.row_stride) &&
                   view.column_stride == 1);
}

inline int64_t ceiling(int64_t a, int64_t b) { return (a + b - 1) / b; }

struct Grid {
  unsigned x, y, z;  // rows, segments, samples
};

inline int64_t at_most(int64_t wanted, int64_t most) { return wanted < most ? wanted : most; }

// As many blocks as there are of something, or as the device is given at once.
inline Grid line_of(int64_t blocks, int processors) {
  return {static_cast<unsigned>(at_most(blocks, kBlocksPerProcessor * processors)), 1, 1};
}

// The grid for some work, of which blocks take several rows and then several segments where there are too many.
inline Grid grid_of(const Work& work, int64_t samples, int processors) {
  const int64_t most = kBlocksPerProcessor * processors, x = at_most(ceiling(work.rows, kThreads / work.group()), most);
  const int64_t y = at_most(work.segments, ceiling(most, x));
  return {static_cast<unsigned>(x), static_cast<unsigned>(y), static_cast<unsigned>(at_most(samples, ceiling(most, x * y)))};
}

// Fills in how rows are shared, of which n elements are taken at a time.
inline void share_rows(Work& work, int n) {
  work.segment = static_cast<int>(at_most(work.event, kSegment));
  work.segments = ceiling(work.event, work.segment);
  const int64_t steps = ceiling(work.event, n);
  work.group_bits = 0;
  while (work.group() < kWarp && work.group() < steps) ++work.group_bits;
  if (steps > 4 * kWarp) work.group_bits = kBlockBits;
}

template <class T, class Launch>
void add_up(const Parts& parts, int processors, const Launch& launch) {
  launch(add_parts<T>, line_of(parts.are_few() ? ceiling(parts.results, kThreads) : parts.results, processors), parts);
}

}  // namespace cuda
}  // namespace vaekit
