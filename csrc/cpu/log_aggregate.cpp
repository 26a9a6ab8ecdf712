// vaekit::log_aggregate and its backward for the CPU. The specification is vaekit/ops/log_aggregate.py.
//
// Everything is laid out by latent, so that the examples j of a latent are contiguous. Forward takes a few rows i at a time and
// goes over chunks of j, latent by latent; logarithms of sums of exponentials are carried from chunk to chunk as a largest term and
// a sum relative to it, of which the pair of a row with its own example is the first. Backward takes a block of rows at a time:
// first the weights of all pairs of the block in q(z), then, for every chunk and latent, the sums over the block's rows. No sum
// depends on how many threads there are. What is held is a few arrays of the inputs' size, and the weights of a block.
#include "log_aggregate.h"

#include "../pair_operands.h"
#include "instruction_sets.h"
#include "library.h"
#include "pairs.h"
#include "views.h"

#define VAEKIT_LOOPS "log_aggregate_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

constexpr const char* kName = kLogAggregate;
using Arguments = AggregateArguments;
constexpr int kLatentsPerSum = 8;            // whose densities are added up before they come to the sum over all
constexpr int64_t kWeightsAtOnce = 1 << 18;  // of a block of rows with all examples
constexpr int64_t kMostRows = 256;           // of a block
constexpr int kExamples = 32, kLatents = 64;  // of a tile that is written at a time

template <class T>
const AggregateLoops<T>& loops() {
  static const AggregateLoops<T>& chosen = VAEKIT_TABLE_OF(instruction_set(), log_aggregate::kLoops<T>);
  return chosen;
}

// --- what a call works on --------------------------------------------------------------------------------------------------

// By latent: of the examples mean, scale and peak, padded with examples that are nowhere; of the rows what they add to their mean,
// and the densities of their own examples.
template <class T>
struct Problem {
  int64_t rows, examples, latents, first, columns, row_stride;
  double own_weight;
  AggregateLimits<T> limits;
  Array<T> mean, scale, peak, shift, own, own_joint;

  explicit Problem(const Arguments& a)
      : rows(a.eps.size(0)), examples(a.mu.size(0)), latents(a.mu.size(1)), first(a.first), columns(rounded_up(examples, kLanes)),
        row_stride(rounded_up(rows, kLanes)), own_weight(a.own), mean(latents * columns, a.mu, kName),
        scale(latents * columns, a.mu, kName), peak(latents * columns, a.mu, kName), shift(latents * row_stride, a.mu, kName),
        own(latents * row_stride, a.mu, kName), own_joint(row_stride, a.mu, kName) {
    transpose(input_of(a.mu), examples, latents, columns, mean);
    transpose(input_of(a.logvar), examples, latents, columns, scale);
    transpose(input_of(a.eps), rows, latents, row_stride, shift);
    torch::stable::parallel_for(0, latents, grain(columns + rows), [&](int64_t from, int64_t to) {
      for (int64_t d = from; d < to; ++d) prepare(d);
    });
    torch::stable::parallel_for(0, rows, grain(latents), [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) {
        double sum = 0;
        for (int64_t d = 0; d < latents; ++d) sum += own[d * row_stride + i];
        own_joint[i] = static_cast<T>(sum + own_weight);
      }
    });
  }

  int64_t chunks() const { return (columns + kChunk<T> - 1) / kChunk<T>; }
  int length(int64_t start) const { return static_cast<int>(std::min<int64_t>(kChunk<T>, columns - start)); }
  bool ends_sum(int64_t d) const { return d % kLatentsPerSum == kLatentsPerSum - 1 || d == latents - 1; }
  AggregateRow<T> row(int64_t d, int64_t i) const { return {mean[d * columns + first + i], shift[d * row_stride + i]}; }

 private:
  // scale holds logvar, and shift eps.
  void prepare(int64_t d) {
    T logvar[kChunk<T>], eps[kChunk<T>];
    for (int64_t i = 0; i < rows; i += kChunk<T>) {
      const int n = static_cast<int>(std::min<int64_t>(kChunk<T>, rows - i));
      T* shifts = shift + (d * row_stride + i);
      std::copy(shifts, shifts + n, eps);
      loops<T>().rows(scale + (d * columns + first + i), eps, n, limits, shifts, own + (d * row_stride + i));
    }
    for (int64_t j = 0; j < examples; j += kChunk<T>) {
      const int n = static_cast<int>(std::min<int64_t>(kChunk<T>, examples - j));
      T* scales = scale + (d * columns + j);
      std::copy(scales, scales + n, logvar);
      loops<T>().columns(logvar, n, limits, scales, peak + (d * columns + j));
    }
    for (int64_t j = examples; j < columns; ++j) {
      mean[d * columns + j] = T(0);
      scale[d * columns + j] = T(1);
      peak[d * columns + j] = -std::numeric_limits<T>::infinity();
    }
  }
};

