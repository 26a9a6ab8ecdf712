// The CUDA kernels of vaekit::reparameterize_kl and its backward, on raw pointers, and how a call is laid out on the device. No torch
// header and no CUDA header: tests/csrc compiles this very file for the CPU and runs it there, a fiber for each thread.
//
// A group of threads takes a row (one event) at a time (rows.cuh). A thread takes 16 bytes of mu and of logvar at a time, makes their
// noise in registers from the key, and writes 16 bytes of z; the divergences are added within the thread, then over the group by
// shuffles, in an order that follows from the shape alone. Where a tensor's place or strides do not allow 16 bytes, the elements of one
// Philox block are read one by one. The arithmetic is that of the CPU kernel (../gaussian.h), bit for bit but for the payload of a NaN.
//
// A kernel is launched through a function object `launch(kernel, grid, argument)` that the caller gives.
#pragma once

#include "../gaussian.h"
#include "rows.cuh"

namespace vaekit {
namespace cuda {

// --- a call ----------------------------------------------------------------------------------------------------------------

struct Operands {
  Work work;
  int64_t samples;
  const int64_t* key;  // (seed, offset), read on the device
  int64_t key_stride;
  uint64_t start;  // the noise of element i of sample k is element start + i of the stream (seed, offset + k 2^40)
  View mu, logvar, eps, prior_mu, prior_logvar;
  bool wide_eps;  // eps has the type of computation, not of storage
  bool reduce;    // kl is summed over a row
};

struct Forward : Operands {
  void* z;           // [K?, rows, event]
  void* kl;          // [rows], or [rows, event] where not reduced
  double* segments;  // [rows, segments], or null where a row is one segment: sums that `add_parts` adds
};

struct Backward : Operands {
  View grad_z, grad_kl;  // either may be absent; grad_kl has no columns where kl was summed
  void *grad_mu, *grad_logvar, *grad_prior_mu, *grad_prior_logvar;  // [rows, event], null where not wanted
  int64_t grad_stride;  // from row to row of grad_mu and grad_logvar: event, or twice that where they are halves of one tensor
};

// --- device: reading and writing -------------------------------------------------------------------------------------------

// n elements from `column` on, of which those from `from` to `to` exist; the others are 0.
template <class S, bool vectors, int n, class T>
VAEKIT_INLINE void load(const View& view, int64_t offset, int64_t column, int from, int to, T (&out)[n]) {
  const S* data = static_cast<const S*>(view.data) + offset;
  if constexpr (vectors) {
    VAEKIT_UNROLL(2)
    for (int start = 0; start < n; start += kLength<S>) {
      const auto vector = load_vector<S>(data, column + start);
      VAEKIT_UNROLL(8)
      for (int i = 0; i < kLength<S>; ++i) out[start + i] = widen(vector.values[i]);
    }
  } else {
    VAEKIT_UNROLL(4)
    for (int i = 0; i < n; ++i) out[i] = from <= i && i < to ? T(widen(data[(column + i) * view.column_stride])) : T(0);
  }
}

// The same into a contiguous array, at element `place`.
template <class S, bool vectors, int n, class T>
VAEKIT_INLINE void store(void* data, int64_t place, int from, int to, const T (&values)[n]) {
  if constexpr (vectors) {
    VAEKIT_UNROLL(2)
    for (int start = 0; start < n; start += kLength<S>) {
      Vector<S> vector;
      VAEKIT_UNROLL(8)
      for (int i = 0; i < kLength<S>; ++i) narrow(values[start + i], vector.values[i]);
      store_vector(data, place + start, vector);
    }
  } else {
    S* out = static_cast<S*>(data) + place;
    VAEKIT_UNROLL(4)
    for (int i = 0; i < n; ++i) {
      if (from <= i && i < to) narrow(values[i], out[i]);
    }
  }
}

// The normals of the block that holds element `element` of the stream.
VAEKIT_INLINE void normals(uint64_t seed, uint64_t offset, uint64_t element, float (&out)[4]) {
  const uint64_t counter = offset + element / 4;
  const Words x = philox(seed, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32));
  const Pair<float> a = box_muller<true>(uniform(x.x0), uniform(x.x1)), b = box_muller<true>(uniform(x.x2), uniform(x.x3));
  out[0] = a.first, out[1] = a.second, out[2] = b.first, out[3] = b.second;
}

VAEKIT_INLINE void normals(uint64_t seed, uint64_t offset, uint64_t element, double (&out)[2]) {
  const uint64_t counter = offset + element / 2;
  const Words x = philox(seed, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32));
  const Pair<double> a = box_muller<true>(uniform(x.x0, x.x1), uniform(x.x2, x.x3));
  out[0] = a.first, out[1] = a.second;
}

