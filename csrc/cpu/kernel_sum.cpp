// vaekit::kernel_sum and its backward for the CPU. The specification is vaekit/ops/kernel_sum.py.
//
// A few rows i at a time, over chunks of points j: the squared distances from differences, latent by latent, then every bandwidth's
// kernel. Kernels are added up in double, block of rows by block of rows, in an order that no number of threads changes. Within one
// sample, whose kernels are symmetric, forward looks at the points after each row. What is held is both samples by latent.
#include "kernel_sum.h"

#include <vector>

#include "../pair_operands.h"
#include "instruction_sets.h"
#include "library.h"
#include "pairs.h"
#include "views.h"

#define VAEKIT_LOOPS "kernel_sum_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

constexpr const char* kName = kKernelSum;
using Arguments = KernelSumArguments;
constexpr int64_t kPerKernel = 4;  // what a kernel costs, in latents

template <class T>
const KernelLoops<T>& loops() {
  static const KernelLoops<T>& chosen = VAEKIT_TABLE_OF(instruction_set(), kernel_sum::kLoops<T>);
  return chosen;
}

// --- what a call works on --------------------------------------------------------------------------------------------------

template <class T>
struct Squared {
  alignas(64) T values[kRows][kChunk<T>];
};

// Both samples by latent, padded with latents in which they agree.
template <class T>
class Problem {
 public:
  explicit Problem(const Arguments& a)
      : a_(a), rows(a.x.size(0)), points(a.points().size(0)), latents(rounded_up(a.x.size(1), kLatentsAtOnce)),
        columns(rounded_up(points, kLanes)), y(latents * columns, a.x, kName), x(rows * latents, a.x, kName) {
    std::fill(y + 0, y + latents * columns, T(0));
    transpose(input_of(a.points()), points, a.x.size(1), columns, y);
    const Input in = input_of(a.x);
    torch::stable::parallel_for(0, rows, grain(latents), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) copy_row(in, i);
    });
  }

  int64_t blocks() const { return (rows + kRows - 1) / kRows; }
  int count(int64_t block) const { return static_cast<int>(std::min<int64_t>(kRows, rows - block * kRows)); }
  int length(int64_t begin) const { return static_cast<int>(std::min<int64_t>(kChunk<T>, columns - begin)); }
  int64_t cost(int64_t passes) const {
    return kRows * columns * (passes * latents + kPerKernel * static_cast<int64_t>(a_.bandwidths.size()));
  }

  // The squared distances of a block's rows from the points of a chunk, and infinity beyond the last one.
  void measure(int64_t block, int64_t begin, Squared<T>& squared) const {
    const int n = length(begin);
    for (int r = 0; r < count(block); ++r) std::fill_n(squared.values[r], n, T(0));
    for (int64_t d = 0; d < latents; d += kLatentsAtOnce) {
      for (int r = 0; r < count(block); ++r) {
        loops<T>().add_squares(x + ((block * kRows + r) * latents + d), y + (d * columns + begin), columns, n, squared.values[r]);
      }
    }
    if (begin + n <= points) return;
    for (int r = 0; r < count(block); ++r) {
      std::fill(squared.values[r] + std::max<int64_t>(0, points - begin), squared.values[r] + n, std::numeric_limits<T>::infinity());
    }
  }

 private:
  void copy_row(const Input& in, int64_t i) {
    const int64_t width = a_.x.size(1);
    T buffer[kChunk<T>];
    T* row = x + i * latents;
    for (int64_t d = 0; d < width; d += kChunk<T>) {
      const int n = static_cast<int>(std::min<int64_t>(kChunk<T>, width - d));
      const T* values = in.read<T>(i * width + d, n, buffer);
      std::copy(values, values + n, row + d);
    }
    std::fill(row + width, row + latents, T(0));
  }

  const Arguments& a_;

 public:
  const int64_t rows, points, latents, columns;
  const Array<T> y, x;
};

// --- forward ---------------------------------------------------------------------------------------------------------------

template <class T>
double sum_over_bandwidths(const Arguments& a, const T* squared, int n) {
  double sum = 0;
  for (const double bandwidth : a.bandwidths) {
    sum += loops<T>().sum[a.is_gaussian](squared, n, static_cast<T>(bandwidth), kLowestExponent<T>);
  }
  return sum;
}