// The examples of a chunk in a latent, of which one at a time can be left out: as if it were nowhere.
template <class T>
class Chunk {
 public:
  Chunk(const Problem<T>& p, int64_t start, int64_t first_row, int64_t rows)
      : p_(p), start_(start), n_(p.length(start)),
        holds_own_(p.first + first_row < start + n_ && start < p.first + first_row + rows) {}

  int length() const { return n_; }

  void enter(int64_t d) {
    const int64_t place = d * p_.columns + start_;
    columns_ = {p_.mean + place, p_.scale + place, p_.peak + place};
    if (holds_own_) {
      std::copy(columns_.mean, columns_.mean + n_, mean_);
      std::copy(columns_.peak, columns_.peak + n_, peak_);
      columns_.mean = mean_;
      columns_.peak = peak_;
    }
  }

  // f(columns), without the example of row i.
  template <class F>
  void without_own(int64_t i, const F& f) {
    const int64_t own = p_.first + i - start_;
    const bool is_here = holds_own_ && 0 <= own && own < n_;
    const T mean = is_here ? mean_[own] : T(0), peak = is_here ? peak_[own] : T(0);
    if (is_here) mean_[own] = T(0), peak_[own] = -std::numeric_limits<T>::infinity();
    f(columns_);
    if (is_here) mean_[own] = mean, peak_[own] = peak;
  }

 private:
  const Problem<T>& p_;
  int64_t start_;
  int n_;
  bool holds_own_;
  AggregateColumns<T> columns_;
  alignas(64) T mean_[kChunk<T>], peak_[kChunk<T>];
};

// --- forward ---------------------------------------------------------------------------------------------------------------

template <class T>
void first_term(T density, T& top, T& sum) {
  top = density;
  sum = density == -std::numeric_limits<T>::infinity() ? T(0) : T(1);
}

// Kept apart from the vector code: sums that are 0, infinite or NaN.
template <class T>
void finish(const T* top, const T* sum, int64_t n, T* out) {
  loops<T>().finish(top, sum, static_cast<int>(n), out);
  for (int64_t i = 0; i < n; ++i) {
    if (!(sum[i] >= std::numeric_limits<T>::min() && sum[i] <= std::numeric_limits<T>::max()) || std::isinf(top[i])) {
      out[i] = top[i] == std::numeric_limits<T>::infinity() ? top[i] : finite_or_zero(top[i]) + std::log(sum[i]);
    }
  }
}

template <class T>
class Forward {
 public:
  Forward(const Problem<T>& p, const Tensor& joint, const Tensor& marginals)
      : p_(p), joint_(static_cast<T*>(joint.mutable_data_ptr())), marginals_(static_cast<T*>(marginals.mutable_data_ptr())),
        sums_(p.rows * p.latents, joint, kName) {}

  void run() {
    const int64_t blocks = (p_.rows + kRows - 1) / kRows;
    torch::stable::parallel_for(0, blocks, grain(kRows * p_.columns * p_.latents), [&](int64_t from, int64_t to) {
      for (int64_t block = from; block < to; ++block) {
        const int64_t start = block * kRows;
        rows(start, static_cast<int>(std::min<int64_t>(kRows, p_.rows - start)));
      }
    });
  }