// Of two blocks.
VAEKIT_INLINE void normals(uint64_t seed, uint64_t offset, uint64_t element, float (&out)[8]) {
  VAEKIT_UNROLL(2)
  for (int block = 0; block < 8; block += 4) {
    float four[4];
    normals(seed, offset, element + block, four);
    for (int i = 0; i < 4; ++i) out[block + i] = four[i];
  }
}

// The sum in pairs.
template <int n, class T>
VAEKIT_INLINE T sum_of(const T (&values)[n]) {
  T sums[n];
  for (int i = 0; i < n; ++i) sums[i] = values[i];
  VAEKIT_UNROLL(3)
  for (int length = n / 2; length > 0; length /= 2) {
    for (int i = 0; i < length; ++i) sums[i] += sums[i + length];
  }
  return sums[0];
}

// Blocks of the noise begin where the stream says: so many elements before the segment's first. `stream` is the place of its row.
VAEKIT_DEVICE int before_first(const Segment& segment, uint64_t stream, int per_block) {
  return segment.length == 0 ? 0 : static_cast<int>((stream + static_cast<uint64_t>(segment.begin)) % per_block);
}

// Adds a thread's share of a segment's divergence to those of its group, and writes the sum.
template <class T>
VAEKIT_DEVICE void reduce(const Forward& p, const Segment& segment, T share) {
  T* kl = static_cast<T*>(p.kl);
  if (p.work.group() < kThreads) {
    const T sum = sum_over_threads(share, p.work.group());
    if (lane_of(p.work) == 0 && segment.row < p.work.rows) kl[segment.row] = sum;
  } else {
    const double sum = sum_over_block(share);
    if (threadIdx.x == 0) {
      if (p.segments) {
        p.segments[segment.row * p.work.segments + segment.number] = sum;
      } else {
        kl[segment.row] = static_cast<T>(sum);
      }
    }
  }
}

// --- device: the kernels ---------------------------------------------------------------------------------------------------

// Blocks that a multiprocessor has to hold at once, which bounds the registers: the most at which no architecture spills. They keep
// 24 to 60 KiB of loads in flight, where an H100 needs 18 (3.35 TB/s * 0.7 us / 132). Compute capability 7.5 has room for 4.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 750
template <class S>
constexpr int kBlocksAtOnce = sizeof(S) == 2 ? 3 : 4;
#else
template <class S>
constexpr int kBlocksAtOnce = sizeof(S) == 4 ? 5 : sizeof(S) == 8 ? 4 : 3;
#endif

// The usual call: one draw, noise from a key, a standard normal prior, kl summed, 16 bytes at a time.
template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<S>) forward_usual(__grid_constant__ const Forward p) {
  using T = typename Compute<S>::Type;
  constexpr int n = kLength<S>;
  const T limit = Real<T>::kExpLimit;
  const uint64_t seed = static_cast<uint64_t>(p.key[0]), offset = static_cast<uint64_t>(p.key[p.key_stride]);
  for_each_segment(p.work, [&](const Segment& segment) {
    const int64_t row = segment.row;
    T share = 0;
    for (int i = lane_of(p.work) * n; i < segment.length; i += p.work.group() * n) {
      const int64_t column = segment.begin + i, place = row * p.work.event + column;
      const auto mu = load_vector<S>(p.mu.data, p.mu.offset(row) + column);
      const auto logvar = load_vector<S>(p.logvar.data, p.logvar.offset(row) + column);
      Vector<S> z;
      VAEKIT_UNROLL(2)
      for (int block = 0; block < n; block += kPerBlock<T>) {
        T eps[kPerBlock<T>], kl[kPerBlock<T>];
        normals(seed, offset, p.start + place + block, eps);
        VAEKIT_UNROLL(4)
        for (int j = 0; j < kPerBlock<T>; ++j) {
          const T wide_mu = widen(mu.values[block + j]);
          const Divergence<T> d = divergence<true>(wide_mu, widen(logvar.values[block + j]), limit);
          narrow(draw<true>(wide_mu, d.sigma, eps[j]), z.values[block + j]);
          kl[j] = d.kl;
        }
        share += sum_of(kl);
      }
      store_vector(p.z, place, z);
    }
    reduce(p, segment, share);
  });
}

