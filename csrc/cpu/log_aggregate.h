// The loops of log_aggregate over a chunk of examples j, of one row i and latent d. Lengths are multiples of kLanes unless said
// otherwise.
#pragma once

#include "../log_aggregate.h"
#include "lanes.h"

namespace vaekit {

// What stands for an infinite largest term, relative to which nothing would be a number.
template <class T>
VAEKIT_INLINE T finite_or_zero(T x) {
  return x - x == T(0) ? x : T(0);
}

// A row in one latent.
template <class T>
struct AggregateRow {
  T mu, shift;
};

// Examples in one latent.
template <class T>
struct AggregateColumns {
  const T *mean, *scale, *peak;
};

template <class T>
struct AggregateLoops {
  // Of any length.
  void (*columns)(const T* logvar, int n, const AggregateLimits<T>& limits, T* scale, T* peak);
  void (*rows)(const T* logvar, const T* eps, int n, const AggregateLimits<T>& limits, T* shift, T* own);
  // Log densities, which are added to `joint` too; the largest is returned.
  T (*densities)(AggregateRow<T> row, AggregateColumns<T> columns, int n, T* joint, T* density);
  void (*add_densities)(AggregateRow<T> row, AggregateColumns<T> columns, int n, T* joint);
  void (*move)(T* part, int n, T* total);  // adds to the total, and leaves zeros
  T (*maximum)(const T* density, int n);
  // Takes densities, of which `largest` is the largest, into log(e^top sum), where sum is relative to the largest term so far.
  void (*add_terms)(const T* density, int n, T largest, T lowest, T* top, T* sum);
  // top + log(sum), of any length, for positive normal sums.
  void (*finish)(const T* top, const T* sum, int n, T* out);
  // density becomes factor e^(density - total).
  void (*weights)(T* density, int n, T total, T factor, T lowest);
  // The same of pairs of a row with its own example, of any length.
  void (*own_weights)(const T* own, const T* total, const T* factor, int n, T lowest, T* out);
  // Adds to the sums over rows of g t and of g (t^2 - 1/2), where g = of_marginal e^(density - total) + of_joint; returns the sum
  // over j of g t scale.
  T (*gradients)(AggregateRow<T> row, AggregateColumns<T> columns, int n, T total, T of_marginal, const T* of_joint, T lowest,
                 T* of_mean, T* of_scale);
  // The same of pairs of a row with its own example, of any length: one a column, where t is a constant.
  void (*own_gradients)(const T* own, const T* total, const T* of_marginal, const T* of_joint, int n, T weight, T lowest,
                        T* of_scale);
};

}  // namespace vaekit
