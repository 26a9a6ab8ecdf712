// vaekit::poisson_nll and its backward for the CPU. The specification is `Poisson.element_nll`.
#include "../counts.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll_operators.h"
#include "rows.h"

#define VAEKIT_LOOPS "poisson_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

struct PoissonNll {
  static constexpr const char* kName = "poisson_nll";
  static constexpr int64_t kGrain = 8192, kPlanes = 1;

  template <class T>
  static const NllLoops<T>& loops() {
    return VAEKIT_TABLE_OF(instruction_set(), poisson::kLoops<T>);
  }
};

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(poisson_nll, vaekit::PlainNll<vaekit::PoissonNll>::forward, vaekit::PlainNll<vaekit::PoissonNll>::backward)
