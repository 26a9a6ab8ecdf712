// vaekit::reparameterize_kl and its backward for the CPU, on torch's stable ABI. The specification is vaekit/ops/reference.py.
//
// The logical elements, in row-major order, are processed in tiles that stay in the L1 cache: read mu and logvar, make the noise,
// write z and the divergence. A tile is a few whole rows or a piece of one row. Nothing is allocated but the results.

#include "../operator.h"
#include "library.h"
#include "reparameterize_kl.h"
#include "rows.h"
#include "views.h"

namespace vaekit {
namespace {

constexpr int64_t kGrain = 4096;  // elements that are worth another thread

// --- what a call works on --------------------------------------------------------------------------------------------------

struct Problem : Shape {
  bool reduce;
  Input mu, logvar, eps, prior_mu, prior_logvar;
  uint64_t seed, offset;

  Rows tiled() const { return {rows, event, kTile}; }
};

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

int64_t worth(const Problem& p) { return std::max<int64_t>(1, kGrain / p.samples); }

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
void forward_as(const Problem& p, const Tensor& z, const Tensor& kl) {
  T* values = static_cast<T*>(kl.mutable_data_ptr());
  if (p.elements() == 0) {  // no element: no rows, or rows whose sum is empty
    if (p.reduce) std::fill(values, values + p.rows, T(0));
  } else if (!p.reduce) {
    const Output out = output_of(z);
    for_each_tile(p.tiled(), worth(p), [&](const Tile& tile) { forward_tile<T>(p, tile, out, values + tile.start); });
  } else {
    const Output out = output_of(z);
    const auto elements = [&](const Tile& tile, int, T* kl) { forward_tile<T>(p, tile, out, kl); };
    sum_rows<T>(p.tiled(), worth(p), [] { return 0; }, elements, loops<T>().sum, values);
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
    for_each_tile(p.tiled(), worth(p), [&](const Tile& tile) {
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

VAEKIT_CPU_OPERATOR(reparameterize_kl, vaekit::forward, vaekit::backward)