 private:
  void rows(int64_t start, int count) {
    T tops[kRows], sums[kRows];
    for (int r = 0; r < count; ++r) {
      const int64_t i = start + r;
      first_term(p_.own_joint[i], tops[r], sums[r]);
      for (int64_t d = 0; d < p_.latents; ++d) {
        const int64_t place = i * p_.latents + d;
        first_term(p_.own[d * p_.row_stride + i] + static_cast<T>(p_.own_weight), marginals_[place], sums_[place]);
      }
    }
    for (int64_t c = 0; c < p_.chunks(); ++c) chunk(c * kChunk<T>, start, count, tops, sums);
    finish(tops, sums, count, joint_ + start);
    for (int64_t i = start; i < start + count; ++i) {
      T* row = marginals_ + i * p_.latents;
      T tops_of_row[kLatents];
      for (int64_t d = 0; d < p_.latents; d += kLatents) {
        const int64_t n = std::min<int64_t>(kLatents, p_.latents - d);
        std::copy(row + d, row + d + n, tops_of_row);
        finish(tops_of_row, sums_ + (i * p_.latents + d), n, row + d);
      }
    }
  }

  void chunk(int64_t begin, int64_t start, int count, T* tops, T* sums) {
    alignas(64) T part[kRows][kChunk<T>] = {}, total[kRows][kChunk<T>] = {}, density[kChunk<T>];
    Chunk<T> chunk(p_, begin, start, count);
    const int n = chunk.length();
    for (int64_t d = 0; d < p_.latents; ++d) {
      chunk.enter(d);
      for (int r = 0; r < count; ++r) {
        const int64_t i = start + r, place = i * p_.latents + d;
        chunk.without_own(i, [&](const AggregateColumns<T>& columns) {
          const T largest = loops<T>().densities(p_.row(d, i), columns, n, part[r], density);
          loops<T>().add_terms(density, n, largest, p_.limits.lowest, marginals_ + place, sums_ + place);
        });
        if (p_.ends_sum(d)) loops<T>().move(part[r], n, total[r]);
      }
    }
    for (int r = 0; r < count; ++r) {
      loops<T>().add_terms(total[r], n, loops<T>().maximum(total[r], n), p_.limits.lowest, tops + r, sums + r);
    }
  }

  const Problem<T>& p_;
  T *joint_, *marginals_;
  Array<T> sums_;
};

template <class T>
void forward_as(const Arguments& a, const Tensor& joint, const Tensor& marginals) {
  const Problem<T> p(a);
  Forward<T>(p, joint, marginals).run();
}

std::tuple<Tensor, Tensor> forward(const Tensor& mu, const Tensor& logvar, const Tensor& eps, int64_t first, double own) {
  const Arguments a = {mu, logvar, eps, first, own};
  check(a);
  Tensor joint = empty(eps.sizes().data(), 1, mu.scalar_type(), mu, kName);
  Tensor marginals = empty(eps.sizes().data(), 2, mu.scalar_type(), mu, kName);
  if (eps.size(0) > 0) {
    mu.scalar_type() == ScalarType::Double ? forward_as<double>(a, joint, marginals) : forward_as<float>(a, joint, marginals);
  }
  return {joint, marginals};
}

// --- backward --------------------------------------------------------------------------------------------------------------

struct Given {
  const Tensor &of_joint, &of_marginals, &joint, &marginals;  // gradients and results of forward
};

