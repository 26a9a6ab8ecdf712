// vaekit::reparameterize_kl and its backward for the CPU, on torch's stable ABI. The specification is vaekit/ops/reference.py.
//
// The logical elements, in row-major order, are processed in tiles that stay in the L1 cache: read mu and logvar, make the noise,
// write z and the divergence. A tile is a few whole rows or a piece of one row. Nothing is allocated but the results.

#include "../operator.h"
#include "arrays.h"

namespace vaekit {
namespace {

constexpr int64_t kGrain = 4096;      // elements that are worth another thread
constexpr int64_t kMaxChunks = 1024;  // a long row is summed in at most this many chunks

// --- tensors ---------------------------------------------------------------------------------------------------------------

Storage storage_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Storage::kFloat;
    case ScalarType::Double: return Storage::kDouble;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kHalf;
    default: return Storage::kHalf;  // checked_shape lets only the four through
  }
}

Input input_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return Input(tensor.const_data_ptr(), storage_of(tensor.scalar_type()), static_cast<int>(sizes.size()), sizes.data(),
              strides.data());
}

Input input_of(const OptionalTensor& tensor) { return tensor ? input_of(*tensor) : Input(); }

Output output_of(const Tensor& tensor) { return Output(tensor.mutable_data_ptr(), storage_of(tensor.scalar_type())); }

// --- what a call works on --------------------------------------------------------------------------------------------------

struct Problem : Shape {
  bool reduce;
  Input mu, logvar, eps, prior_mu, prior_logvar;
  uint64_t seed, offset;

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

Problem problem_of(const Arguments& a) {
  Problem p = {checked_shape(a), a.reduce_event, input_of(a.mu), input_of(a.logvar), input_of(a.eps), input_of(a.prior_mu),
               input_of(a.prior_logvar), 0, 0};
  if (a.key) {
    const int64_t* words = static_cast<const int64_t*>(a.key->const_data_ptr());
    p.seed = load<uint64_t>(words);
    p.offset = load<uint64_t>(words + a.key->stride(0));
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
    alignas(64) T elements[kTile + 32];  // `sum` may read beyond the last one
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
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Problem p = problem_of(a);
  const auto [z, kl] = empty_results(a);
  if (mu.scalar_type() == ScalarType::Double) {
    forward_as<double>(p, z, kl);
  } else {
    forward_as<float>(p, z, kl);
  }
  return {z, kl};
}

// --- backward --------------------------------------------------------------------------------------------------------------

struct Gradients {
  Input z, kl;  // coming in; either may be absent
  Output mu, logvar, prior_mu, prior_logvar;
};

// The gradient of each element's divergence: its row's, where rows were summed.
template <class T>
const T* divergence_gradient(const Problem& p, const Tile& tile, const Input& kl, T* buffer) {
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

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                                    const Tensor& mu, const Tensor& logvar, const OptionalTensor& key,
                                                    const OptionalTensor& eps, const OptionalTensor& prior_mu,
                                                    const OptionalTensor& prior_logvar, std::optional<int64_t> num_samples,
                                                    int64_t row_start, int64_t event_dims, bool reduce_event) {
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Problem p = problem_of(a);
  check_gradients(grad_z, grad_kl, a);
  const bool prior = prior_mu.has_value();
  Tensor grad_mu = empty_like_mu(mu), grad_logvar = empty_like_mu(mu);
  const auto prior_gradient = [&] {
    if (!prior) return Tensor();  // undefined: None in Python
    Tensor gradient = empty_like_mu(mu);
    if (!grad_kl && p.elements() > 0) std::memset(gradient.mutable_data_ptr(), 0, p.elements() * gradient.element_size());
    return gradient;
  };
  Tensor grad_prior_mu = prior_gradient(), grad_prior_logvar = prior_gradient();
  Gradients g = {input_of(grad_z), input_of(grad_kl), output_of(grad_mu), output_of(grad_logvar), Output(), Output()};
  if (prior) g.prior_mu = output_of(grad_prior_mu), g.prior_logvar = output_of(grad_prior_logvar);
  if (p.elements() > 0) {
    for_each_tile(p, [&](const Tile& tile) {
      if (mu.scalar_type() == ScalarType::Double) {
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
