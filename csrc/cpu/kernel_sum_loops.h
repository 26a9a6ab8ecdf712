// Loops of kernel_sum; for_each_instruction_set.h includes them for each instruction set.

namespace vaekit {
namespace VAEKIT_ISA {
namespace kernel_sum {

template <class T>
VAEKIT_TARGET void add_squares(const T* VAEKIT_RESTRICT x, const T* VAEKIT_RESTRICT y, int64_t stride, int n,
                               T* VAEKIT_RESTRICT squared) {
  const T x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
  const T *VAEKIT_RESTRICT y0 = y, *VAEKIT_RESTRICT y1 = y + stride;
  const T *VAEKIT_RESTRICT y2 = y + 2 * stride, *VAEKIT_RESTRICT y3 = y + 3 * stride;
  for (int j = 0; j < n; ++j) {
    const T a = x0 - y0[j], b = x1 - y1[j], c = x2 - y2[j], d = x3 - y3[j];
    squared[j] += multiply_add<VAEKIT_FUSED>(a, a, b * b) + multiply_add<VAEKIT_FUSED>(c, c, d * d);
  }
}

template <template <bool, class> class Kernel, class T>
VAEKIT_TARGET double sum(const T* VAEKIT_RESTRICT squared, int n, T bandwidth, T lowest) {
  double lanes[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) lanes[lane] = 0;
  for (int start = 0; start < n; start += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += static_cast<double>(Kernel<VAEKIT_FUSED, T>::value(squared[start + lane], bandwidth, lowest));
    }
  }
  return sum_of_lanes(lanes);
}

template <template <bool, class> class Kernel, class T>
VAEKIT_TARGET void add_slopes(const T* VAEKIT_RESTRICT squared, int n, T bandwidth, T lowest, T* VAEKIT_RESTRICT slope) {
  for (int j = 0; j < n; ++j) slope[j] += Kernel<VAEKIT_FUSED, T>::slope(squared[j], bandwidth, lowest);
}

template <class T>
VAEKIT_TARGET void add_differences(const T* VAEKIT_RESTRICT x, const T* VAEKIT_RESTRICT y, int64_t stride, int n,
                                   const T* VAEKIT_RESTRICT slope, double* VAEKIT_RESTRICT out) {
  const T x0 = x[0], x1 = x[1], x2 = x[2], x3 = x[3];
  const T *VAEKIT_RESTRICT y0 = y, *VAEKIT_RESTRICT y1 = y + stride;
  const T *VAEKIT_RESTRICT y2 = y + 2 * stride, *VAEKIT_RESTRICT y3 = y + 3 * stride;
  T a[kLanes], b[kLanes], c[kLanes], d[kLanes];
  for (int lane = 0; lane < kLanes; ++lane) a[lane] = b[lane] = c[lane] = d[lane] = T(0);
  for (int start = 0; start < n; start += kLanes) {
    for (int lane = 0; lane < kLanes; ++lane) {
      const int j = start + lane;
      a[lane] = multiply_add<VAEKIT_FUSED>(slope[j], x0 - y0[j], a[lane]);
      b[lane] = multiply_add<VAEKIT_FUSED>(slope[j], x1 - y1[j], b[lane]);
      c[lane] = multiply_add<VAEKIT_FUSED>(slope[j], x2 - y2[j], c[lane]);
      d[lane] = multiply_add<VAEKIT_FUSED>(slope[j], x3 - y3[j], d[lane]);
    }
  }
  out[0] += sum_of_lanes(a), out[1] += sum_of_lanes(b), out[2] += sum_of_lanes(c), out[3] += sum_of_lanes(d);
}

template <class T>
constexpr KernelLoops<T> kLoops = {&add_squares<T>,
                                   {&sum<InverseMultiquadric, T>, &sum<Gaussian, T>},
                                   {&add_slopes<InverseMultiquadric, T>, &add_slopes<Gaussian, T>},
                                   &add_differences<T>};

}  // namespace kernel_sum
}  // namespace VAEKIT_ISA
}  // namespace vaekit
