// What the library says of itself to vaekit/ops/native.py.
#include "library.h"

#include <string>

#include "../macros.h"
#include "instruction_sets.h"

namespace vaekit {
namespace {

std::string& names() {
  static std::string names;
  return names;
}

}  // namespace

Listed::Listed(const char* name) { names().append(names().empty() ? "" : " ").append(name); }

}  // namespace vaekit

// The instruction set in use.
VAEKIT_EXPORT const char* vaekit_cpu_capability() { return vaekit::kInstructionSets[vaekit::instruction_set()].name; }

// The operators that have kernels, separated by spaces.
VAEKIT_EXPORT const char* vaekit_cpu_operators() { return vaekit::names().c_str(); }
