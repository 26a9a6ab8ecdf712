// vaekit::zero_inflated_negative_binomial_nll and its backward for the CPU. The specification is
// `ZeroInflatedNegativeBinomial.element_nll`.
#include "../counts.h"
#include "instruction_sets.h"
#include "library.h"
#include "nll_operators.h"
#include "rows.h"

#define VAEKIT_LOOPS "zero_inflated_negative_binomial_nll_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {
namespace {

struct ZeroInflatedNegativeBinomialNll {
  static constexpr const char* kName = "zero_inflated_negative_binomial_nll";
  static constexpr int64_t kGrain = 4096, kPlanes = 2;

  template <class T>
  static const NllLoops<T>& loops() {
    return VAEKIT_TABLE_OF(instruction_set(), zero_inflated_negative_binomial::kLoops<T>);
  }
};

}  // namespace
}  // namespace vaekit

VAEKIT_CPU_OPERATOR(zero_inflated_negative_binomial_nll, vaekit::DispersedNll<vaekit::ZeroInflatedNegativeBinomialNll>::forward, vaekit::DispersedNll<vaekit::ZeroInflatedNegativeBinomialNll>::backward)