// Every call.
template <class S, bool vectors>
__global__ void __launch_bounds__(kThreads) forward_any(__grid_constant__ const Forward p) {
  using T = typename Compute<S>::Type;
  constexpr int n = vectors ? kLength<S> : kPerBlock<T>;
  const T limit = Real<T>::kExpLimit;
  const uint64_t seed = p.eps ? 0 : static_cast<uint64_t>(p.key[0]);
  const uint64_t offset = p.eps ? 0 : static_cast<uint64_t>(p.key[p.key_stride]);
  for_each_segment(p.work, [&](const Segment& segment) {
    const int64_t row = segment.row;
    const uint64_t stream = p.start + static_cast<uint64_t>(row * p.work.event);  // of the row's first element
    const int before = vectors ? 0 : before_first(segment, stream, kPerBlock<T>);
    T share = 0;
    for (int i = lane_of(p.work) * n - before; i < segment.length; i += p.work.group() * n) {
      const int from = i < 0 ? -i : 0, to = segment.length - i < n ? segment.length - i : n;
      const int64_t column = segment.begin + i, place = row * p.work.event + column;
      T mu[n], logvar[n], sigma[n], values[n];
      load<S, vectors>(p.mu, p.mu.offset(row), column, from, to, mu);
      load<S, vectors>(p.logvar, p.logvar.offset(row), column, from, to, logvar);
      T prior_mu[n] = {}, prior_logvar[n] = {};
      if (p.prior_mu) {
        load<S, vectors>(p.prior_mu, p.prior_mu.offset(row), column, from, to, prior_mu);
        load<S, vectors>(p.prior_logvar, p.prior_logvar.offset(row), column, from, to, prior_logvar);
      }
      VAEKIT_UNROLL(8)
      for (int i = 0; i < n; ++i) {
        const Divergence<T> d = p.prior_mu ? divergence_from<true>(mu[i], logvar[i], prior_mu[i], prior_logvar[i], limit)
                                           : divergence<true>(mu[i], logvar[i], limit);
        sigma[i] = d.sigma;
        values[i] = d.kl;
      }
      if (p.reduce) {
        share += sum_of(values);  // an element that does not exist has a divergence of exactly 0
      } else if (blockIdx.z == 0) {
        store<T, vectors>(p.kl, place, from, to, values);
      }
      for (int64_t k = blockIdx.z; k < p.samples; k += gridDim.z) {
        const int64_t sample = k * p.work.rows * p.work.event;
        if (!p.eps) {
          normals(seed, offset + static_cast<uint64_t>(k) * kSampleStride, stream + static_cast<uint64_t>(column), values);
        } else if (p.wide_eps) {
          load<T, vectors>(p.eps, p.eps.offset(row, k), column, from, to, values);
        } else {
          load<S, vectors>(p.eps, p.eps.offset(row, k), column, from, to, values);
        }
        VAEKIT_UNROLL(8)
        for (int i = 0; i < n; ++i) values[i] = draw<true>(mu[i], sigma[i], values[i]);
        store<S, vectors>(p.z, sample + place, from, to, values);
      }
    }
    if (p.reduce && blockIdx.z == 0) reduce(p, segment, share);
  });
}

