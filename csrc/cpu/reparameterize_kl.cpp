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

// The noise of a thread's tiles, one after the other. Normals come in whole steps of `normals`; those beyond the end of a tile are the
// next one's first, and are kept for it.
template <class T>
class Noise {
 public:
  Noise() {}  // leaves the memory as it is

  // That of a tile of sample k.
  const T* of(const Problem& p, const Tile& tile, int64_t k) {
    if (p.eps) return p.eps.read<T>(k * p.elements() + tile.start, tile.n, fresh());
    const uint64_t first = p.start + static_cast<uint64_t>(tile.start), end = first + static_cast<uint64_t>(tile.n);
    if (k == sample_ && begin_ <= first && first < end_) {
      if (end <= end_) return at(first);
      std::copy(at(first), at(end_), fresh() - (end_ - first));  // at most kKept: `end_` was in the last step that the tile before took
    } else {
      sample_ = k, end_ = first - first % kPerBlock<T>;
    }
    begin_ = std::min(first, end_), made_from_ = end_;
    const int step = loops<T>().block_step, blocks = static_cast<int>((end - end_ + kPerBlock<T> - 1) / kPerBlock<T>);
    const int rounded = (blocks + step - 1) / step * step;
    loops<T>().normals(fresh(), p.seed, p.offset + static_cast<uint64_t>(k) * kSampleStride + end_ / kPerBlock<T>, rounded);
    end_ += static_cast<uint64_t>(rounded) * kPerBlock<T>;
    return at(first);
  }

 private:
  static constexpr int kKept = kBlockStep * 4;

  T* fresh() { return values_ + kKept; }
  T* at(uint64_t element) { return fresh() + static_cast<int64_t>(element - made_from_); }

  alignas(64) T values_[kKept + kNoise];
  uint64_t begin_ = 0, made_from_ = 0, end_ = 0;  // elements of the stream: kept from begin_, made anew from made_from_, up to end_
  int64_t sample_ = -1;
};

int64_t worth(const Problem& p) { return std::max<int64_t>(1, kGrain / p.samples); }

// --- forward ---------------------------------------------------------------------------------------------------------------

