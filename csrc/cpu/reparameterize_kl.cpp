// vaekit::reparameterize_kl and its backward for the CPU, on torch's stable ABI. The specification is vaekit/ops/reference.py.
//
// The logical elements, in row-major order, are worked on in tiles that stay in the first-level cache: read mu and logvar, make
// the noise, write z and the divergence. A tile is a few whole rows or a piece of one row. Nothing is allocated but the results.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <tuple>

#include "view.h"

#if defined(_WIN32)
#define VAEKIT_EXPORT extern "C" __declspec(dllexport)
#else
#define VAEKIT_EXPORT extern "C" __attribute__((visibility("default")))
#endif

namespace vaekit {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int64_t kGrain = 4096;      // elements for which it pays to use another thread
constexpr int64_t kMaxChunks = 1024;  // a long row is summed in at most this many chunks

// --- tensors ---------------------------------------------------------------------------------------------------------------

Storage storage_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Storage::kFloat;
    case ScalarType::Double: return Storage::kDouble;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kHalf;
    default: STD_TORCH_CHECK(false, "reparameterize_kl takes float16, bfloat16, float32 or float64");
  }
}

View view_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return View(tensor.const_data_ptr(), storage_of(tensor.scalar_type()), static_cast<int>(sizes.size()), sizes.data(),
              strides.data());
}

View view_of(const OptionalTensor& tensor) { return tensor ? view_of(*tensor) : View(); }

