// Loops over elements that all operators share: conversions and sums; for_each_instruction_set.h includes them for each instruction
// set.

namespace vaekit {
namespace VAEKIT_ISA {

VAEKIT_TARGET inline void widen(const BFloat16* VAEKIT_RESTRICT in, int n, float* VAEKIT_RESTRICT out) {
  for (int i = 0; i < n; ++i) out[i] = to_float(in[i]);
}
VAEKIT_TARGET inline void widen(const Half* VAEKIT_RESTRICT in, int n, float* VAEKIT_RESTRICT out) {
  for (int i = 0; i < n; ++i) out[i] = to_float(in[i]);
}
VAEKIT_TARGET inline void narrow(const float* VAEKIT_RESTRICT in, int n, BFloat16* VAEKIT_RESTRICT out) {
  for (int i = 0; i < n; ++i) out[i] = to_bfloat16(in[i]);
}
VAEKIT_TARGET inline void narrow(const float* VAEKIT_RESTRICT in, int n, Half* VAEKIT_RESTRICT out) {
  for (int i = 0; i < n; ++i) out[i] = to_half(in[i]);
}

// The sum of a piece of a row, in double: element i goes to lane i % 16, and the lanes are added in halves. The order is the same for
// every instruction set.
template <class T>
VAEKIT_TARGET double sum_in_double(const T* VAEKIT_RESTRICT values, int n) {
  double x[16] = {}, halves[8], quarters[4];
  int i = 0;
  for (; i + 16 <= n; i += 16) {
    for (int lane = 0; lane < 16; ++lane) x[lane] += values[i + lane];
  }
  for (int lane = 0; lane < n - i; ++lane) x[lane] += values[i + lane];
  for (int lane = 0; lane < 8; ++lane) halves[lane] = x[lane] + x[lane + 8];
  for (int lane = 0; lane < 4; ++lane) quarters[lane] = halves[lane] + halves[lane + 4];
  return (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
}

// values[i] = 0 where x[i] is NaN.
template <class T>
VAEKIT_TARGET void blank(const T* VAEKIT_RESTRICT x, int n, T* VAEKIT_RESTRICT values) {
  for (int i = 0; i < n; ++i) values[i] = x[i] == x[i] ? values[i] : T(0);
}

constexpr ArrayLoops kArrayLoops = {&widen,  &widen, &narrow, &narrow, &sum_in_double<float>, &sum_in_double<double>,
                                    &blank<float>, &blank<double>};

}  // namespace VAEKIT_ISA
}  // namespace vaekit
