// The CUDA kernels that the operators vaekit::*_nll share, on raw pointers, and how a call is laid out: all but the arithmetic of an
// element. No torch header and no CUDA header.
//
// Forward gives a row (one example) to a group of threads (rows.cuh); elements are added up by sums.cuh, so that the sum hardly depends on
// their order, and that order follows from the shape and the layout alone. Double arithmetic is left to what happens once for a row or
// less: where a row is so long that several blocks share it, and for the gradient of a parameter that all elements share.
//
// Backward has no sums but for that gradient. One for each feature is added up by a thread that has the column, over every so many rows.
//
// An operator's arithmetic is a type with
//     kTakesVectors      whether a thread takes 16 bytes of each operand at a time, where they lie so, or else an element
//     values             nll of n elements, of a place to read parameters from and x
//     gradients          of n elements, to be written plane by plane to another place; and in `slopes` the shared parameter's
#pragma once

#include "sums.cuh"

namespace vaekit {
namespace cuda {

enum class Number { kFloat, kDouble, kBFloat16, kHalf };  // in storage

struct Nll {
  Work work;
  int64_t rows, event, planes;  // elements of a row, and parameters of each
  View parameters, x;           // a plane is parameters' `sample`
  View shared;                  // one number or one for each feature of `features`, or absent
  Number of_x;
  bool ignore_missing;  // where x is NaN
  int64_t features;      // of which the shared parameter has one number each, or 0
  double start;         // the shared parameter where it is absent
  int64_t option;       // the operator's own
  double constants[3];  // the operator's own
};

struct NllForward : Nll {
  void* nll;         // [rows]
  double* segments;  // [rows, segments], or null where a row is one segment
};

struct NllBackward : Nll {
  View grad;        // [rows]
  void* gradients;  // [rows, planes, event]
  double* parts;    // of the shared parameter's gradient: [rows, segments] or [work.rows, features]; null where it is not wanted
};

// --- device: elements ------------------------------------------------------------------------------------------------------

// n elements from `place` on; of several, at a multiple of their size.
template <class X, int n, class T>
VAEKIT_INLINE void read(const void* data, int64_t place, T (&out)[n]) {
  constexpr int length = n < kLength<X> ? n : kLength<X>;
  struct alignas(length * sizeof(X)) Piece {
    X values[length];
  };
  VAEKIT_UNROLL(2)
  for (int start = 0; start < n; start += length) {
    const Piece piece = *reinterpret_cast<const Piece*>(static_cast<const X*>(data) + (place + start));
    VAEKIT_UNROLL(8)
    for (int i = 0; i < length; ++i) out[start + i] = static_cast<T>(widen(piece.values[i]));
  }
}

// n elements of a row, from `column` on.
template <class S, int n>
struct Place {
  using T = typename Compute<S>::Type;
  const Nll& p;
  int64_t row, column;

  VAEKIT_INLINE void plane(int64_t number, T (&out)[n]) const {
    read<S>(p.parameters.data, p.parameters.offset(row, number) + column * p.parameters.column_stride, out);
  }

  VAEKIT_INLINE void x(T (&out)[n]) const {
    const int64_t place = p.x.offset(row) + column * p.x.column_stride;
    if constexpr (sizeof(T) == 8) {
      read<T>(p.x.data, place, out);
    } else if (p.of_x == Number::kFloat) {
      read<T>(p.x.data, place, out);
    } else if (p.of_x == Number::kBFloat16) {
      read<BFloat16>(p.x.data, place, out);
    } else {
      read<Half>(p.x.data, place, out);
    }
  }

  // The shared parameter, of one element or for all alike.
  VAEKIT_INLINE T shared() const {
    if (!p.shared) return static_cast<T>(p.start);
    const int64_t place = p.features == 0 ? 0 : p.features == p.event ? column : column % p.features;
    return static_cast<const T*>(p.shared.data)[place * p.shared.column_stride];
  }
};

// Where the gradients of n elements go.
template <class S, int n>
struct GradientsOf {
  using T = typename Compute<S>::Type;
  const NllBackward& p;
  int64_t row, column;
  const T (&x)[n];

  VAEKIT_INLINE bool is_missing(int i) const { return p.ignore_missing && x[i] != x[i]; }

