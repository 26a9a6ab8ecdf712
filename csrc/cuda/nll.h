// The operators `vaekit::*_nll` on the device, of checked operands: all but the arithmetic of an element, which the type A is (nll.cuh).
#pragma once

#include <tuple>

#include "../nll.h"
#include "launch.h"
#include "nll.cuh"

namespace vaekit {
namespace cuda {

// What an operator is computed with besides its operands, as nll.cuh has it.
struct NllOptions {
  double start = 0;
  int64_t option = 0;
  double constants[3] = {0, 0, 0};
};

inline Number number_of(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Float: return Number::kFloat;
    case ScalarType::Double: return Number::kDouble;
    case ScalarType::BFloat16: return Number::kBFloat16;
    default: return Number::kHalf;
  }
}

// The operands laid out, on a device that is guarded while this lives.
class NllCall {
 public:
  NllCall(const NllOperands& o, const NllOptions& options)
      : o_(o), options_(options), parameters_(o.parameters, o.op, 1, 1), x_(o.x, o.op, 1), shared_(o.shared, o.op, 0),
        rows(o.parameters.size(0)), device(o.parameters) {
    for (int64_t i = 2; i < o.parameters.dim(); ++i) event *= o.parameters.size(i);
  }

  void fill(Nll& p) const {
    p.rows = rows, p.event = event, p.planes = o_.parameters.size(1);
    p.parameters = parameters_, p.x = x_, p.shared = shared_;
    p.of_x = number_of(o_.x.scalar_type());
    p.ignore_missing = o_.ignore_missing;
    p.features = o_.shared && o_.shared->dim() > 0 ? o_.shared->numel() : 0;
    p.start = options_.start, p.option = options_.option;
    std::copy(options_.constants, options_.constants + 3, p.constants);
  }

 private:
  const NllOperands& o_;
  const NllOptions& options_;
  const Operand parameters_, x_, shared_;

 public:
  const int64_t rows;
  int64_t event = 1;
  const Device device;
};

// [B]
template <class A>
Tensor nll(const NllOperands& o, const NllOptions& options) {
  const NllCall call(o, options);
  Tensor out = empty(&call.rows, 1, compute_type(o.parameters.scalar_type()), o.parameters, o.op);
  if (call.rows * call.event == 0) {
    call.device.set_to_zero(out);
    return out;
  }
  NllForward p;
  call.fill(p);
  p.nll = out.mutable_data_ptr();
  const Array<double> segments(segments_of(p), o.parameters, o.op);
  p.segments = segments;
  with_storage(o.parameters.scalar_type(),
               [&](auto storage) { forward_nll<A, decltype(storage)>(p, call.device.processors, call.device); });
  return out;
}

// Gradients of the parameters, like them and contiguous, and of the shared parameter, an undefined tensor where there is none.
template <class A>
std::tuple<Tensor, Tensor> nll_backward(const Tensor& grad, const NllOperands& o, const NllOptions& options) {
  check_nll_gradient(grad, o);
  const NllCall call(o, options);
  const Tensor& like = o.parameters;
  Tensor out = empty(like.sizes().data(), like.dim(), like.scalar_type(), like, o.op);
  Tensor shared =
      o.shared ? empty(o.shared->sizes().data(), o.shared->dim(), compute_type(like.scalar_type()), like, o.op) : Tensor();
  if (call.rows * call.event == 0) {
    if (o.shared) call.device.set_to_zero(shared);
    return {out, shared};
  }
  const Operand of_rows(grad, o.op, 1);
  NllBackward p;
  call.fill(p);
  p.grad = of_rows;
  p.gradients = out.mutable_data_ptr();
  const Array<double> parts(o.shared ? parts_of(p) : 0, like, o.op);
  p.parts = parts;
  void* to_shared = o.shared ? shared.mutable_data_ptr() : nullptr;
  with_storage(like.scalar_type(),
               [&](auto storage) { backward_nll<A, decltype(storage)>(p, to_shared, call.device.processors, call.device); });
  return {out, shared};
}

}  // namespace cuda
}  // namespace vaekit
