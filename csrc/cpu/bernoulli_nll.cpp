// vaekit::bernoulli_nll and its backward for the CPU. The specification is `Bernoulli.element_nll`.
#include "../bernoulli_nll.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll_operators.h"

#define VAEKIT_LOOPS "bernoulli_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

struct BernoulliNll {
  static constexpr const char* kName = "bernoulli_nll";
  static constexpr int64_t kGrain = 8192, kPlanes = 1;

  template <class T>
  static const NllLoops<T>& loops() {
    return VAEKIT_TABLE_OF(instruction_set(), bernoulli::kLoops<T>);
  }
};

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(bernoulli_nll, vaekit::PlainNll<vaekit::BernoulliNll>::forward, vaekit::PlainNll<vaekit::BernoulliNll>::backward)