  VAEKIT_INLINE void plane(int64_t number, const T (&values)[n]) const {
    struct alignas(n * sizeof(S)) Piece {
      S values[n];
    } piece;
    VAEKIT_UNROLL(8)
    for (int i = 0; i < n; ++i) narrow(is_missing(i) ? T(0) : values[i], piece.values[i]);
    static_cast<Piece*>(p.gradients)[static_cast<uint64_t>((row * p.planes + number) * p.event + column) / n] = piece;
  }
};

// --- device: the kernels ---------------------------------------------------------------------------------------------------

// Adds up a group's shares of a segment, and writes the sum: into `segments` where there are several or all are wanted in double.
template <class T>
VAEKIT_DEVICE void finish(const Work& work, const Segment& segment, Sum<T> sum, T* rows, double* segments) {
  const bool is_block = work.group() == kThreads;
  sum = is_block ? sum_over_block(sum) : sum_over_threads(sum, work.group());
  if (lane_of(work) != 0 || segment.row >= work.rows) return;
  if (segments) {
    segments[segment.row * work.segments + segment.number] = sum.wide();
  } else {
    rows[segment.row] = sum.value();
  }
}

template <class A, class S, int n>
__global__ void __launch_bounds__(kThreads) nll_forward(__grid_constant__ const NllForward p) {
  using T = typename Compute<S>::Type;
  for_each_segment(p.work, [&](const Segment& segment) {
    Sum<T> sum = {};
    for (int i = lane_of(p.work) * n; i < segment.length; i += p.work.group() * n) {
      const Place<S, n> place = {p, segment.row, segment.begin + i};
      T x[n], nll[n];
      place.x(x);
      A::values(place, x, nll);
      VAEKIT_UNROLL(8)
      for (int j = 0; j < n; ++j) sum.add(p.ignore_missing && x[j] != x[j] ? T(0) : nll[j]);
    }
    finish(p.work, segment, sum, static_cast<T*>(p.nll), p.segments);
  });
}

// Where sums go by feature, work's rows are parts of the data's rows, every so many of them, and its event the features, of which a
// thread has one.
template <class A, class S, int n>
__global__ void __launch_bounds__(kThreads) nll_backward(__grid_constant__ const NllBackward p) {
  using T = typename Compute<S>::Type;
  const bool by_feature = p.features > 0;
  const int64_t step = by_feature ? p.features : p.work.group() * n, row_step = by_feature ? p.work.rows : p.rows;
  for_each_segment(p.work, [&](const Segment& segment) {
    Sum<T> sum = {};
    const int lane = lane_of(p.work) * n;
    const int64_t begin = segment.begin + lane, end = by_feature ? p.event : segment.begin + segment.length;
    for (int64_t row = lane < segment.length ? segment.row : p.rows; row < p.rows; row += row_step) {
      const T grad = static_cast<const T*>(p.grad.data)[p.grad.offset(row)];
      for (int64_t column = begin; column < end; column += step) {
        const Place<S, n> place = {p, row, column};
        T x[n], slopes[n] = {};
        place.x(x);
        const GradientsOf<S, n> gradients = {p, row, column, x};
        A::gradients(place, x, grad, gradients, slopes);
        VAEKIT_UNROLL(8)
        for (int j = 0; j < n; ++j) sum.add(gradients.is_missing(j) ? T(0) : slopes[j]);
      }
    }
    if (!p.parts) return;
    if (!by_feature) {
      finish(p.work, segment, sum, static_cast<T*>(nullptr), p.parts);
    } else if (lane < segment.length) {
      p.parts[segment.row * p.features + begin] = sum.wide();
    }
  });
}

// --- host: how a call is laid out ------------------------------------------------------------------------------------------

constexpr int64_t kRowsOfPart = 8, kMostParts = 256;  // so that the parts of sums by feature need little memory

// How the rows of forward, and of backward but for sums by feature, are shared by groups of threads that take n elements at a time.
inline void share_rows(Nll& p, int n) {
  p.work.rows = p.rows, p.work.event = p.event;
  share_rows(p.work, n);
}

inline void share_features(Nll& p) {
  p.work.event = p.features;
  share_rows(p.work, 1);
  const int64_t parts = at_most(p.rows / kRowsOfPart, kMostParts * (kThreads / p.work.group()));
  p.work.rows = parts < 1 ? 1 : parts;
  p.work.segment = p.work.group();
  p.work.segments = ceiling(p.features, p.work.segment);
}

template <class A, class S>
bool takes_vectors(const Nll& p) {
  constexpr int n = kLength<S>;
  const int64_t of_x = p.of_x == Number::kDouble ? 8 : p.of_x == Number::kFloat ? 4 : 2, most = n * of_x;
  return A::kTakesVectors && p.features == 0 && p.event % n == 0 && takes_vectors(p.parameters, sizeof(S)) &&
         takes_vectors(p.x, of_x, most < kVectorBytes ? most : kVectorBytes);
}

// How many doubles NllForward::segments has to hold.
inline int64_t segments_of(const NllForward& p) { return p.event > kSegment ? p.rows * ceiling(p.event, kSegment) : 0; }

// How many doubles NllBackward::parts has to hold where the shared parameter's gradient is wanted.
inline int64_t parts_of(NllBackward p) {
  if (p.features == 0) return p.rows * ceiling(p.event, at_most(p.event, kSegment));
  share_features(p);
  return p.work.rows * p.features;
}

template <class A, class S, class Launch>
void forward_nll(NllForward p, int processors, const Launch& launch) {
  using T = typename Compute<S>::Type;
  if (takes_vectors<A, S>(p)) {
    share_rows(p, kLength<S>);
    if constexpr (A::kTakesVectors) launch(nll_forward<A, S, kLength<S>>, grid_of(p.work, 1, processors), p);
  } else {
    share_rows(p, 1);
    launch(nll_forward<A, S, 1>, grid_of(p.work, 1, processors), p);
  }
  if (!p.segments) return;
  const Parts parts = {p.segments, p.rows, p.work.segments, p.work.segments, 1, p.nll};
  add_up<T>(parts, processors, launch);
}

// `shared` is where the shared parameter's gradient goes.
template <class A, class S, class Launch>
void backward_nll(NllBackward p, void* shared, int processors, const Launch& launch) {
  using T = typename Compute<S>::Type;
  if (p.features > 0) {
    share_features(p);
    launch(nll_backward<A, S, 1>, grid_of(p.work, 1, processors), p);
  } else if (takes_vectors<A, S>(p)) {
    share_rows(p, kLength<S>);
    if constexpr (A::kTakesVectors) launch(nll_backward<A, S, kLength<S>>, grid_of(p.work, 1, processors), p);
  } else {
    share_rows(p, 1);
    launch(nll_backward<A, S, 1>, grid_of(p.work, 1, processors), p);
  }
  if (!p.parts) return;
  const Parts parts = p.features > 0 ? Parts{p.parts, p.features, 1, p.work.rows, p.features, shared}
                                    : Parts{p.parts, 1, 0, p.work.rows * p.work.segments, 1, shared};
  add_up<T>(parts, processors, launch);
}

}  // namespace cuda
}  // namespace vaekit