// Writes a tile of z and leaves the elements' divergences in `kl`.
template <class T>
void forward_tile(const Problem& p, const Tile& tile, const Output& z, Noise<T>& noise, T* kl) {
  alignas(64) T mu_buffer[kTile], logvar_buffer[kTile], sigma[kTile], prior_buffer[kTile], z_buffer[kTile];
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
    loop.draw_and_diverge(mu, logvar, noise.of(p, tile, 0), n, limit, out, kl);
    z.flush(tile.start, n, out);
    return;
  }
  if (p.prior_mu) {
    const T* prior_mu = p.prior_mu.read<T>(tile.start, n, z_buffer);
    const T* prior_logvar = p.prior_logvar.read<T>(tile.start, n, prior_buffer);
    loop.divergence_from(mu, logvar, prior_mu, prior_logvar, n, limit, sigma, kl);
  } else {
    loop.divergence(mu, logvar, n, limit, sigma, kl);
  }
  for (int64_t k = 0; k < p.samples; ++k) {
    const int64_t start = k * p.elements() + tile.start;
    T* out = z.at(start, z_buffer);
    loop.sample(mu, sigma, noise.of(p, tile, k), n, out);
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
    const auto elements = [&](const Tile& tile, Noise<T>& noise) { forward_tile<T>(p, tile, out, noise, values + tile.start); };
    for_each_tile(p.tiled(), worth(p), [] { return Noise<T>(); }, elements);
  } else {
    const Output out = output_of(z);
    const auto elements = [&](const Tile& tile, Noise<T>& noise, T* kl) { forward_tile<T>(p, tile, out, noise, kl); };
    sum_rows<T>(p.tiled(), worth(p), [] { return Noise<T>(); }, elements, loops<T>().sum, values);
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

// A gradient that is written: nowhere, into an array of its own, or into one half of a packed one, whose rows are twice as long.
class Target {
 public:
  Target() = default;
  explicit Target(const Tensor& tensor) : array_(output_of(tensor)), is_wanted_(true) {}
  Target(const Tensor& packed, int64_t event, int64_t half)
      : array_(output_of(packed)), is_wanted_(true), event_(event), shift_(half * event) {}

  explicit operator bool() const { return is_wanted_; }

  // Where to write a tile: in place, or into `buffer`, from which `flush` copies it.
  template <class T>
  T* at(const Tile& tile, T* buffer) const {
    return is_wanted_ && !is_scattered(tile) ? array_.at(place(tile.row, tile.start), buffer) : buffer;
  }

  template <class T>
  void prefetch(const Tile& tile) const {
    if (is_wanted_ && !is_scattered(tile)) array_.prefetch<T>(place(tile.row, tile.start), tile.n);
  }

  template <class T>
  void flush(const Tile& tile, const T* values) const {
    if (!is_wanted_) return;
    if (!is_scattered(tile)) return array_.flush(place(tile.row, tile.start), tile.n, values);
    for (int i = 0; i < tile.rows; ++i) {
      array_.write(place(tile.row + i, tile.start + i * event_), static_cast<int>(event_), values + i * event_);
    }
  }

 private:
  bool is_scattered(const Tile& tile) const { return event_ > 0 && tile.rows > 1; }
  int64_t place(int64_t row, int64_t start) const { return start + row * event_ + shift_; }

  Output array_;
  bool is_wanted_ = false;
  int64_t event_ = 0, shift_ = 0;  // event_ is 0 where nothing is packed
};

struct Derivatives {
  Input z, kl;  // coming in; either may be absent
  Target mu, logvar, prior_mu, prior_logvar;
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
void backward_tile(const Problem& p, const Tile& tile, const Derivatives& g, Noise<T>& noise) {
  alignas(64) T mu_buffer[kTile], logvar_buffer[kTile], grad_mu_buffer[kTile], grad_logvar_buffer[kTile];
  alignas(64) T grad_z_buffer[kTile], grad_kl_buffer[kTile], scaled[kTile], no_noise[kTile], prior_mu_buffer[kTile], prior_buffer[kTile];
  const int n = tile.n;
  const T limit = exp_limit<T>();
  const Loops<T>& loop = loops<T>();
  const T* mu = p.mu.read<T>(tile.start, n, mu_buffer);
  const T* logvar = p.logvar.read<T>(tile.start, n, logvar_buffer);
  const T* grad_kl = g.kl ? divergence_gradient(p, tile, g.kl, grad_kl_buffer) : nullptr;
  T* grad_mu = g.mu.at(tile, grad_mu_buffer);
  T* grad_logvar = g.logvar.at(tile, grad_logvar_buffer);
  g.mu.prefetch<T>(tile);
  g.logvar.prefetch<T>(tile);
  if (!g.logvar) std::fill(no_noise, no_noise + n, T(0));
  // No other gradient depends on the noise.
  const auto eps = [&](int64_t k) { return g.logvar ? noise.of(p, tile, k) : no_noise; };

  if (g.z && grad_kl && p.samples == 1 && !p.prior_mu) {
    g.z.prefetch(tile.start, n);
    const T* drawn = eps(0);
    const T* grad_z = g.z.read<T>(tile.start, n, grad_z_buffer);
    p.mu.prefetch(tile.start + n, n);  // the next tile's
    p.logvar.prefetch(tile.start + n, n);
    loop.gradients(mu, logvar, drawn, grad_z, grad_kl, n, limit, grad_mu, grad_logvar);
  } else {
    std::fill(grad_mu, grad_mu + n, T(0));
    std::fill(grad_logvar, grad_logvar + n, T(0));
    if (g.z && (g.mu || g.logvar)) {
      std::fill(scaled, scaled + n, T(0));
      for (int64_t k = 0; k < p.samples; ++k) {
        const T* grad_z = g.z.read<T>(k * p.elements() + tile.start, n, grad_z_buffer);
        loop.add_sample(grad_z, eps(k), n, grad_mu, scaled);
      }
      loop.draw_gradient(logvar, scaled, n, limit, grad_logvar);
    }
    if (grad_kl && p.prior_mu) {
      const T* prior_mu = p.prior_mu.read<T>(tile.start, n, prior_mu_buffer);
      const T* prior_logvar = p.prior_logvar.read<T>(tile.start, n, scaled);
      T* grad_prior_mu = g.prior_mu.at(tile, prior_buffer);
      T* grad_prior_logvar = g.prior_logvar.at(tile, grad_z_buffer);
      loop.add_divergence_from(mu, logvar, prior_mu, prior_logvar, grad_kl, n, limit, grad_mu, grad_logvar, grad_prior_mu,
                               grad_prior_logvar);
      g.prior_mu.flush(tile, grad_prior_mu);
      g.prior_logvar.flush(tile, grad_prior_logvar);
    } else if (grad_kl) {
      loop.add_divergence(mu, logvar, grad_kl, n, limit, grad_mu, grad_logvar);
    }
  }
  g.mu.flush(tile, grad_mu);
  g.logvar.flush(tile, grad_logvar);
}

template <class T>
void backward_as(const Problem& p, const Derivatives& g) {
  const auto gradients = [&](const Tile& tile, Noise<T>& noise) { backward_tile<T>(p, tile, g, noise); };
  for_each_tile(p.tiled(), worth(p), [] { return Noise<T>(); }, gradients);
}

Target target_of(const Tensor& gradient) { return gradient.defined() ? Target(gradient) : Target(); }

std::tuple<Tensor, Tensor, Tensor, Tensor> backward(const OptionalTensor& grad_z, const OptionalTensor& grad_kl,
                                                    const Tensor& mu, const Tensor& logvar, const OptionalTensor& key,
                                                    const OptionalTensor& eps, const OptionalTensor& prior_mu,
                                                    const OptionalTensor& prior_logvar, std::optional<int64_t> num_samples,
                                                    int64_t row_start, int64_t event_dims, bool reduce_event, int64_t wanted,
                                                    bool packed) {
  const Arguments a = {mu, logvar, key, eps, prior_mu, prior_logvar, num_samples, row_start, event_dims, reduce_event};
  const Problem p = problem_of(a);
  check_gradients(grad_z, grad_kl, a);
  const Gradients out = empty_gradients(a, wanted, packed);
  Derivatives g = {input_of(grad_z), input_of(grad_kl), target_of(out.mu), target_of(out.logvar), Target(), Target()};
  if (packed) g.mu = Target(out.mu, p.event, 0), g.logvar = Target(out.mu, p.event, 1);
  for (const auto& [tensor, target] : {std::tie(out.prior_mu, g.prior_mu), std::tie(out.prior_logvar, g.prior_logvar)}) {
    if (!tensor.defined()) continue;
    target = Target(tensor);
    if (!grad_kl && p.elements() > 0) std::memset(tensor.mutable_data_ptr(), 0, p.elements() * tensor.element_size());
  }
  if (p.elements() > 0) mu.scalar_type() == ScalarType::Double ? backward_as<double>(p, g) : backward_as<float>(p, g);
  return {out.mu, out.logvar, out.prior_mu, out.prior_logvar};
}

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(reparameterize_kl, vaekit::forward, vaekit::backward)
