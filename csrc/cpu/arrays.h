// An operator's arrays on the CPU: read and written tile by tile, in row-major order of their logical elements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../half.h"
#include "../macros.h"
#include "../shape.h"
#include "instruction_sets.h"

namespace vaekit {

// The loops of array_loops.h for one instruction set.
struct ArrayLoops {
  void (*widen_bfloat16)(const BFloat16* in, int n, float* out);
  void (*widen_half)(const Half* in, int n, float* out);
  void (*narrow_bfloat16)(const float* in, int n, BFloat16* out);
  void (*narrow_half)(const float* in, int n, Half* out);
  double (*sum_floats)(const float* values, int n);
  double (*sum_doubles)(const double* values, int n);
  void (*blank_floats)(const float* x, int n, float* values);
  void (*blank_doubles)(const double* x, int n, double* values);
};

const ArrayLoops& array_loops(int set = instruction_set());  // by its place in kInstructionSets

enum class Storage { kFloat, kDouble, kBFloat16, kHalf };

// The element at `place`, which may be any address.
template <class S>
VAEKIT_INLINE S load(const void* place) {
  S element;
  std::memcpy(&element, place, sizeof(element));
  return element;
}

VAEKIT_INLINE float widen(float x) { return x; }
VAEKIT_INLINE double widen(double x) { return x; }
VAEKIT_INLINE float widen(BFloat16 x) { return to_float(x); }
VAEKIT_INLINE float widen(Half x) { return to_float(x); }

inline void widen(const BFloat16* in, int n, float* out) { array_loops().widen_bfloat16(in, n, out); }
inline void widen(const Half* in, int n, float* out) { array_loops().widen_half(in, n, out); }
inline void narrow(const float* in, int n, BFloat16* out) { array_loops().narrow_bfloat16(in, n, out); }
inline void narrow(const float* in, int n, Half* out) { array_loops().narrow_half(in, n, out); }
template <class T>
inline void widen(const T* in, int n, T* out) { std::memcpy(out, in, sizeof(T) * n); }

inline double sum_in_double(const float* values, int n) { return array_loops().sum_floats(values, n); }
inline double sum_in_double(const double* values, int n) { return array_loops().sum_doubles(values, n); }
// values[i] = 0 where x[i] is NaN.
inline void blank(const float* x, int n, float* values) { array_loops().blank_floats(x, n, values); }
inline void blank(const double* x, int n, double* values) { array_loops().blank_doubles(x, n, values); }

// Prefetches memory that will soon be read or written: between two tiles there is so much arithmetic that the hardware prefetcher,
// which follows streams, loses track.
template <bool write>
VAEKIT_INLINE void prefetch(const void* data, size_t bytes) {
  constexpr size_t line = 64;
  const char* p = static_cast<const char*>(data);
#if defined(__GNUC__)
  for (size_t i = 0; i < bytes; i += line) __builtin_prefetch(p + i, write);
#elif VAEKIT_X86
  for (size_t i = 0; i < bytes; i += line) _mm_prefetch(p + i, _MM_HINT_T0);
#else
  (void)p, (void)bytes, (void)line;
#endif
}

// A strided array, wherever its elements lie. Dimensions that lie one behind the other in memory are merged, so that almost every
// tensor has one or two.
class Input {
 public:
  Input() = default;
  Input(const void* data, Storage storage, int dims, const int64_t* sizes, const int64_t* strides) : data_(data), storage_(storage) {
    for (int i = 0; i < dims; ++i) {
      if (sizes[i] == 1) continue;
      if (dims_ > 0 && strides_[dims_ - 1] == strides[i] * sizes[i]) {
        sizes_[dims_ - 1] *= sizes[i];
        strides_[dims_ - 1] = strides[i];
      } else {
        sizes_[dims_] = sizes[i];
        strides_[dims_++] = strides[i];
      }
    }
    if (dims_ == 0) {
      sizes_[0] = 1, strides_[0] = 1, dims_ = 1;
    }
  }

  explicit operator bool() const { return data_ != nullptr; }

