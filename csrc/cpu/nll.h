// What every operator `vaekit::*_nll` has on the CPU: its loops over a tile of elements. nll.cpp cuts the data into tiles, reads strided
// and narrow tensors, sums the rows, leaves out what is missing and writes the gradients.
#pragma once

#include <cstdint>
#include <tuple>

#include "../nll.h"

namespace vaekit {

// A tile of n elements.
template <class T>
struct NllTile {
  int n;
  T limit;                     // Real<T>::kExpLimit, passed in for the reason given in real.h
  const T* x;                  // NaN where a value is missing: what a loop makes of it is not used
  const T* const* parameters;  // P arrays, and where the kernel has it spread the shared parameter's
  T shared;                    // a parameter that all elements share, if it is one number
  int64_t option;              // the operator's own
  int64_t planes;              // P
  T constants[2];              // the operator's own
  T* scratch;                  // as many arrays as the kernel asked for, `apart` elements apart
  int64_t apart;
};

template <class T>
struct NllLoops {
  void (*values)(const NllTile<T>& tile, T* nll);  // each element's, in nats
  // The gradients of the parameters, P arrays, and of `shared` where it is not null, element by element.
  void (*gradients)(const NllTile<T>& tile, const T* grad, T* const* parameters, T* shared);
};

// How an operator is computed in a call.
struct NllKernel {
  const NllLoops<float>& float_loops;
  const NllLoops<double>& double_loops;
  int64_t worth;       // how many elements are worth another thread
  double shared = 0;   // the shared parameter where it is no tensor
  bool spread = false;  // whether the loops take the shared parameter as one more array
  int64_t option = 0;
  double constants[2] = {0, 0};
  int64_t scratch = 0;  // how many arrays of a tile's size the loops want for themselves
};

// [B], of checked operands.
Tensor nll(const NllOperands& operands, const NllKernel& kernel);

// Gradients of the parameters, like them and contiguous, and of the shared parameter, an undefined tensor where there is none.
std::tuple<Tensor, Tensor> nll_backward(const Tensor& grad, const NllOperands& operands, const NllKernel& kernel);

}  // namespace vaekit
