// Loops over elements of discretized_logistic_nll; for_each_instruction_set.h includes them for each instruction set.

namespace vaekit {
namespace VAEKIT_ISA {
namespace discretized_logistic {

constexpr bool kFused = VAEKIT_FUSED;

// The arrays in a tile's scratch: the edges of the bins, the largest logit, the sum of e^(logit - largest), the largest of a_k = logit -
// largest + log of the bin's probability, the sum of e^(a_k - their largest), and then two arrays for each component.
template <class T>
struct Arrays {
  T *lower, *upper, *largest, *weight, *nearest, *total, *components;
  int64_t apart;

  explicit Arrays(const NllTile<T>& tile)
      : lower(tile.scratch), upper(lower + tile.apart), largest(upper + tile.apart), weight(largest + tile.apart),
        nearest(weight + tile.apart), total(nearest + tile.apart), components(total + tile.apart), apart(tile.apart) {}

  T* component(int64_t k) const { return components + k * apart; }
};

template <class T>
VAEKIT_TARGET VAEKIT_INLINE Levels<T> levels_of(const NllTile<T>& tile) {
  return {static_cast<T>(tile.option - 1), static_cast<T>(2.0 / static_cast<double>(tile.option - 1)), tile.constants[0]};
}

template <class T>
VAEKIT_TARGET void bins(const T* VAEKIT_RESTRICT x, int n, Levels<T> levels, T* VAEKIT_RESTRICT lower, T* VAEKIT_RESTRICT upper) {
  for (int i = 0; i < n; ++i) {
    const Bin<T> bin = bin_of(x[i], levels);
    lower[i] = bin.lower;
    upper[i] = bin.upper;
  }
}

template <class T>
VAEKIT_TARGET void raise(const T* VAEKIT_RESTRICT values, int n, T* VAEKIT_RESTRICT largest) {
  for (int i = 0; i < n; ++i) largest[i] = values[i] > largest[i] ? values[i] : largest[i];
}

template <class T>
VAEKIT_TARGET void add_exp(const T* VAEKIT_RESTRICT values, const T* VAEKIT_RESTRICT largest, int n, T limit, T* VAEKIT_RESTRICT sum) {
  for (int i = 0; i < n; ++i) sum[i] += exponential<kFused>(values[i] - largest[i], limit).value;
}

template <class T>
struct Component {
  const T *logit, *mean, *log_scale;
};

template <class T>
VAEKIT_TARGET Component<T> component_of(const NllTile<T>& tile, int64_t k) {
  const int64_t count = tile.planes / 3;
  return {tile.parameters[k], tile.parameters[count + k], tile.parameters[2 * count + k]};
}

// a_k of one component.
template <class T>
VAEKIT_TARGET void log_bins(const NllTile<T>& tile, const Component<T>& c, const Arrays<T>& arrays, T* VAEKIT_RESTRICT out) {
  const T* VAEKIT_RESTRICT logit = c.logit;
  const T* VAEKIT_RESTRICT mean = c.mean;
  const T* VAEKIT_RESTRICT log_scale = c.log_scale;
  const T* VAEKIT_RESTRICT largest = arrays.largest;
  const T* VAEKIT_RESTRICT lower = arrays.lower;
  const T* VAEKIT_RESTRICT upper = arrays.upper;
  const Levels<T> levels = levels_of(tile);
  const T limit = tile.limit, smallest = tile.constants[1];
  const int n = tile.n;
  for (int i = 0; i < n; ++i) {
    const LogBin<T> bin = log_bin<kFused>(mean[i], log_scale[i], Bin<T>{lower[i], upper[i]}, levels, smallest, limit);
    out[i] = (logit[i] - largest[i]) + bin.value;
  }
}

// The same with what the derivatives are made of.
template <class T>
VAEKIT_TARGET void log_bin_slopes(const NllTile<T>& tile, const Component<T>& c, const Arrays<T>& arrays, T* VAEKIT_RESTRICT out,
                                  T* VAEKIT_RESTRICT by_upper, T* VAEKIT_RESTRICT by_lower, T* VAEKIT_RESTRICT by_log_scale,
                                  T* VAEKIT_RESTRICT precision) {
  const T* VAEKIT_RESTRICT logit = c.logit;
  const T* VAEKIT_RESTRICT mean = c.mean;
  const T* VAEKIT_RESTRICT log_scale = c.log_scale;
  const T* VAEKIT_RESTRICT largest = arrays.largest;
  const T* VAEKIT_RESTRICT lower = arrays.lower;
  const T* VAEKIT_RESTRICT upper = arrays.upper;
  const Levels<T> levels = levels_of(tile);
  const T limit = tile.limit, smallest = tile.constants[1];
  const int n = tile.n;
  for (int i = 0; i < n; ++i) {
    const LogBin<T> bin = log_bin<kFused>(mean[i], log_scale[i], Bin<T>{lower[i], upper[i]}, levels, smallest, limit);
    out[i] = (logit[i] - largest[i]) + bin.value;
    by_upper[i] = bin.by_upper;
    by_lower[i] = bin.by_lower;
    by_log_scale[i] = bin.by_log_scale;
    precision[i] = bin.precision;
  }
}

// The largest logit and what the logits' exponentials sum up to.
template <class T>
VAEKIT_TARGET void weigh(const NllTile<T>& tile, const Arrays<T>& arrays) {
  const int64_t count = tile.planes / 3;
  std::copy(tile.parameters[0], tile.parameters[0] + tile.n, arrays.largest);
  for (int64_t k = 1; k < count; ++k) raise(tile.parameters[k], tile.n, arrays.largest);
  std::fill(arrays.weight, arrays.weight + tile.n, T(0));
  for (int64_t k = 0; k < count; ++k) add_exp(tile.parameters[k], arrays.largest, tile.n, tile.limit, arrays.weight);
}

template <class T>
VAEKIT_TARGET VAEKIT_INLINE T log_of_sum(T sum) { return sum == sum ? T(-0.5) * minus_two_log<kFused>(sum) : sum; }

template <class T>
VAEKIT_TARGET void finish(const Arrays<T>& arrays, int n, T* VAEKIT_RESTRICT nll) {
  const T* VAEKIT_RESTRICT weight = arrays.weight;
  const T* VAEKIT_RESTRICT nearest = arrays.nearest;
  const T* VAEKIT_RESTRICT total = arrays.total;
  for (int i = 0; i < n; ++i) {
    const T value = (log_of_sum(weight[i]) - log_of_sum(total[i])) - nearest[i];
    nll[i] = total[i] == T(0) ? std::numeric_limits<T>::infinity() : value;  // every component is infinitely far
  }
}

template <class T>
VAEKIT_TARGET void values(const NllTile<T>& tile, T* nll) {
  const Arrays<T> arrays(tile);
  const int64_t count = tile.planes / 3;
  bins(tile.x, tile.n, levels_of(tile), arrays.lower, arrays.upper);
  weigh(tile, arrays);
  std::fill(arrays.nearest, arrays.nearest + tile.n, std::numeric_limits<T>::lowest());
  for (int64_t k = 0; k < count; ++k) {
    log_bins(tile, component_of(tile, k), arrays, arrays.component(k));
    raise(arrays.component(k), tile.n, arrays.nearest);
  }
  std::fill(arrays.total, arrays.total + tile.n, T(0));
  for (int64_t k = 0; k < count; ++k) add_exp(arrays.component(k), arrays.nearest, tile.n, tile.limit, arrays.total);
  finish(arrays, tile.n, nll);
}

// The gradients of one component, from what `log_bin_slopes` left in their places.
template <class T>
VAEKIT_TARGET void slopes(const NllTile<T>& tile, const Component<T>& c, const Arrays<T>& arrays, const T* VAEKIT_RESTRICT grad,
                          const T* VAEKIT_RESTRICT by_log_scale, const T* VAEKIT_RESTRICT precision, T* VAEKIT_RESTRICT to_logit,
                          T* VAEKIT_RESTRICT to_mean, T* VAEKIT_RESTRICT to_log_scale) {
  const T* VAEKIT_RESTRICT logit = c.logit;
  const T* VAEKIT_RESTRICT mean = c.mean;
  const T* VAEKIT_RESTRICT largest = arrays.largest;
  const T* VAEKIT_RESTRICT weight = arrays.weight;
  const T* VAEKIT_RESTRICT nearest = arrays.nearest;
  const T* VAEKIT_RESTRICT total = arrays.total;
  const T* VAEKIT_RESTRICT lower = arrays.lower;
  const T* VAEKIT_RESTRICT upper = arrays.upper;
  const T limit = tile.limit, alike = T(3) / static_cast<T>(tile.planes);
  const int n = tile.n;
  for (int i = 0; i < n; ++i) {
    const bool is_lost = total[i] == T(0);
    const T share = exponential<kFused>(to_logit[i] - nearest[i], limit).value / (is_lost ? T(1) : total[i]);
    const T prior = exponential<kFused>(logit[i] - largest[i], limit).value / weight[i];
    const T scaled = grad[i] * (is_lost ? alike : share);
    // Scaled first: what is infinitely far has a share of 0.
    const T by_upper = scaled * to_mean[i], by_lower = scaled * to_log_scale[i];
    to_logit[i] = is_lost ? T(0) : grad[i] * (prior - share);
    to_mean[i] = (by_upper + by_lower) * precision[i];
    const T distances = by_upper * (upper[i] - mean[i]) * precision[i] + by_lower * (lower[i] - mean[i]) * precision[i];
    to_log_scale[i] = distances - scaled * by_log_scale[i];
  }
}

template <class T>
VAEKIT_TARGET void gradients(const NllTile<T>& tile, const T* grad, T* const* parameters, T*) {
  const Arrays<T> arrays(tile);
  const int64_t count = tile.planes / 3;
  bins(tile.x, tile.n, levels_of(tile), arrays.lower, arrays.upper);
  weigh(tile, arrays);
  std::fill(arrays.nearest, arrays.nearest + tile.n, std::numeric_limits<T>::lowest());
  for (int64_t k = 0; k < count; ++k) {
    log_bin_slopes(tile, component_of(tile, k), arrays, parameters[k], parameters[count + k], parameters[2 * count + k],
                   arrays.component(k), arrays.component(count + k));
    raise(parameters[k], tile.n, arrays.nearest);
  }
  std::fill(arrays.total, arrays.total + tile.n, T(0));
  for (int64_t k = 0; k < count; ++k) add_exp(parameters[k], arrays.nearest, tile.n, tile.limit, arrays.total);
  for (int64_t k = 0; k < count; ++k) {
    slopes(tile, component_of(tile, k), arrays, grad, arrays.component(k), arrays.component(count + k), parameters[k],
           parameters[count + k], parameters[2 * count + k]);
  }
}

template <class T>
constexpr NllLoops<T> kLoops = {&values<T>, &gradients<T>};

}  // namespace discretized_logistic
}  // namespace VAEKIT_ISA
}  // namespace vaekit