template <class S>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce<S>) backward_usual(__grid_constant__ const Backward p) {
  using T = typename Compute<S>::Type;
  constexpr int n = kLength<S>;
  const T limit = Real<T>::kExpLimit;
  const uint64_t seed = static_cast<uint64_t>(p.key[0]), offset = static_cast<uint64_t>(p.key[p.key_stride]);
  for_each_segment(p.work, [&](const Segment& segment) {
    const int64_t row = segment.row;
    const T grad_kl = segment.length > 0 ? static_cast<const T*>(p.grad_kl.data)[p.grad_kl.offset(row)] : T(0);
    for (int i = lane_of(p.work) * n; i < segment.length; i += p.work.group() * n) {
      const int64_t column = segment.begin + i, place = row * p.work.event + column;
      const auto mu = load_vector<S>(p.mu.data, p.mu.offset(row) + column);
      const auto logvar = load_vector<S>(p.logvar.data, p.logvar.offset(row) + column);
      const auto grad_z = load_vector<S>(p.grad_z.data, p.grad_z.offset(row) + column);
      Vector<S> grad_mu, grad_logvar;
      VAEKIT_UNROLL(2)
      for (int block = 0; block < n; block += kPerBlock<T>) {
        T eps[kPerBlock<T>];
        normals(seed, offset, p.start + place + block, eps);
        VAEKIT_UNROLL(4)
        for (int j = 0; j < kPerBlock<T>; ++j) {
          const int k = block + j;
          const Gradient<T> g =
              gradient<true>(widen(mu.values[k]), widen(logvar.values[k]), eps[j], widen(grad_z.values[k]), grad_kl, limit);
          narrow(g.mu, grad_mu.values[k]);
          narrow(g.logvar, grad_logvar.values[k]);
        }
      }
      store_vector(p.grad_mu, row * p.grad_stride + column, grad_mu);
      store_vector(p.grad_logvar, row * p.grad_stride + column, grad_logvar);
    }
  });
}

template <class S, bool vectors>
__global__ void __launch_bounds__(kThreads) backward_any(__grid_constant__ const Backward p) {
  using T = typename Compute<S>::Type;
  constexpr int n = vectors ? kLength<S> : kPerBlock<T>;
  const T limit = Real<T>::kExpLimit;
  const uint64_t seed = p.eps ? 0 : static_cast<uint64_t>(p.key[0]);
  const uint64_t offset = p.eps ? 0 : static_cast<uint64_t>(p.key[p.key_stride]);
  const bool both = p.grad_z && p.grad_kl && p.samples == 1 && !p.prior_mu;  // rounded as in backward_usual
  for_each_segment(p.work, [&](const Segment& segment) {
    const int64_t row = segment.row;
    const uint64_t stream = p.start + static_cast<uint64_t>(row * p.work.event);
    const int before = vectors ? 0 : before_first(segment, stream, kPerBlock<T>);
    for (int i = lane_of(p.work) * n - before; i < segment.length; i += p.work.group() * n) {
      const int from = i < 0 ? -i : 0, to = segment.length - i < n ? segment.length - i : n;
      const int64_t column = segment.begin + i, place = row * p.work.event + column;
      T mu[n], logvar[n], grad_kl[n] = {}, grad_z[n] = {}, eps[n] = {};
      load<S, vectors>(p.mu, p.mu.offset(row), column, from, to, mu);
      load<S, vectors>(p.logvar, p.logvar.offset(row), column, from, to, logvar);
      if (p.grad_kl && p.reduce) {
        const T of_row = static_cast<const T*>(p.grad_kl.data)[p.grad_kl.offset(row)];
        VAEKIT_UNROLL(8)
        for (int i = 0; i < n; ++i) grad_kl[i] = of_row;
      } else if (p.grad_kl) {
        load<T, vectors>(p.grad_kl, p.grad_kl.offset(row), column, from, to, grad_kl);
      }
      T grad_mu[n] = {}, grad_logvar[n] = {};
      for (int64_t k = 0; p.grad_z && k < p.samples; ++k) {
        load<S, vectors>(p.grad_z, p.grad_z.offset(row, k), column, from, to, grad_z);
        if (!p.grad_logvar) {
          // No other gradient depends on the noise: eps stays 0.
        } else if (!p.eps) {
          normals(seed, offset + static_cast<uint64_t>(k) * kSampleStride, stream + static_cast<uint64_t>(column), eps);
        } else if (p.wide_eps) {
          load<T, vectors>(p.eps, p.eps.offset(row, k), column, from, to, eps);
        } else {
          load<S, vectors>(p.eps, p.eps.offset(row, k), column, from, to, eps);
        }
        VAEKIT_UNROLL(8)
        for (int i = 0; i < n; ++i) {
          grad_mu[i] += grad_z[i];
          grad_logvar[i] = multiply_add<true>(grad_z[i], eps[i], grad_logvar[i]);
        }
      }
      T prior_mu[n] = {}, prior_logvar[n] = {};
      if (p.prior_mu) {
        load<S, vectors>(p.prior_mu, p.prior_mu.offset(row), column, from, to, prior_mu);
        load<S, vectors>(p.prior_logvar, p.prior_logvar.offset(row), column, from, to, prior_logvar);
      }
      VAEKIT_UNROLL(8)
      for (int i = 0; i < n; ++i) {
        Gradient<T> g = {grad_mu[i], p.grad_z ? draw_gradient<true>(logvar[i], grad_logvar[i], limit) : T(0)};
        if (both) {
          g = gradient<true>(mu[i], logvar[i], eps[i], grad_z[i], grad_kl[i], limit);
        } else if (p.grad_kl && p.prior_mu) {
          const GradientFrom<T> f = divergence_gradient_from<true>(mu[i], logvar[i], prior_mu[i], prior_logvar[i], grad_kl[i], limit);
          g = {g.mu + f.posterior.mu, g.logvar + f.posterior.logvar};
          prior_mu[i] = f.prior.mu;
          prior_logvar[i] = f.prior.logvar;
        } else if (p.grad_kl) {
          g = add_divergence<true>(g, mu[i], logvar[i], grad_kl[i], limit);
        }
        grad_mu[i] = g.mu;
        grad_logvar[i] = g.logvar;
      }
      const int64_t packed = row * p.grad_stride + column;
      if (p.grad_mu) store<S, vectors>(p.grad_mu, packed, from, to, grad_mu);
      if (p.grad_logvar) store<S, vectors>(p.grad_logvar, packed, from, to, grad_logvar);
      if (p.grad_prior_mu) store<S, vectors>(p.grad_prior_mu, place, from, to, prior_mu);
      if (p.grad_prior_logvar) store<S, vectors>(p.grad_prior_logvar, place, from, to, prior_logvar);
    }
  });
}

