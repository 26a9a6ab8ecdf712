// Tensors as arrays.
#pragma once

#include "../tensors.h"
#include "arrays.h"

namespace vaekit {

inline Storage storage_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Storage::kFloat;
    case ScalarType::Double: return Storage::kDouble;
    case ScalarType::BFloat16: return Storage::kBFloat16;
    case ScalarType::Half: return Storage::kHalf;
    default: return Storage::kHalf;  // the operators let only the four through: is_supported
  }
}

inline Input input_of(const Tensor& tensor) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  return Input(tensor.const_data_ptr(), storage_of(tensor.scalar_type()), static_cast<int>(sizes.size()), sizes.data(),
              strides.data());
}

inline Input input_of(const OptionalTensor& tensor) { return tensor ? input_of(*tensor) : Input(); }

inline Output output_of(const Tensor& tensor) { return Output(tensor.mutable_data_ptr(), storage_of(tensor.scalar_type())); }

}  // namespace vaekit
