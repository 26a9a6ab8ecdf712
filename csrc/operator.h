// The operands of `vaekit::reparameterize_kl`, their checks, and the allocation of its results: shared by all devices. The
// specification is vaekit/ops/reference.py.
#pragma once

#include <tuple>

#include "tensors.h"

namespace vaekit {

constexpr const char* kReparameterizeKl = "reparameterize_kl";

struct Arguments {
  const Tensor &mu, &logvar;
  const OptionalTensor &key, &eps, &prior_mu, &prior_logvar;
  std::optional<int64_t> num_samples;
  int64_t row_start, event_dims;
  bool reduce_event;
};

// The gradients that backward can give: what its argument `wanted` is a sum of, as in vaekit/ops/operands.py.
enum Wanted : int64_t { kMu = 1, kLogvar = 2, kPriorMu = 4, kPriorLogvar = 8 };

inline void check_like(const Tensor& tensor, const Tensor& mu, std::optional<int64_t> num_samples, const char* name) {
  const auto sizes = tensor.sizes(), wanted = mu.sizes();
  const size_t extra = num_samples ? 1 : 0;
  STD_TORCH_CHECK(sizes.size() == wanted.size() + extra && (!num_samples || sizes[0] == *num_samples) &&
                      std::equal(wanted.begin(), wanted.end(), sizes.begin() + extra),
                  "reparameterize_kl: ", name, " has a shape that does not fit mu's");
  STD_TORCH_CHECK(on_device_of(tensor, mu), "reparameterize_kl: ", name, " is not on mu's device");
  check_memory(tensor, kReparameterizeKl, name);
}

// The public wrapper checks all this with better messages; here it keeps a direct call of the operator from reading out of bounds.
inline Shape checked_shape(const Arguments& a) {
  const auto sizes = a.mu.sizes();
  const ScalarType dtype = a.mu.scalar_type();
  const int64_t dims = static_cast<int64_t>(sizes.size());
  STD_TORCH_CHECK(is_supported(dtype), "reparameterize_kl takes float16, bfloat16, float32 or float64");
  STD_TORCH_CHECK(1 <= a.event_dims && a.event_dims <= dims, "reparameterize_kl: event_dims is not between 1 and mu's dimensions");
  STD_TORCH_CHECK(dims < kMaxDims, "reparameterize_kl: mu has too many dimensions");
  STD_TORCH_CHECK(a.num_samples.value_or(1) >= 1, "reparameterize_kl: num_samples is less than 1");
  STD_TORCH_CHECK(a.row_start >= 0, "reparameterize_kl: row_start is negative");
  STD_TORCH_CHECK(a.key.has_value() != a.eps.has_value(), "reparameterize_kl: give a key or eps");
  STD_TORCH_CHECK(a.prior_mu.has_value() == a.prior_logvar.has_value(), "reparameterize_kl: a prior has a mean and a logvar");
  check_memory(a.mu, kReparameterizeKl, "mu");
  check_like(a.logvar, a.mu, std::nullopt, "logvar");
  STD_TORCH_CHECK(a.logvar.scalar_type() == dtype, "reparameterize_kl: mu and logvar differ in dtype");
  const auto check_prior = [&](const OptionalTensor& prior, const char* name) {
    if (!prior) return;
    check_like(*prior, a.mu, std::nullopt, name);
    STD_TORCH_CHECK(prior->scalar_type() == dtype, "reparameterize_kl: mu and ", name, " differ in dtype");
  };
  check_prior(a.prior_mu, "prior_mu");
  check_prior(a.prior_logvar, "prior_logvar");

  Shape shape = {1, 1, a.num_samples.value_or(1), 0};
  for (int64_t i = 0; i < dims; ++i) (i < dims - a.event_dims ? shape.rows : shape.event) *= sizes[i];
  if (a.eps) {
    check_like(*a.eps, a.mu, a.num_samples, "eps");
    const ScalarType given = a.eps->scalar_type();
    STD_TORCH_CHECK(given == dtype || given == compute_type(dtype), "reparameterize_kl: eps has neither mu's dtype nor kl's");
  } else {
    const Tensor& key = *a.key;
    STD_TORCH_CHECK(key.scalar_type() == ScalarType::Long && key.dim() == 1 && key.size(0) == 2 && on_device_of(key, a.mu),
                    "reparameterize_kl: the key is not an int64 tensor of shape (2,) on mu's device");
    check_memory(key, kReparameterizeKl, "key");
    STD_TORCH_CHECK(shape.event == 0 || a.row_start <= (INT64_MAX - shape.elements()) / shape.event,
                    "reparameterize_kl: row_start is beyond the end of the stream");
    shape.start = static_cast<uint64_t>(a.row_start) * static_cast<uint64_t>(shape.event);
  }
  return shape;
}

inline void check_gradients(const OptionalTensor& grad_z, const OptionalTensor& grad_kl, const Arguments& a) {
  const ScalarType dtype = a.mu.scalar_type();
  if (grad_z) {
    check_like(*grad_z, a.mu, a.num_samples, "grad_z");
    STD_TORCH_CHECK(grad_z->scalar_type() == dtype, "reparameterize_kl: grad_z does not have mu's dtype");
  }
  if (grad_kl) {
    const auto sizes = a.mu.sizes(), kl_sizes = grad_kl->sizes();
    const size_t kl_dims = sizes.size() - (a.reduce_event ? a.event_dims : 0);
    STD_TORCH_CHECK(kl_sizes.size() == kl_dims && std::equal(kl_sizes.begin(), kl_sizes.end(), sizes.begin()) &&
                        on_device_of(*grad_kl, a.mu) && grad_kl->scalar_type() == compute_type(dtype),
                    "reparameterize_kl: grad_kl is not like kl");
    check_memory(*grad_kl, kReparameterizeKl, "grad_kl");
  }
}

// z [K?, *mu.shape] and kl, as the forward operator returns them.
inline std::tuple<Tensor, Tensor> empty_results(const Arguments& a) {
  const auto sizes = a.mu.sizes();
  const int64_t dims = a.mu.dim(), extra = a.num_samples ? 1 : 0;
  int64_t z_sizes[kMaxDims];
  z_sizes[0] = a.num_samples.value_or(1);
  std::copy(sizes.begin(), sizes.end(), z_sizes + extra);
  return {empty(z_sizes, dims + extra, a.mu.scalar_type(), a.mu, kReparameterizeKl),
          empty(sizes.data(), a.reduce_event ? dims - a.event_dims : dims, compute_type(a.mu.scalar_type()), a.mu, kReparameterizeKl)};
}

// What backward returns: each undefined, None in Python, where it is not wanted. Where they are packed, `mu` is the gradient of a
// tensor of which mu and logvar are the halves, along the first dimension of an event, and `logvar` undefined.
struct Gradients {
  Tensor mu, logvar, prior_mu, prior_logvar;
};

inline Gradients empty_gradients(const Arguments& a, int64_t wanted, bool packed) {
  int64_t sizes[kMaxDims];
  std::copy(a.mu.sizes().begin(), a.mu.sizes().end(), sizes);
  const auto gradient = [&](bool is_wanted) {
    return is_wanted ? empty(sizes, a.mu.dim(), a.mu.scalar_type(), a.mu, kReparameterizeKl) : Tensor();
  };
  Gradients g = {Tensor(), gradient(wanted & kLogvar && !packed), gradient(wanted & kPriorMu && a.prior_mu),
                 gradient(wanted & kPriorLogvar && a.prior_mu)};
  if (packed) sizes[a.mu.dim() - a.event_dims] *= 2;
  g.mu = gradient(wanted & kMu || packed);
  return g;
}

}  // namespace vaekit
