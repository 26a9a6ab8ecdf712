// Tensors as the operators of all devices take and make them: their checks, and the allocation of results. On torch's stable ABI.
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

#include "macros.h"
#include "shape.h"

namespace vaekit {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

inline bool is_supported(ScalarType dtype) {
  return dtype == ScalarType::Float || dtype == ScalarType::Double || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half;
}

// The type in which an operator computes.
inline ScalarType compute_type(ScalarType dtype) { return dtype == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

inline bool on_device_of(const Tensor& tensor, const Tensor& other) {
  return tensor.is_cpu() == other.is_cpu() && tensor.get_device_index() == other.get_device_index();
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

inline void check_memory(const Tensor& tensor, const char* op, const char* name) {
  STD_TORCH_CHECK(has_memory(tensor), op, ": ", name, " has lost its memory: its storage is too small for its elements");
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

// A new contiguous tensor on the device of `like`.
inline Tensor empty(const int64_t* sizes, int64_t dims, ScalarType dtype, const Tensor& like, const char* op) {
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
  const int32_t device = like.is_cpu() ? aoti_torch_device_type_cpu() : aoti_torch_device_type_cuda();
  const int32_t index = like.is_cpu() ? 0 : like.get_device_index();
  const bool allocated =
      addressable && aoti_torch_empty_strided(dims, sizes, strides, type, device, index, &handle) == AOTI_TORCH_SUCCESS;
  STD_TORCH_CHECK(allocated, op, ": there is not enough memory ", like.is_cpu() ? "" : "on the GPU ",
                  "for a result of ", described(sizes, dims, dtype));
  return Tensor(handle);
}

}  // namespace vaekit
