// Numbers as they lie in memory on a GPU, and their conversions; 16 bytes at a time; where an operand's elements lie. No torch header and
// no CUDA header.
#pragma once

#include "../half.h"

namespace vaekit {
namespace cuda {

constexpr int kVectorBytes = 16;

template <class S>
struct Compute {
  using Type = float;
};
template <>
struct Compute<double> {
  using Type = double;
};

VAEKIT_INLINE float widen(float x) { return x; }
VAEKIT_INLINE double widen(double x) { return x; }
VAEKIT_INLINE float widen(BFloat16 x) { return to_float(x); }
VAEKIT_INLINE float widen(Half x) {
#if defined(__CUDA_ARCH__)
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(x.bits));
  return wide;
#else
  return to_float(x);
#endif
}

VAEKIT_INLINE void narrow(float x, float& out) { out = x; }
VAEKIT_INLINE void narrow(double x, double& out) { out = x; }
VAEKIT_INLINE void narrow(float x, BFloat16& out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  out = to_bfloat16(x);
#endif
}
VAEKIT_INLINE void narrow(float x, Half& out) {
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out.bits) : "f"(x));
#else
  out = to_half(x);
#endif
}

template <class S>
constexpr int kLength = kVectorBytes / static_cast<int>(sizeof(S));  // elements of 16 bytes

template <class S>
struct alignas(kVectorBytes) Vector {
  S values[kLength<S>];
};

template <class S>
VAEKIT_INLINE Vector<S> load_vector(const void* data, int64_t place) {
  return *reinterpret_cast<const Vector<S>*>(static_cast<const S*>(data) + place);
}

// `place` counts in S; an index into vectors, because nvcc otherwise stores number by number.
template <class S>
VAEKIT_INLINE void store_vector(void* data, int64_t place, const Vector<S>& vector) {
  static_cast<Vector<S>*>(data)[static_cast<uint64_t>(place) / kLength<S>] = vector;
}

// --- where the operands lie ------------------------------------------------------------------------------------------------

// One operand: element `column` of row `row` of sample k lies at data + k * sample_stride + row * row_stride + column * column_stride.
struct View {
  const void* data = nullptr;
  int64_t sample_stride = 0, row_stride = 0, column_stride = 0;

  VAEKIT_INLINE explicit operator bool() const { return data != nullptr; }
  VAEKIT_INLINE int64_t offset(int64_t row, int64_t sample = 0) const { return sample * sample_stride + row * row_stride; }
};

}  // namespace cuda
}  // namespace vaekit