template <class T>
class Backward {
 public:
  Backward(const Arguments& a, const Given& given, const Tensor& of_mu, const Tensor& of_logvar)
      : p_(a), joint_(p_.row_stride, a.mu, kName), of_joint_(p_.row_stride, a.mu, kName),
        marginals_(p_.latents * p_.row_stride, a.mu, kName), of_marginals_(p_.latents * p_.row_stride, a.mu, kName),
        block_(rows_at_once()), weights_(block_ * p_.columns, a.mu, kName), own_weights_(block_, a.mu, kName),
        parts_(p_.chunks() * p_.latents * block_, a.mu, kName), of_mean_(p_.latents * p_.columns, a.mu, kName),
        of_scale_(p_.latents * p_.columns, a.mu, kName), of_row_(p_.latents * p_.row_stride, a.mu, kName),
        of_mu_(static_cast<T*>(of_mu.mutable_data_ptr())), of_logvar_(static_cast<T*>(of_logvar.mutable_data_ptr())) {
    transpose(input_of(given.joint), p_.rows, 1, p_.row_stride, joint_);
    transpose(input_of(given.of_joint), p_.rows, 1, p_.row_stride, of_joint_);
    transpose(input_of(given.marginals), p_.rows, p_.latents, p_.row_stride, marginals_);
    transpose(input_of(given.of_marginals), p_.rows, p_.latents, p_.row_stride, of_marginals_);
    std::fill(of_mean_ + 0, of_mean_ + p_.latents * p_.columns, 0.0);
    std::fill(of_scale_ + 0, of_scale_ + p_.latents * p_.columns, 0.0);
  }

