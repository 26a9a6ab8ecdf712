// Which operators the library has kernels of.
#pragma once

#include <torch/csrc/stable/library.h>

namespace vaekit {

// Adds an operator's name to those that `vaekit_cpu_operators` gives.
struct Listed {
  explicit Listed(const char* name);
};

}  // namespace vaekit

// Registers the kernels of an operator and of its backward, in one line at the end of the operator's file.
#define VAEKIT_CPU_OPERATOR(name, forward, backward)   \
  STABLE_TORCH_LIBRARY_IMPL(vaekit, CPU, m) {          \
    m.impl(#name, TORCH_BOX(&forward));                \
    m.impl(#name "_backward", TORCH_BOX(&backward));   \
  }                                                    \
  static const vaekit::Listed listed_##name(#name);
