// The operands of `vaekit::reparameterize_kl`, their checks, and the allocation of its results: shared by all devices. On torch's
// stable ABI. The specification is vaekit/ops/reference.py.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "macros.h"
#include "shape.h"

namespace vaekit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

struct Arguments {
  const Tensor &mu, &logvar;
  const OptionalTensor &key, &eps, &prior_mu, &prior_logvar;
  std::optional<int64_t> num_samples;
  int64_t row_start, event_dims;
  bool reduce_event;
};

// The type in which the operator computes, and of kl.
inline ScalarType compute_type(ScalarType dtype) { return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

inline bool on_device_of(const Tensor& tensor, const Tensor& mu) {
  return tensor.is_cpu() == mu.is_cpu() && tensor.get_device_index() == mu.get_device_index();
}

// Whether a tensor's storage holds all its elements. It can be taken away while the tensor lives on (storage.resize_(0), as sharded
// training does); an absent address would then read as an absent operand.
inline bool has_memory(const Tensor& tensor) {
  int64_t bytes = 0, last = tensor.storage_offset();
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    if (tensor.size(i) == 0) return true;
    last += (tensor.size(i) - 1) * tensor.stride(i);
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_storage_size(tensor.get(), &bytes));
  return last < bytes / static_cast<int64_t>(tensor.element_size());
}

inline void check_memory(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(has_memory(tensor), "reparameterize_kl: ", name, " has lost its memory: its storage is too small for its elements");
}

inline void check_like(const Tensor& tensor, const Tensor& mu, std::optional<int64_t> num_samples, const char* name) {
  const auto sizes = tensor.sizes(), wanted = mu.sizes();
  const size_t extra = num_samples ? 1 : 0;
  STD_TORCH_CHECK(sizes.size() == wanted.size() + extra && (!num_samples || sizes[0] == *num_samples) &&
                      std::equal(wanted.begin(), wanted.end(), sizes.begin() + extra),
                  "reparameterize_kl: ", name, " has a shape that does not fit mu's");
  STD_TORCH_CHECK(on_device_of(tensor, mu), "reparameterize_kl: ", name, " is not on mu's device");
  check_memory(tensor, name);
}

// The public wrapper checks all this with better messages; here it keeps a direct call of the operator from reading out of bounds.
inline Shape checked_shape(const Arguments& a) {
  const auto sizes = a.mu.sizes();
  const ScalarType dtype = a.mu.scalar_type();
  const int64_t dims = static_cast<int64_t>(sizes.size());
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half,
                  "reparameterize_kl takes float16, bfloat16, float32 or float64");
  STD_TORCH_CHECK(1 <= a.event_dims && a.event_dims <= dims, "reparameterize_kl: event_dims is not between 1 and mu's dimensions");
  STD_TORCH_CHECK(dims < kMaxDims, "reparameterize_kl: mu has too many dimensions");
  STD_TORCH_CHECK(a.num_samples.value_or(1) >= 1, "reparameterize_kl: num_samples is less than 1");
  STD_TORCH_CHECK(a.row_start >= 0, "reparameterize_kl: row_start is negative");
  STD_TORCH_CHECK(a.key.has_value() != a.eps.has_value(), "reparameterize_kl: give a key or eps");
  STD_TORCH_CHECK(a.prior_mu.has_value() == a.prior_logvar.has_value(), "reparameterize_kl: a prior has a mean and a logvar");
  check_memory(a.mu, "mu");
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
    check_memory(key, "key");
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
    check_memory(*grad_kl, "grad_kl");
  }
}

// "[64, 20] float32"
inline std::string described(const int64_t* sizes, int64_t dims, ScalarType dtype) {
  std::string text = "[";
  for (int64_t i = 0; i < dims; ++i) text += (i ? ", " : "") + std::to_string(sizes[i]);
  switch (dtype) {
    case ScalarType::Float: return text + "] float32";
    case ScalarType::Double: return text + "] float64";
    case ScalarType::BFloat16: return text + "] bfloat16";
    default: return text + "] float16";
  }
}

// A new contiguous tensor on mu's device.
inline Tensor empty(const int64_t* sizes, int64_t dims, ScalarType dtype, const Tensor& mu) {
  int64_t strides[kMaxDims], elements = 1;
  bool addressable = true;
  for (int64_t i = dims - 1; i >= 0; --i) {
    const int64_t size = std::max<int64_t>(sizes[i], 1);
    strides[i] = elements;
    addressable = addressable && elements <= INT64_MAX / 8 / size;
    if (addressable) elements *= size;
  }
  AtenTensorHandle handle;
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  const int32_t device = mu.is_cpu() ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda();
  const int32_t index = mu.is_cpu() ? 0 : mu.get_device_index();
  const bool allocated =
      addressable && aoti_torch_empty_strided(dims, sizes, strides, type, device, index, &handle) == AOTI_TORCH_SUCCESS;
  STD_TORCH_CHECK(allocated, "reparameterize_kl: there is not enough memory ", mu.is_cpu() ? "" : "on the GPU ",
                  "for a result of ", described(sizes, dims, dtype));
  return Tensor(handle);
}

inline Tensor empty_like_mu(const Tensor& mu) { return empty(mu.sizes().data(), mu.dim(), mu.scalar_type(), mu); }

// z [K?, *mu.shape] and kl, as the forward operator returns them.
inline std::tuple<Tensor, Tensor> empty_results(const Arguments& a) {
  const auto sizes = a.mu.sizes();
  const int64_t dims = a.mu.dim(), extra = a.num_samples ? 1 : 0;
  int64_t z_sizes[kMaxDims];
  z_sizes[0] = a.num_samples.value_or(1);
  std::copy(sizes.begin(), sizes.end(), z_sizes + extra);
  return {empty(z_sizes, dims + extra, a.mu.scalar_type(), a.mu),
          empty(sizes.data(), a.reduce_event ? dims - a.event_dims : dims, compute_type(a.mu.scalar_type()), a.mu)};
}

}  // namespace vaekit
