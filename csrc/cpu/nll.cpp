// The operators `vaekit::*_nll` on the CPU: all but the arithmetic of an element.
#include "nll.h"

#include <memory>
#include <vector>

#include "../real.h"
#include "rows.h"
#include "views.h"

namespace vaekit {
namespace {

struct Problem {
  NllKernel kernel;
  Input parameters, x;  // the first of P planes, which lie `plane` elements apart
  int64_t planes, plane;
  bool ignore_missing;
  double shared;
  Input features;  // the shared parameter as the data's elements have it, where there is one for each feature
  Rows rows;
};

Problem problem_of(const NllOperands& o, const NllKernel& kernel) {
  const auto sizes = o.parameters.sizes(), strides = o.parameters.strides();
  int64_t plane_sizes[kMaxDims], plane_strides[kMaxDims], rows = sizes[0], event = 1;
  const int dims = static_cast<int>(sizes.size()) - 1;
  for (int i = 0; i < dims; ++i) {
    plane_sizes[i] = sizes[i == 0 ? 0 : i + 1];
    plane_strides[i] = strides[i == 0 ? 0 : i + 1];
    if (i > 0) event *= plane_sizes[i];
  }
  double shared = kernel.shared;
  Input features;
  if (o.shared && o.shared->dim() > 0) {
    int64_t feature_strides[kMaxDims] = {};
    const auto last = o.shared->strides();
    std::copy(last.begin(), last.end(), feature_strides + dims - o.shared->dim());
    features = Input(o.shared->const_data_ptr(), storage_of(o.shared->scalar_type()), dims, plane_sizes, feature_strides);
  } else if (o.shared) {
    const void* place = o.shared->const_data_ptr();
    shared = o.shared->scalar_type() == ScalarType::Double ? load<double>(place) : load<float>(place);
  }
  const Input first(o.parameters.const_data_ptr(), storage_of(o.parameters.scalar_type()), dims, plane_sizes, plane_strides);
  const int tile = sizes[1] <= 4 ? kMaxTile : kMaxTile / 4;
  return {kernel, first, input_of(o.x), sizes[1], strides[1], o.ignore_missing, shared, features, {rows, event, tile}};
}

template <class T>
const NllLoops<T>& loops_of(const NllKernel& kernel) {
  if constexpr (sizeof(T) == 8) {
    return kernel.double_loops;
  } else {
    return kernel.float_loops;
  }
}

// A thread's buffers: of x, of P planes of parameters and one for a shared parameter that is spread, for backward of P gradients and
// of those coming in, and what the loops want for themselves.
template <class T>
class Scratch {
 public:
  Scratch(const Problem& p, bool backward)
      : tile_(p.rows.tile), arrays_(p.planes + (p.kernel.spread ? 1 : 0)),
        values_(new T[(1 + arrays_ + (backward ? p.planes + 1 : 0) + p.kernel.scratch) * p.rows.tile]), parameters(arrays_),
        gradients(backward ? p.planes : 0) {
    if (p.kernel.spread && !p.features) std::fill(plane(p.planes), plane(p.planes) + tile_, static_cast<T>(p.shared));
  }

  T* x() { return values_.get(); }
  T* plane(int64_t i) { return values_.get() + (1 + i) * tile_; }
  T* gradient(int64_t i) { return plane(arrays_ + i); }
  T* incoming() { return gradient(static_cast<int64_t>(gradients.size())); }
  T* loops() { return gradients.empty() ? plane(arrays_) : incoming() + tile_; }

 private:
  int64_t tile_, arrays_;
  std::unique_ptr<T[]> values_;