// Of a block's rows with all points, or within one sample with itself and twice with those after it.
template <class T>
double sum_of_block(const Arguments& a, const Problem<T>& p, int64_t block) {
  Squared<T> squared;
  double sum = 0, itself = 0;
  const int64_t start = a.y ? 0 : block * kRows / kLanes * kLanes;
  for (int64_t begin = start; begin < p.columns; begin += kChunk<T>) {
    p.measure(block, begin, squared);
    for (int r = 0; r < p.count(block); ++r) {
      const int64_t own = block * kRows + r - begin;
      if (!a.y && own >= 0 && own < kChunk<T>) {
        T alone[kLanes];
        std::fill(alone, alone + kLanes, std::numeric_limits<T>::infinity());
        alone[0] = squared.values[r][own];
        itself += sum_over_bandwidths(a, alone, kLanes);
        std::fill(squared.values[r], squared.values[r] + own + 1, std::numeric_limits<T>::infinity());
      }
      sum += sum_over_bandwidths(a, squared.values[r], p.length(begin));
    }
  }
  return a.y ? sum : 2.0 * sum + itself;
}

template <class T>
double forward_as(const Arguments& a) {
  const Problem<T> p(a);
  std::vector<double> sums(p.blocks());
  torch::stable::parallel_for(0, p.blocks(), grain(p.cost(1)), [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) {
      const int64_t block = i % 2 == 0 ? i / 2 : p.blocks() - 1 - i / 2;  // long and short ones by turns
      sums[block] = sum_of_block(a, p, block);
    }
  });
  double total = 0;
  for (const double sum : sums) total += sum;
  return total;
}

Tensor forward(const Tensor& x, const OptionalTensor& y, std::vector<double> bandwidths, bool is_gaussian) {
  const Arguments a = {x, y, bandwidths, is_gaussian};
  check(a);
  Tensor out = empty(nullptr, 0, ScalarType::Double, x, kName);
  *static_cast<double*>(out.mutable_data_ptr()) = x.scalar_type() == ScalarType::Double ? forward_as<double>(a) : forward_as<float>(a);
  return out;
}

// --- backward --------------------------------------------------------------------------------------------------------------

template <class T>
void backward_block(const Arguments& a, const Problem<T>& p, int64_t block, double factor, T* out) {
  Squared<T> squared, slopes;
  std::vector<double> sums(kRows * p.latents, 0.0);
  for (int64_t begin = 0; begin < p.columns; begin += kChunk<T>) {
    const int n = p.length(begin);
    p.measure(block, begin, squared);
    for (int r = 0; r < p.count(block); ++r) {
      std::fill_n(slopes.values[r], n, T(0));
      for (const double bandwidth : a.bandwidths) {
        loops<T>().add_slopes[a.is_gaussian](squared.values[r], n, static_cast<T>(bandwidth), kLowestExponent<T>, slopes.values[r]);
      }
    }
    for (int64_t d = 0; d < p.latents; d += kLatentsAtOnce) {
      for (int r = 0; r < p.count(block); ++r) {
        loops<T>().add_differences(p.x + ((block * kRows + r) * p.latents + d), p.y + (d * p.columns + begin), p.columns, n,
                                   slopes.values[r], sums.data() + r * p.latents + d);
      }
    }
  }
  const int64_t width = a.x.size(1);
  for (int r = 0; r < p.count(block); ++r) {
    T* row = out + (block * kRows + r) * width;
    for (int64_t d = 0; d < width; ++d) row[d] = static_cast<T>(factor * sums[r * p.latents + d]);
  }
}

template <class T>
void backward_as(const Arguments& a, double grad, const Tensor& out) {
  const Problem<T> p(a);
  const double factor = (a.y ? -2.0 : -4.0) * grad;  // within one sample each point is on both sides
  T* gradients = static_cast<T*>(out.mutable_data_ptr());
  torch::stable::parallel_for(0, p.blocks(), grain(p.cost(2)), [&](int64_t from, int64_t to) {
    for (int64_t block = from; block < to; ++block) backward_block(a, p, block, factor, gradients);
  });
}

// Of x.
Tensor backward(const Tensor& grad, const Tensor& x, const OptionalTensor& y, std::vector<double> bandwidths, bool is_gaussian) {
  const Arguments a = {x, y, bandwidths, is_gaussian};
  check(a);
  check_gradient(grad, a);
  const double factor = *static_cast<const double*>(grad.const_data_ptr());
  Tensor out = empty(x.sizes().data(), 2, x.scalar_type(), x, kName);
  x.scalar_type() == ScalarType::Double ? backward_as<double>(a, factor, out) : backward_as<float>(a, factor, out);
  return out;
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(kernel_sum, vaekit::forward, vaekit::backward)
