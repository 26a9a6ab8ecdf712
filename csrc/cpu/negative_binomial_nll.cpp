// vaekit::negative_binomial_nll and its backward for the CPU. The specification is `NegativeBinomial.element_nll`.
#include "../counts.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll_operators.h"
#include "rows.h"

#define VAEKIT_LOOPS "negative_binomial_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

struct NegativeBinomialNll {
  static constexpr const char* kName = "negative_binomial_nll";
  static constexpr int64_t kGrain = 4096, kPlanes = 1;

  template <class T>
  static const NllLoops<T>& loops() {
    return VAEKIT_TABLE_OF(instruction_set(), negative_binomial::kLoops<T>);
  }
};

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(negative_binomial_nll, vaekit::DispersedNll<vaekit::NegativeBinomialNll>::forward, vaekit::DispersedNll<vaekit::NegativeBinomialNll>::backward)
