// Loops of log_aggregate; for_each_instruction_set.h includes them for each instruction set.

namespace vaekit {
namespace VAEKIT_ISA {
namespace log_aggregate {

template <class T>
VAEKIT_TARGET void columns(const T* VAEKIT_RESTRICT logvar, int n, const AggregateLimits<T>& given, T* VAEKIT_RESTRICT scale,
                           T* VAEKIT_RESTRICT peak) {
  const AggregateLimits<T> limits = given;
  for (int j = 0; j < n; ++j) {
    scale[j] = scale_of<VAEKIT_FUSED>(logvar[j], limits);
    peak[j] = peak_of(logvar[j]);
  }
}

template <class T>
VAEKIT_TARGET void rows(const T* VAEKIT_RESTRICT logvar, const T* VAEKIT_RESTRICT eps, int n, const AggregateLimits<T>& given,
                        T* VAEKIT_RESTRICT shift, T* VAEKIT_RESTRICT own) {
  const AggregateLimits<T> limits = given;
  for (int i = 0; i < n; ++i) {
    shift[i] = shift_of<VAEKIT_FUSED>(logvar[i], eps[i], limits);
    own[i] = own_density<VAEKIT_FUSED>(logvar[i], eps[i]);
  }
}

template <class T>
VAEKIT_TARGET T densities(AggregateRow<T> row, AggregateColumns<T> columns, int n, T* VAEKIT_RESTRICT joint,
                          T* VAEKIT_RESTRICT density) {
  const T* VAEKIT_RESTRICT mean = columns.mean;
  const T* VAEKIT_RESTRICT scale = columns.scale;
  const T* VAEKIT_RESTRICT peak = columns.peak;
  T top[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) top[lane] = -std::numeric_limits<T>::infinity();
  for (int start = 0; start < n; start += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int j = start + lane;
      const T value = vaekit::density<VAEKIT_FUSED>(standardized(row.mu, row.shift, mean[j], scale[j]), peak[j]);
      density[j] = value;
      joint[j] += value;
      top[lane] = top[lane] < value ? value : top[lane];
    }
  }
  return maximum_of_lanes(top);
}

template <class T>
VAEKIT_TARGET void add_densities(AggregateRow<T> row, AggregateColumns<T> columns, int n, T* VAEKIT_RESTRICT joint) {
  const T* VAEKIT_RESTRICT mean = columns.mean;
  const T* VAEKIT_RESTRICT scale = columns.scale;
  const T* VAEKIT_RESTRICT peak = columns.peak;
  for (int j = 0; j < n; ++j) {
    joint[j] += vaekit::density<VAEKIT_FUSED>(standardized(row.mu, row.shift, mean[j], scale[j]), peak[j]);
  }
}

template <class T>
VAEKIT_TARGET void move(T* VAEKIT_RESTRICT part, int n, T* VAEKIT_RESTRICT total) {
  for (int j = 0; j < n; ++j) {
    total[j] += part[j];
    part[j] = T(0);
  }
}

template <class T>
VAEKIT_TARGET T maximum(const T* VAEKIT_RESTRICT density, int n) {
  T top[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) top[lane] = -std::numeric_limits<T>::infinity();
  for (int start = 0; start < n; start += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) top[lane] = top[lane] < density[start + lane] ? density[start + lane] : top[lane];
  }
  return maximum_of_lanes(top);
}

template <class T>
VAEKIT_TARGET void add_terms(const T* VAEKIT_RESTRICT density, int n, T largest, T lowest, T* top, T* sum) {
  const T before = finite_or_zero(*top);
  *top = *top < largest ? largest : *top;
  const T now = finite_or_zero(*top);
  T terms[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) terms[lane] = T(0);
  for (int start = 0; start < n; start += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) terms[lane] += exp_or_zero<VAEKIT_FUSED>(density[start + lane] - now, lowest);
  }
  *sum = multiply_add<VAEKIT_FUSED>(*sum, exp_or_zero<VAEKIT_FUSED>(before - now, lowest), sum_of_lanes(terms));
}