  void run() {
    const int64_t chunks = p_.chunks();
    for (int64_t start = 0; start < p_.rows; start += block_) {
      const int64_t count = std::min(block_, p_.rows - start), groups = (count + kRows - 1) / kRows;
      torch::stable::parallel_for(0, groups * chunks, grain(kRows * p_.length(0) * p_.latents), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) {
          const int64_t row = i % groups * kRows;
          joint_weights(i / groups * kChunk<T>, start + row, static_cast<int>(std::min<int64_t>(kRows, count - row)),
                        weights_ + row * p_.columns);
        }
      });
      loops<T>().own_weights(p_.own_joint + start, joint_ + start, of_joint_ + start, static_cast<int>(count), p_.limits.lowest,
                             own_weights_ + 0);
      torch::stable::parallel_for(0, chunks * p_.latents, grain(count * p_.length(0)), [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) add_rows(i / p_.latents, i % p_.latents, start, count);
      });
      torch::stable::parallel_for(0, p_.latents, grain(count * chunks), [&](int64_t from, int64_t to) {
        for (int64_t d = from; d < to; ++d) add_chunks(d, start, count);
      });
    }
    torch::stable::parallel_for(0, p_.examples, grain(p_.latents), [&](int64_t from, int64_t to) {
      for (int64_t j = from; j < to; j += kExamples) write(j, std::min(to, j + kExamples));
    });
  }

 private:
  int64_t rows_at_once() const {
    const int64_t wanted = std::min(kMostRows, kWeightsAtOnce / p_.columns) / kRows * kRows;
    return std::min(rounded_up(p_.rows, kRows), std::max<int64_t>(kRows, wanted));
  }

  // What the pairs of a chunk with some rows weigh in q(z), times the gradient that comes in.
  void joint_weights(int64_t begin, int64_t start, int count, T* weights) {
    alignas(64) T part[kRows][kChunk<T>] = {};
    Chunk<T> chunk(p_, begin, start, count);
    const int n = chunk.length();
    for (int r = 0; r < count; ++r) std::fill_n(weights + r * p_.columns + begin, n, T(0));
    for (int64_t d = 0; d < p_.latents; ++d) {
      chunk.enter(d);
      for (int r = 0; r < count; ++r) {
        chunk.without_own(start + r, [&](const AggregateColumns<T>& columns) {
          loops<T>().add_densities(p_.row(d, start + r), columns, n, part[r]);
        });
        if (p_.ends_sum(d)) loops<T>().move(part[r], n, weights + r * p_.columns + begin);
      }
    }
    for (int r = 0; r < count; ++r) {
      loops<T>().weights(weights + r * p_.columns + begin, n, joint_[start + r], of_joint_[start + r], p_.limits.lowest);
    }
  }

  // Of a chunk and a latent, the sums over a block's rows; and what the chunk adds to the sums over examples of each row.
  void add_rows(int64_t index, int64_t d, int64_t start, int64_t count) {
    alignas(64) T of_mean[kChunk<T>] = {}, of_scale[kChunk<T>] = {};
    const int64_t begin = index * kChunk<T>, of_rows = d * p_.row_stride;
    Chunk<T> chunk(p_, begin, start, count);
    const int n = chunk.length();
    chunk.enter(d);
    for (int64_t i = start; i < start + count; ++i) {
      const T* weights = weights_ + ((i - start) * p_.columns + begin);
      chunk.without_own(i, [&](const AggregateColumns<T>& columns) {
        parts_[(index * p_.latents + d) * block_ + i - start] =
            loops<T>().gradients(p_.row(d, i), columns, n, marginals_[of_rows + i], of_marginals_[of_rows + i], weights,
                                 p_.limits.lowest, of_mean, of_scale);
      });
    }
    const int64_t from = std::max(start, begin - p_.first), to = std::min(start + count, begin + n - p_.first);
    if (from < to) {
      loops<T>().own_gradients(p_.own + (of_rows + from), marginals_ + (of_rows + from), of_marginals_ + (of_rows + from),
                               own_weights_ + (from - start), static_cast<int>(to - from), static_cast<T>(p_.own_weight),
                               p_.limits.lowest, of_scale + (p_.first + from - begin));
    }
    double *mean = of_mean_ + (d * p_.columns + begin), *scale = of_scale_ + (d * p_.columns + begin);
    for (int j = 0; j < n; ++j) mean[j] += of_mean[j], scale[j] += of_scale[j];
  }

  void add_chunks(int64_t d, int64_t start, int64_t count) {
    for (int64_t r = 0; r < count; ++r) {
      double sum = 0;
      for (int64_t index = 0; index < p_.chunks(); ++index) sum += parts_[(index * p_.latents + d) * block_ + r];
      of_row_[d * p_.row_stride + start + r] = sum;
    }
  }

  void write(int64_t from, int64_t to) {
    for (int64_t d = 0; d < p_.latents; ++d) {
      for (int64_t j = from; j < to; ++j) {
        const int64_t place = d * p_.columns + j, i = j - p_.first;
        double of_mu = 2.0 * of_mean_[place] * p_.scale[place], of_logvar = of_scale_[place];  // scale has sqrt(1/2), and t has
        if (0 <= i && i < p_.rows) {
          const double of_row = -2.0 * of_row_[d * p_.row_stride + i];
          of_mu += of_row;
          of_logvar += 0.5 * of_row * p_.shift[d * p_.row_stride + i];
        }
        of_mu_[j * p_.latents + d] = static_cast<T>(of_mu);
        of_logvar_[j * p_.latents + d] = static_cast<T>(of_logvar);
      }
    }
  }

  const Problem<T> p_;
  Array<T> joint_, of_joint_, marginals_, of_marginals_;
  int64_t block_;  // rows at a time
  Array<T> weights_, own_weights_, parts_;
  Array<double> of_mean_, of_scale_, of_row_;
  T *of_mu_, *of_logvar_;
};

std::tuple<Tensor, Tensor> backward(const Tensor& of_joint, const Tensor& of_marginals, const Tensor& joint,
                                    const Tensor& marginals, const Tensor& mu, const Tensor& logvar, const Tensor& eps, int64_t first,
                                    double own) {
  const Arguments a = {mu, logvar, eps, first, own};
  check(a);
  check_row_like(of_joint, a, "of_joint");
  check_row_like(joint, a, "joint");
  check_aggregate_like(of_marginals, eps.size(0), a, "of_marginals");
  check_aggregate_like(marginals, eps.size(0), a, "marginals");
  Tensor of_mu = empty(mu.sizes().data(), 2, mu.scalar_type(), mu, kName);
  Tensor of_logvar = empty(mu.sizes().data(), 2, mu.scalar_type(), mu, kName);
  if (mu.size(0) > 0) {
    const Given given = {of_joint, of_marginals, joint, marginals};
    if (mu.scalar_type() == ScalarType::Double) {
      Backward<double>(a, given, of_mu, of_logvar).run();
    } else {
      Backward<float>(a, given, of_mu, of_logvar).run();
    }
  }
  return {of_mu, of_logvar};
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(log_aggregate, vaekit::forward, vaekit::backward)