  // Prefetches elements start .. start + n, if they are contiguous in memory.
  void prefetch(int64_t start, int n) const {
    if (dims_ == 1 && strides_[0] == 1 && start + n <= sizes_[0]) {
      const int64_t bytes = storage_ == Storage::kDouble ? 8 : storage_ == Storage::kFloat ? 4 : 2;
      vaekit::prefetch<false>(static_cast<const char*>(data_) + start * bytes, n * bytes);
    }
  }

  // Elements start .. start + n as T: in place if possible, otherwise copied to `buffer`. Of an array that lies `displacement` elements
  // further on in memory, where that is given.
  template <class T>
  const T* read(int64_t start, int n, T* buffer, int64_t displacement = 0) const {
    constexpr Storage own = sizeof(T) == 8 ? Storage::kDouble : Storage::kFloat;
    if (storage_ == own) return read_as<T, T>(start, n, buffer, displacement);
    if constexpr (sizeof(T) == 4) {
      return storage_ == Storage::kHalf ? read_as<Half, T>(start, n, buffer, displacement)
                                        : read_as<BFloat16, T>(start, n, buffer, displacement);
    }
    return nullptr;  // unreachable: the operators have checked the dtypes
  }

 private:
  template <class S, class T>
  const T* read_as(int64_t start, int n, T* buffer, int64_t displacement) const {
    int64_t index[kMaxDims], offset = displacement;
    for (int d = dims_ - 1; d > 0; --d) {
      index[d] = start % sizes_[d];
      start /= sizes_[d];
      offset += index[d] * strides_[d];
    }
    index[0] = start;
    offset += start * strides_[0];
    const int inner = dims_ - 1;
    const S* data = static_cast<const S*>(data_) + offset;
    // Memory from elsewhere, a file's for example, can begin at any address.
    const bool aligned = reinterpret_cast<uintptr_t>(data) % alignof(S) == 0;
    if constexpr (sizeof(S) == sizeof(T)) {
      if (aligned && strides_[inner] == 1 && n <= sizes_[inner] - index[inner]) return data;
    }
    for (int done = 0;;) {
      const int64_t left = sizes_[inner] - index[inner];
      const int run = left < n - done ? static_cast<int>(left) : n - done;
      if (aligned && strides_[inner] == 1 && run >= 16) {
        widen(data, run, buffer + done);
      } else {
        for (int i = 0; i < run; ++i) buffer[done + i] = widen(load<S>(data + i * strides_[inner]));
      }
      done += run;
      if (done >= n) return buffer;
      data += run * strides_[inner];
      index[inner] += run;
      for (int d = inner; d > 0 && index[d] == sizes_[d]; --d) {  // carry
        data += strides_[d - 1] - sizes_[d] * strides_[d];
        index[d] = 0;
        ++index[d - 1];
      }
    }
  }

  const void* data_ = nullptr;
  Storage storage_ = Storage::kFloat;
  int dims_ = 0;
  int64_t sizes_[kMaxDims], strides_[kMaxDims];
};

// A new contiguous array.
class Output {
 public:
  Output() = default;
  Output(void* data, Storage storage) : data_(data), storage_(storage) {}

  // Where to write elements start, ...: in place, or into `buffer`, from which `flush` converts them.
  template <class T>
  T* at(int64_t start, T* buffer) const {
    const bool own = storage_ == (sizeof(T) == 8 ? Storage::kDouble : Storage::kFloat);
    return own ? static_cast<T*>(data_) + start : buffer;
  }

  template <class T>
  void prefetch(int64_t start, int n) const {
    if (T* place = at<T>(start, nullptr)) vaekit::prefetch<true>(place, n * sizeof(T));
  }

  void flush(int64_t start, int n, const double*) const { (void)start, (void)n; }
  void flush(int64_t start, int n, const float* values) const {
    if (storage_ == Storage::kHalf) narrow(values, n, static_cast<Half*>(data_) + start);
    if (storage_ == Storage::kBFloat16) narrow(values, n, static_cast<BFloat16*>(data_) + start);
  }

  // Writes elements start, ... wherever `values` are.
  template <class T>
  void write(int64_t start, int n, const T* values) const {
    if (T* place = at<T>(start, nullptr)) {
      std::copy(values, values + n, place);
    } else {
      flush(start, n, values);
    }
  }

 private:
  void* data_ = nullptr;
  Storage storage_ = Storage::kFloat;
};

}  // namespace vaekit