template <class T>
VAEKIT_TARGET void finish(const T* VAEKIT_RESTRICT top, const T* VAEKIT_RESTRICT sum, int n, T* VAEKIT_RESTRICT out) {
  for (int i = 0; i < n; ++i) {
    out[i] = multiply_add<VAEKIT_FUSED>(T(-0.5), minus_two_log<VAEKIT_FUSED>(sum[i]), top[i]);
  }
}

template <class T>
VAEKIT_TARGET void weights(T* VAEKIT_RESTRICT density, int n, T total, T factor, T lowest) {
  for (int j = 0; j < n; ++j) density[j] = factor * exp_or_zero<VAEKIT_FUSED>(density[j] - total, lowest);
}

template <class T>
VAEKIT_TARGET void own_weights(const T* VAEKIT_RESTRICT own, const T* VAEKIT_RESTRICT total, const T* VAEKIT_RESTRICT factor,
                               int n, T lowest, T* VAEKIT_RESTRICT out) {
  for (int i = 0; i < n; ++i) out[i] = factor[i] * exp_or_zero<VAEKIT_FUSED>(own[i] - total[i], lowest);
}

template <class T>
VAEKIT_TARGET T gradients(AggregateRow<T> row, AggregateColumns<T> columns, int n, T total, T of_marginal,
                          const T* VAEKIT_RESTRICT of_joint, T lowest, T* VAEKIT_RESTRICT of_mean, T* VAEKIT_RESTRICT of_scale) {
  const T* VAEKIT_RESTRICT mean = columns.mean;
  const T* VAEKIT_RESTRICT scale = columns.scale;
  const T* VAEKIT_RESTRICT peak = columns.peak;
  T sum[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) sum[lane] = T(0);
  for (int start = 0; start < n; start += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int j = start + lane;
      const T t = standardized(row.mu, row.shift, mean[j], scale[j]);
      const T weight = exp_or_zero<VAEKIT_FUSED>(vaekit::density<VAEKIT_FUSED>(t, peak[j]) - total, lowest);
      const T g = multiply_add<VAEKIT_FUSED>(weight, of_marginal, of_joint[j]);
      const T gt = g * t;  // times t again, not g times t^2, which may overflow where g is 0
      of_mean[j] += gt;
      of_scale[j] = multiply_add<VAEKIT_FUSED>(gt, t, multiply_add<VAEKIT_FUSED>(T(-0.5), g, of_scale[j]));
      sum[lane] = multiply_add<VAEKIT_FUSED>(gt, scale[j], sum[lane]);
    }
  }
  return sum_of_lanes(sum);
}

template <class T>
VAEKIT_TARGET void own_gradients(const T* VAEKIT_RESTRICT own, const T* VAEKIT_RESTRICT total,
                                 const T* VAEKIT_RESTRICT of_marginal, const T* VAEKIT_RESTRICT of_joint, int n, T weight,
                                 T lowest, T* VAEKIT_RESTRICT of_scale) {
  for (int i = 0; i < n; ++i) {
    const T part = exp_or_zero<VAEKIT_FUSED>((own[i] + weight) - total[i], lowest);
    const T g = multiply_add<VAEKIT_FUSED>(part, of_marginal[i], of_joint[i]);
    of_scale[i] = multiply_add<VAEKIT_FUSED>(T(-0.5), g, of_scale[i]);
  }
}

template <class T>
constexpr AggregateLoops<T> kLoops = {&columns<T>,   &rows<T>,    &densities<T>,   &add_densities<T>,
                                      &move<T>,      &maximum<T>, &add_terms<T>,   &finish<T>,
                                      &weights<T>,   &own_weights<T>, &gradients<T>, &own_gradients<T>};

}  // namespace log_aggregate
}  // namespace VAEKIT_ISA
}  // namespace vaekit