// --- host: how a call is laid out ------------------------------------------------------------------------------------------

// How many doubles Forward::segments has to hold.
inline int64_t segments_of(const Forward& p) {
  return p.reduce && p.work.event > kSegment ? p.work.rows * ceiling(p.work.event, kSegment) : 0;
}

inline bool is_usual(const Operands& p) {
  return !p.eps && !p.prior_mu && p.samples == 1 && p.reduce;
}

template <class S>
bool takes_vectors(const Operands& p) {
  using T = typename Compute<S>::Type;
  return p.work.event % kLength<S> == 0 && takes_vectors(p.mu, sizeof(S)) && takes_vectors(p.logvar, sizeof(S)) &&
         takes_vectors(p.prior_mu, sizeof(S)) && takes_vectors(p.prior_logvar, sizeof(S)) &&
         takes_vectors(p.eps, p.wide_eps ? sizeof(T) : sizeof(S));
}

template <class S, class Launch>
void forward(Forward p, int processors, const Launch& launch) {
  using T = typename Compute<S>::Type;
  const bool vectors = takes_vectors<S>(p);
  share_rows(p.work, vectors ? kLength<S> : kPerBlock<T>);
  const Grid grid = grid_of(p.work, p.samples, processors);
  if (vectors && is_usual(p)) {
    launch(forward_usual<S>, grid, p);
  } else if (vectors) {
    launch(forward_any<S, true>, grid, p);
  } else {
    launch(forward_any<S, false>, grid, p);
  }
  if (!p.segments) return;
  const Parts parts = {p.segments, p.work.rows, p.work.segments, p.work.segments, 1, p.kl};
  add_up<T>(parts, processors, launch);
}

// Samples are added up in their order, by the thread that has the element.
template <class S, class Launch>
void backward(Backward p, int processors, const Launch& launch) {
  using T = typename Compute<S>::Type;
  const bool vectors =
      takes_vectors<S>(p) && takes_vectors(p.grad_z, sizeof(S)) && (p.reduce || takes_vectors(p.grad_kl, sizeof(T)));
  share_rows(p.work, vectors ? kLength<S> : kPerBlock<T>);
  const Grid grid = grid_of(p.work, 1, processors);
  if (vectors && is_usual(p) && p.grad_z && p.grad_kl && p.grad_mu && p.grad_logvar) {
    launch(backward_usual<S>, grid, p);
  } else if (vectors) {
    launch(backward_any<S, true>, grid, p);
  } else {
    launch(backward_any<S, false>, grid, p);
  }
}

}  // namespace cuda
}  // namespace vaekit