 public:
  std::vector<const T*> parameters;
  std::vector<T*> gradients;
};

template <class T>
NllTile<T> read(const Problem& p, const Tile& tile, Scratch<T>& scratch) {
  for (int64_t i = 0; i < p.planes; ++i) {
    scratch.parameters[i] = p.parameters.read<T>(tile.start, tile.n, scratch.plane(i), i * p.plane);
  }
  if (p.kernel.spread) {
    T* shared = scratch.plane(p.planes);
    scratch.parameters[p.planes] = p.features ? p.features.read<T>(tile.start, tile.n, shared) : shared;
  }
  const T* x = p.x.read<T>(tile.start, tile.n, scratch.x());
  return {tile.n, Real<T>::kExpLimit, x, scratch.parameters.data(), static_cast<T>(p.shared), p.kernel.option, p.planes,
          {static_cast<T>(p.kernel.constants[0]), static_cast<T>(p.kernel.constants[1])}, scratch.loops(), p.rows.tile};
}

template <class T>
void forward_as(const Problem& p, const Tensor& out) {
  T* rows = static_cast<T*>(out.mutable_data_ptr());
  if (p.rows.event == 0) std::fill(rows, rows + p.rows.rows, T(0));
  if (p.rows.rows == 0 || p.rows.event == 0) return;
  const auto elements = [&](const Tile& tile, Scratch<T>& scratch, T* nll) {
    const NllTile<T> in = read(p, tile, scratch);
    loops_of<T>(p.kernel).values(in, nll);
    if (p.ignore_missing) blank(in.x, tile.n, nll);
  };
  sum_rows<T>(p.rows, p.kernel.worth, [&] { return Scratch<T>(p, false); }, elements,
              [](const T* values, int n) { return sum_in_double(values, n); }, rows);
}

template <class T>
void fill_incoming(const Input& grad, const Tile& tile, T* out) {
  T buffer[kMaxTile];
  const T* rows = grad.read<T>(tile.row, tile.rows, buffer);
  const int length = tile.n / tile.rows;
  for (int i = 0; i < tile.rows; ++i) std::fill(out + i * length, out + (i + 1) * length, rows[i]);
}

// Writes a tile of the parameters' gradients, and of the shared one's where `shared` is not null.
template <class T>
void backward_tile(const Problem& p, const Tile& tile, const Input& grad, const Output& out, Scratch<T>& scratch, T* shared) {
  const NllTile<T> in = read(p, tile, scratch);
  fill_incoming(grad, tile, scratch.incoming());
  const int64_t event = p.rows.event, within = tile.start - tile.row * event;
  const bool in_place = p.planes == 1 || tile.rows == 1;
  const auto place = [&](int64_t row, int64_t plane) { return (row * p.planes + plane) * event + within; };
  for (int64_t i = 0; i < p.planes; ++i) {
    scratch.gradients[i] = in_place ? out.at(place(tile.row, i), scratch.gradient(i)) : scratch.gradient(i);
  }
  loops_of<T>(p.kernel).gradients(in, scratch.incoming(), scratch.gradients.data(), shared);
  for (int64_t i = 0; i < p.planes; ++i) {
    const T* gradient = scratch.gradients[i];
    if (p.ignore_missing) blank(in.x, tile.n, scratch.gradients[i]);
    if (in_place) {
      out.flush(place(tile.row, i), tile.n, gradient);
    } else {
      for (int row = 0; row < tile.rows; ++row) {
        out.write(place(tile.row + row, i), static_cast<int>(event), gradient + row * event);
      }
    }
  }
  if (p.ignore_missing && shared != nullptr) blank(in.x, tile.n, shared);
}

template <class T>
void backward_as(const Problem& p, const Input& grad, const Output& out, const Tensor* shared) {
  const bool by_feature = shared != nullptr && shared->dim() > 0;
  std::vector<double> sums(shared == nullptr || by_feature ? 0 : p.rows.rows, 0.0);
  const auto make = [&] { return Scratch<T>(p, true); };
  const auto elements = [&](const Tile& tile, Scratch<T>& scratch, T* slopes) {
    backward_tile<T>(p, tile, grad, out, scratch, slopes);
  };
  if (by_feature) {
    sum_columns<T>(p.rows, p.kernel.worth, shared->numel(), make, elements, static_cast<T*>(shared->mutable_data_ptr()));
  } else if (p.rows.rows == 0 || p.rows.event == 0) {
  } else if (shared == nullptr) {
    for_each_tile(p.rows, p.kernel.worth, make,
                  [&](const Tile& tile, Scratch<T>& scratch) { backward_tile<T>(p, tile, grad, out, scratch, nullptr); });
  } else {
    sum_rows<T>(p.rows, p.kernel.worth, make, elements, [](const T* values, int n) { return sum_in_double(values, n); },
                sums.data());
  }
  if (shared != nullptr && !by_feature) {
    double total = 0;
    for (const double sum : sums) total += sum;
    *static_cast<T*>(shared->mutable_data_ptr()) = static_cast<T>(total);
  }
}

}  // namespace

Tensor nll(const NllOperands& o, const NllKernel& kernel) {
  const Problem p = problem_of(o, kernel);
  const ScalarType dtype = compute_type(o.parameters.scalar_type());
  Tensor out = empty(&p.rows.rows, 1, dtype, o.parameters, o.op);
  dtype == ScalarType::Double ? forward_as<double>(p, out) : forward_as<float>(p, out);
  return out;
}

std::tuple<Tensor, Tensor> nll_backward(const Tensor& grad, const NllOperands& o, const NllKernel& kernel) {
  check_nll_gradient(grad, o);
  const Problem p = problem_of(o, kernel);
  const Tensor& like = o.parameters;
  const ScalarType dtype = compute_type(like.scalar_type());
  Tensor out = empty(like.sizes().data(), like.dim(), like.scalar_type(), like, o.op);
  Tensor shared = o.shared ? empty(o.shared->sizes().data(), o.shared->dim(), dtype, like, o.op) : Tensor();
  const Tensor* to_shared = o.shared ? &shared : nullptr;
  if (dtype == ScalarType::Double) {
    backward_as<double>(p, input_of(grad), output_of(out), to_shared);
  } else {
    backward_as<float>(p, input_of(grad), output_of(out), to_shared);
  }
  return {out, shared};
}

}  // namespace vaekit
