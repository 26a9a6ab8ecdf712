// What the operators that compare every pair of a batch share on the CPU: everything is laid out by latent, so that the examples of a
// latent are contiguous.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdint>

#include "../tensors.h"
#include "arrays.h"
#include "lanes.h"

namespace vaekit {

template <class T>
constexpr int kChunk = 2048 / sizeof(T);  // examples at a time: all that a few rows need of them stays in the L1 cache

constexpr int kRows = 4;             // at a time, for which a chunk is read once
constexpr int64_t kWorth = 1 << 15;  // how many pairs and latents are worth another thread

inline int64_t rounded_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

inline int64_t grain(int64_t elements) { return std::max<int64_t>(1, kWorth / std::max<int64_t>(1, elements)); }

// An array that lives as long as a call of the operator `op`.
template <class T>
class Array {
 public:
  Array(int64_t count, const Tensor& like, const char* op)
      : tensor_(empty(&count, 1, sizeof(T) == 8 ? ScalarType::Double : ScalarType::Float, like, op)),
        data_(static_cast<T*>(tensor_.mutable_data_ptr())) {}
  T* operator+(int64_t offset) const { return data_ + offset; }
  T& operator[](int64_t i) const { return data_[i]; }

 private:
  Tensor tensor_;
  T* data_;
};

// [rows, latents] -> [latents, stride].
template <class T>
void transpose(const Input& in, int64_t rows, int64_t latents, int64_t stride, const Array<T>& out) {
  constexpr int kHigh = 32, kWide = 64;  // of a tile
  torch::stable::parallel_for(0, (rows + kHigh - 1) / kHigh, grain(kHigh * latents), [&](int64_t from, int64_t to) {
    T buffer[kHigh][kWide];
    const T* row[kHigh];
    for (int64_t block = from; block < to; ++block) {
      const int64_t start = block * kHigh;
      const int count = static_cast<int>(std::min<int64_t>(kHigh, rows - start));
      for (int64_t d = 0; d < latents; d += kWide) {
        const int width = static_cast<int>(std::min<int64_t>(kWide, latents - d));
        for (int i = 0; i < count; ++i) row[i] = in.read<T>((start + i) * latents + d, width, buffer[i]);
        for (int k = 0; k < width; ++k) {
          T* column = out + ((d + k) * stride + start);
          for (int i = 0; i < count; ++i) column[i] = row[i][k];
        }
      }
    }
  });
}

}  // namespace vaekit
