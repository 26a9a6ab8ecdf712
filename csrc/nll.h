// The operands of the operators `vaekit::*_nll`, the negative log likelihoods of data under a decoder's parameters, and their checks:
// shared by all devices. The specification of each is its formula in vaekit/likelihoods; vaekit/ops/nll.py declares them.
#pragma once

#include <initializer_list>

#include "tensors.h"

namespace vaekit {

// `shared` is absent where the operator has none, or the decoder gives that parameter for each element.
struct NllOperands {
  const char* op;
  const Tensor& parameters;  // [B, P, *S]
  const Tensor& x;           // [B, *S]
  OptionalTensor shared;     // [], or of the last dimensions of S: element i of an example has number i modulo how many there are
  bool ignore_missing;
};

// A direct call can bring anything: nothing is read out of bounds. `planes` are the P that the operator takes, any where there are none.
inline void check_nll(const NllOperands& o, std::initializer_list<int64_t> planes) {
  const auto sizes = o.parameters.sizes(), x_sizes = o.x.sizes();
  const ScalarType dtype = o.parameters.scalar_type(), x_dtype = o.x.scalar_type();
  STD_TORCH_CHECK(is_supported(dtype), o.op, " takes parameters of float16, bfloat16, float32 or float64");
  STD_TORCH_CHECK(2 <= sizes.size() && sizes.size() < kMaxDims, o.op, ": the parameters are not [batch, parameters of an element, ...]");
  STD_TORCH_CHECK(planes.size() == 0 || std::find(planes.begin(), planes.end(), sizes[1]) != planes.end(), o.op, ": it has another number of parameters");
  STD_TORCH_CHECK(x_sizes.size() + 1 == sizes.size() && x_sizes[0] == sizes[0] &&
                      std::equal(x_sizes.begin() + 1, x_sizes.end(), sizes.begin() + 2),
                  o.op, ": x has a shape that does not fit the parameters'");
  // What is narrower than float32 is exact in it.
  const bool fits = compute_type(dtype) == ScalarType::Double ? x_dtype == ScalarType::Double
                                                              : is_supported(x_dtype) && x_dtype != ScalarType::Double;
  STD_TORCH_CHECK(fits, o.op, ": x is of another dtype than the one that the operator computes in");
  STD_TORCH_CHECK(on_device_of(o.x, o.parameters), o.op, ": x is not on the parameters' device");
  check_memory(o.parameters, o.op, "parameters");
  check_memory(o.x, o.op, "x");
  if (o.shared) {
    const auto features = o.shared->sizes();
    const bool is_last = features.size() + 2 <= sizes.size() && std::equal(features.begin(), features.end(), sizes.end() - features.size());
    STD_TORCH_CHECK(is_last && o.shared->scalar_type() == compute_type(dtype) && on_device_of(*o.shared, o.parameters), o.op,
                    ": the shared parameter is not one number, or one for each feature, of the dtype that the operator computes "
                    "in, on the parameters' device");
    check_memory(*o.shared, o.op, "the shared parameter");
  }
}

inline void check_nll_gradient(const Tensor& grad, const NllOperands& o) {
  STD_TORCH_CHECK(grad.dim() == 1 && grad.size(0) == o.parameters.size(0) && on_device_of(grad, o.parameters) &&
                      grad.scalar_type() == compute_type(o.parameters.scalar_type()),
                  o.op, ": the gradient is not like the result");
  check_memory(grad, o.op, "grad");
}

}  // namespace vaekit