Tensor empty(const int64_t* sizes, int dims, ScalarType dtype) {
  int64_t strides[View::kMaxDims];
  for (int64_t i = dims - 1, stride = 1; i >= 0; stride *= std::max<int64_t>(sizes[i], 1), --i) strides[i] = stride;
  AtenTensorHandle handle;
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  STABLE_TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(dims, sizes, strides, type, aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

Output output_of(const Tensor& tensor) { return Output(tensor.mutable_data_ptr(), storage_of(tensor.scalar_type())); }

// --- what a call works on --------------------------------------------------------------------------------------------------

template <class T>
constexpr int kPerBlock = sizeof(T) == 8 ? 2 : 4;  // normals from one Philox block

struct Problem {
  int64_t rows, event;  // a row is one event
  int64_t samples;
  bool reduce;
  View mu, logvar, eps, prior_mu, prior_logvar;
  uint64_t seed, offset, start;  // the noise of element i of sample k is element start + i of the stream (seed, offset + k 2^40)

  int64_t elements() const { return rows * event; }

  // Tiles: whole rows where a row fits, otherwise pieces of rows.
  int64_t rows_per_tile() const { return event <= kTile ? kTile / event : 1; }
  int64_t pieces() const { return (event + kTile - 1) / kTile; }
  int64_t tiles() const { return event <= kTile ? (rows + rows_per_tile() - 1) / rows_per_tile() : rows * pieces(); }
};

struct Tile {
  int64_t start, row;
  int n, rows;
};

Tile tile_of(const Problem& problem, int64_t index) {
  if (problem.event <= kTile) {
    const int64_t row = index * problem.rows_per_tile(), rows = std::min(problem.rows_per_tile(), problem.rows - row);
    return {row * problem.event, row, static_cast<int>(rows * problem.event), static_cast<int>(rows)};
  }
  const int64_t row = index / problem.pieces(), begin = (index % problem.pieces()) * kTile;
  return {row * problem.event + begin, row, static_cast<int>(std::min<int64_t>(kTile, problem.event - begin)), 1};
}

struct Arguments {
  const Tensor &mu, &logvar;
  const OptionalTensor &key, &eps, &prior_mu, &prior_logvar;
  std::optional<int64_t> num_samples;
  int64_t row_start, event_dims;
  bool reduce_event;
};

void check_like(const Tensor& tensor, const Tensor& mu, bool samples, int64_t num_samples, const char* name) {
  const auto sizes = tensor.sizes(), wanted = mu.sizes();
  const size_t extra = samples ? 1 : 0;
  STD_TORCH_CHECK(sizes.size() == wanted.size() + extra && (!samples || sizes[0] == num_samples) &&
                      std::equal(wanted.begin(), wanted.end(), sizes.begin() + extra),
                  "reparameterize_kl: ", name, " has a shape that does not fit mu's");
  STD_TORCH_CHECK(tensor.is_cpu(), "reparameterize_kl: ", name, " is not on the CPU like mu");
}

ScalarType compute_type(ScalarType dtype) { return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

Problem problem_of(const Arguments& a) {
  const auto sizes = a.mu.sizes();
  const ScalarType dtype = a.mu.scalar_type();
  const int64_t dims = static_cast<int64_t>(sizes.size()), samples = a.num_samples.value_or(1);
  STD_TORCH_CHECK(1 <= a.event_dims && a.event_dims <= dims, "reparameterize_kl: event_dims is not between 1 and mu's dimensions");
  STD_TORCH_CHECK(dims < View::kMaxDims, "reparameterize_kl: mu has too many dimensions");
  STD_TORCH_CHECK(samples >= 1, "reparameterize_kl: num_samples is less than 1");
  STD_TORCH_CHECK(a.row_start >= 0, "reparameterize_kl: row_start is negative");
  STD_TORCH_CHECK(a.key.has_value() != a.eps.has_value(), "reparameterize_kl: give a key or eps");
  STD_TORCH_CHECK(a.prior_mu.has_value() == a.prior_logvar.has_value(), "reparameterize_kl: a prior has a mean and a logvar");
  check_like(a.mu, a.mu, false, 1, "mu");
  check_like(a.logvar, a.mu, false, 1, "logvar");
  STD_TORCH_CHECK(a.logvar.scalar_type() == dtype, "reparameterize_kl: mu and logvar differ in dtype");
  for (const OptionalTensor* prior : {&a.prior_mu, &a.prior_logvar}) {
    if (*prior) {
      check_like(**prior, a.mu, false, 1, "the prior");
      STD_TORCH_CHECK((*prior)->scalar_type() == dtype, "reparameterize_kl: mu and the prior differ in dtype");
    }
  }

  Problem p;
  p.rows = p.event = 1;
  for (int64_t i = 0; i < dims; ++i) (i < dims - a.event_dims ? p.rows : p.event) *= sizes[i];
  p.samples = samples;
  p.reduce = a.reduce_event;
  p.mu = view_of(a.mu), p.logvar = view_of(a.logvar);
  p.prior_mu = view_of(a.prior_mu), p.prior_logvar = view_of(a.prior_logvar);
  p.seed = p.offset = p.start = 0;
  if (a.eps) {
    check_like(*a.eps, a.mu, a.num_samples.has_value(), samples, "eps");
    const ScalarType given = a.eps->scalar_type();
    STD_TORCH_CHECK(given == dtype || given == compute_type(dtype), "reparameterize_kl: eps has neither mu's dtype nor kl's");
    p.eps = view_of(*a.eps);
  } else {
    const Tensor& key = *a.key;
    STD_TORCH_CHECK(key.is_cpu() && key.scalar_type() == ScalarType::Long && key.dim() == 1 && key.size(0) == 2,
                    "reparameterize_kl: the key is not an int64 tensor of shape (2,) on the CPU");
    const int64_t* words = static_cast<const int64_t*>(key.const_data_ptr());
    p.seed = static_cast<uint64_t>(words[0]);
    p.offset = static_cast<uint64_t>(words[key.stride(0)]);
    STD_TORCH_CHECK(p.event == 0 || a.row_start <= (INT64_MAX - p.elements()) / p.event,
                    "reparameterize_kl: row_start is beyond the end of the stream");
    p.start = static_cast<uint64_t>(a.row_start) * static_cast<uint64_t>(p.event);
  }
  return p;
}

template <class T>
T exp_limit() {
  return Real<T>::kExpLimit;
}

// The noise of a tile of sample k: where it is, or in `buffer` [kNoise].
template <class T>
const T* noise(const Problem& p, const Tile& tile, int64_t k, T* buffer) {
  if (p.eps) return p.eps.read<T>(k * p.elements() + tile.start, tile.n, buffer);
  const uint64_t first = p.start + static_cast<uint64_t>(tile.start);
  const int skipped = static_cast<int>(first % kPerBlock<T>);
  const int blocks = (skipped + tile.n + kPerBlock<T> - 1) / kPerBlock<T>;
  const int step = loops<T>().block_step, rounded = (blocks + step - 1) / step * step;
  loops<T>().normals(buffer, p.seed, p.offset + static_cast<uint64_t>(k) * kSampleStride + first / kPerBlock<T>, rounded);
  return buffer + skipped;
}

template <class F>
void for_each_tile(const Problem& p, const F& f) {
  const int64_t per_tile = std::min<int64_t>(kTile, p.rows_per_tile() * p.event) * p.samples;
  torch::stable::parallel_for(0, p.tiles(), std::max<int64_t>(1, kGrain / per_tile), [&](int64_t from, int64_t to) {
    for (int64_t i = from; i < to; ++i) f(tile_of(p, i));
  });
}

// --- forward ---------------------------------------------------------------------------------------------------------------

// Writes a tile of z and leaves the elements' divergences in `kl`.
template <class T>
void forward_tile(const Problem& p, const Tile& tile, const Output& z, T* kl) {
  alignas(64) T mu_buffer[kTile], logvar_buffer[kTile], sigma[kTile], eps_buffer[kNoise], z_buffer[kTile];
  const int n = tile.n;
  const T limit = exp_limit<T>();
  const Loops<T>& loop = loops<T>();
  const T* mu = p.mu.read<T>(tile.start, n, mu_buffer);
  const T* logvar = p.logvar.read<T>(tile.start, n, logvar_buffer);
  p.mu.prefetch(tile.start + n, n);  // the next tile's, while this one's noise is made
  p.logvar.prefetch(tile.start + n, n);
  if (p.samples == 1 && !p.prior_mu) {
    z.prefetch<T>(tile.start, n);
    T* out = z.at(tile.start, z_buffer);
    loop.draw_and_diverge(mu, logvar, noise(p, tile, 0, eps_buffer), n, limit, out, kl);
    z.flush(tile.start, n, out);
    return;
  }
  if (p.prior_mu) {
    const T* prior_mu = p.prior_mu.read<T>(tile.start, n, z_buffer);
    const T* prior_logvar = p.prior_logvar.read<T>(tile.start, n, eps_buffer);
    loop.divergence_from(mu, logvar, prior_mu, prior_logvar, n, limit, sigma, kl);
  } else {
    loop.divergence(mu, logvar, n, limit, sigma, kl);
  }
  for (int64_t k = 0; k < p.samples; ++k) {
    const int64_t start = k * p.elements() + tile.start;
    T* out = z.at(start, z_buffer);
    loop.sample(mu, sigma, noise(p, tile, k, eps_buffer), n, out);
    z.flush(start, n, out);
  }
}

template <class T>
void forward_elements(const Problem& p, const Output& z, T* kl) {
  for_each_tile(p, [&](const Tile& tile) { forward_tile<T>(p, tile, z, kl + tile.start); });
}

template <class T>
void forward_short_rows(const Problem& p, const Output& z, T* kl) {
  for_each_tile(p, [&](const Tile& tile) {
    alignas(64) T elements[kTile + 32];  // `sum` may look beyond the last one
    forward_tile<T>(p, tile, z, elements);
    const int event = static_cast<int>(p.event);
    for (int i = 0; i < tile.rows; ++i) kl[tile.row + i] = loops<T>().sum(elements + i * event, event);
  });
}

// A row of more than one tile: the sums of its pieces are added in double, chunk by chunk, in an order that depends on nothing but
// the row's length.
template <class T>
void forward_long_rows(const Problem& p, const Output& z, T* kl) {
  const int64_t pieces = p.pieces(), per_chunk = (pieces + kMaxChunks - 1) / kMaxChunks;
  const int64_t chunks = (pieces + per_chunk - 1) / per_chunk;
  const auto sum_chunk = [&](int64_t row, int64_t chunk) {
    alignas(64) T elements[kTile + 32];
    double total = 0;
    for (int64_t i = chunk * per_chunk; i < std::min(pieces, (chunk + 1) * per_chunk); ++i) {
      const Tile tile = tile_of(p, row * pieces + i);
      forward_tile<T>(p, tile, z, elements);
      total += loops<T>().sum(elements, tile.n);
    }
    return total;
  };
  // As many rows at a time as have room for their chunks' sums.
  const int64_t group = std::max<int64_t>(1, kMaxChunks / chunks);
  const int64_t grain = std::max<int64_t>(1, kGrain / (per_chunk * kTile * p.samples));
  for (int64_t first = 0; first < p.rows; first += group) {
    double sums[kMaxChunks];
    const int64_t rows = std::min(group, p.rows - first);
    torch::stable::parallel_for(0, rows * chunks, grain, [&](int64_t from, int64_t to) {
      for (int64_t i = from; i < to; ++i) sums[i] = sum_chunk(first + i / chunks, i % chunks);
    });
    for (int64_t row = 0; row < rows; ++row) {
      double total = 0;
      for (int64_t chunk = 0; chunk < chunks; ++chunk) total += sums[row * chunks + chunk];
      kl[first + row] = static_cast<T>(total);
    }
  }
}

template <class T>
void forward_as(const Problem& p, const Tensor& z, const Tensor& kl) {
  T* values = static_cast<T*>(kl.mutable_data_ptr());
  if (p.elements() == 0) {  // no element: no rows, or rows whose sum is empty
    if (p.reduce) std::fill(values, values + p.rows, T(0));
  } else if (!p.reduce) {
    forward_elements<T>(p, output_of(z), values);
  } else if (p.event <= kTile) {
    forward_short_rows<T>(p, output_of(z), values);
  } else {
    forward_long_rows<T>(p, output_of(z), values);
  }
}

std::tuple<Tensor, Tensor> forward(const Tensor& mu, const Tensor& logvar, const OptionalTensor& key, const OptionalTensor& eps,
                                   const OptionalTensor& prior_mu, const OptionalTensor& prior_logvar,
                                   std::optional<int64_t> num_samples, int64_t row_start, int64_t event_dims,
                                   bool reduce_event) {
  const Problem p = problem_of(
      {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event});
  const auto sizes = mu.sizes();
  const int dims = static_cast<int>(sizes.size());
  int64_t z_sizes[View::kMaxDims];
  z_sizes[0] = p.samples;
  std::copy(sizes.begin(), sizes.end(), z_sizes + 1);
  const bool sampled = num_samples.has_value();
  Tensor z = empty(sampled ? z_sizes : z_sizes + 1, sampled ? dims + 1 : dims, mu.scalar_type());
  Tensor kl = empty(sizes.data(), reduce_event ? dims - static_cast<int>(event_dims) : dims, compute_type(mu.scalar_type()));
  if (mu.scalar_type() == ScalarType::Double) {
    forward_as<double>(p, z, kl);
  } else {
    forward_as<float>(p, z, kl);
  }
  return {z, kl};
}

// --- backward --------------------------------------------------------------------------------------------------------------

struct Gradients {
  View z, kl;  // coming in; either may be absent
  Output mu, logvar, prior_mu, prior_logvar;
};

// The gradient of each element's divergence: its row's, where rows were summed.
template <class T>
const T* divergence_gradient(const Problem& p, const Tile& tile, const View& kl, T* buffer) {
  if (!p.reduce) return kl.read<T>(tile.start, tile.n, buffer);
  T row_buffer[kTile];
  const T* rows = kl.read<T>(tile.row, tile.rows, row_buffer);
  const int64_t length = tile.n / tile.rows;
  for (int i = 0; i < tile.rows; ++i) std::fill(buffer + i * length, buffer + (i + 1) * length, rows[i]);
  return buffer;
}

template <class T>
void backward_tile(const Problem& p, const Tile& tile, const Gradients& g) {
  alignas(64) T mu_buffer[kTile], logvar_buffer[kTile], grad_mu_buffer[kTile], grad_logvar_buffer[kTile];
  alignas(64) T eps_buffer[kNoise], grad_z_buffer[kTile], grad_kl_buffer[kTile], scaled[kTile], prior_buffer[kTile];
  const int n = tile.n;
  const T limit = exp_limit<T>();
  const Loops<T>& loop = loops<T>();
  const T* mu = p.mu.read<T>(tile.start, n, mu_buffer);
  const T* logvar = p.logvar.read<T>(tile.start, n, logvar_buffer);
  const T* grad_kl = g.kl ? divergence_gradient(p, tile, g.kl, grad_kl_buffer) : nullptr;
  T* grad_mu = g.mu.at(tile.start, grad_mu_buffer);
  T* grad_logvar = g.logvar.at(tile.start, grad_logvar_buffer);
  g.mu.prefetch<T>(tile.start, n);
  g.logvar.prefetch<T>(tile.start, n);

  if (g.z && grad_kl && p.samples == 1 && !p.prior_mu) {
    g.z.prefetch(tile.start, n);
    const T* eps = noise(p, tile, 0, eps_buffer);
    const T* grad_z = g.z.read<T>(tile.start, n, grad_z_buffer);
    p.mu.prefetch(tile.start + n, n);  // the next tile's
    p.logvar.prefetch(tile.start + n, n);
    loop.gradients(mu, logvar, eps, grad_z, grad_kl, n, limit, grad_mu, grad_logvar);
  } else {
    std::fill(grad_mu, grad_mu + n, T(0));
    std::fill(grad_logvar, grad_logvar + n, T(0));
    if (g.z) {
      std::fill(scaled, scaled + n, T(0));
      for (int64_t k = 0; k < p.samples; ++k) {
        const T* grad_z = g.z.read<T>(k * p.elements() + tile.start, n, grad_z_buffer);
        loop.add_sample(grad_z, noise(p, tile, k, eps_buffer), n, grad_mu, scaled);
      }
      loop.draw_gradient(logvar, scaled, n, limit, grad_logvar);
    }
    if (grad_kl && p.prior_mu) {
      const T* prior_mu = p.prior_mu.read<T>(tile.start, n, eps_buffer);
      const T* prior_logvar = p.prior_logvar.read<T>(tile.start, n, scaled);
      T* grad_prior_mu = g.prior_mu.at(tile.start, prior_buffer);
      T* grad_prior_logvar = g.prior_logvar.at(tile.start, grad_z_buffer);
      loop.add_divergence_from(mu, logvar, prior_mu, prior_logvar, grad_kl, n, limit, grad_mu, grad_logvar, grad_prior_mu,
                               grad_prior_logvar);
      g.prior_mu.flush(tile.start, n, grad_prior_mu);
      g.prior_logvar.flush(tile.start, n, grad_prior_logvar);
    } else if (grad_kl) {
      loop.add_divergence(mu, logvar, grad_kl, n, limit, grad_mu, grad_logvar);
    }
  }
  g.mu.flush(tile.start, n, grad_mu);
  g.logvar.flush(tile.start, n, grad_logvar);
}

Tensor zeros(const int64_t* sizes, int dims, ScalarType dtype, size_t bytes) {
  Tensor tensor = empty(sizes, dims, dtype);
  std::memset(tensor.mutable_data_ptr(), 0, bytes);
  return tensor;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                                    const Tensor& mu, const Tensor& logvar, const OptionalTensor& key,
                                                    const OptionalTensor& eps, const OptionalTensor& prior_mu,
                                                    const OptionalTensor& prior_logvar, std::optional<int64_t> num_samples,
                                                    int64_t row_start, int64_t event_dims, bool reduce_event) {
  const Problem p = problem_of(
      {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event});
  const auto sizes = mu.sizes();
  const ScalarType dtype = mu.scalar_type();
  const int dims = static_cast<int>(sizes.size());
  if (grad_z) {
    check_like(*grad_z, mu, num_samples.has_value(), p.samples, "grad_z");
    STD_TORCH_CHECK(grad_z->scalar_type() == dtype, "reparameterize_kl: grad_z has not mu's dtype");
  }
  if (grad_kl) {
    const auto kl_sizes = grad_kl->sizes();
    const size_t kl_dims = reduce_event ? dims - event_dims : dims;
    STD_TORCH_CHECK(kl_sizes.size() == kl_dims && std::equal(kl_sizes.begin(), kl_sizes.end(), sizes.begin()) &&
                        grad_kl->is_cpu() && grad_kl->scalar_type() == compute_type(dtype),
                    "reparameterize_kl: grad_kl is not like kl");
  }
  const bool prior = prior_mu.has_value();
  const size_t bytes = p.elements() * (dtype == ScalarType::Double ? 8 : dtype == ScalarType::Float ? 4 : 2);
  Tensor grad_mu = empty(sizes.data(), dims, dtype), grad_logvar = empty(sizes.data(), dims, dtype);
  const auto prior_gradient = [&] {
    if (!prior) return Tensor();  // undefined: None in Python
    return grad_kl ? empty(sizes.data(), dims, dtype) : zeros(sizes.data(), dims, dtype, bytes);
  };
  Tensor grad_prior_mu = prior_gradient(), grad_prior_logvar = prior_gradient();
  Gradients g = {view_of(grad_z), view_of(grad_kl), output_of(grad_mu), output_of(grad_logvar), Output(), Output()};
  if (prior) g.prior_mu = output_of(grad_prior_mu), g.prior_logvar = output_of(grad_prior_logvar);
  if (p.elements() > 0) {
    for_each_tile(p, [&](const Tile& tile) {
      if (dtype == ScalarType::Double) {
        backward_tile<double>(p, tile, g);
      } else {
        backward_tile<float>(p, tile, g);
      }
    });
  }
  return {grad_mu, grad_logvar, grad_prior_mu, grad_prior_logvar};
}

}  // namespace
}  // namespace vaekit

STABLE_TORCH_LIBRARY_IMPL(vaekit, CPU, m) {
  m.impl("reparameterize_kl", TORCH_BOX(&vaekit::forward));
  m.impl("reparameterize_kl_backward", TORCH_BOX(&vaekit::backward));
}

// The instruction set in use.
VAEKIT_EXPORT const char* vaekit_cpu_capability() { return vaekit::instruction_set().name; }
