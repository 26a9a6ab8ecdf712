// The size of a call. No torch header.
#pragma once

#include <cstdint>

namespace vaekit {

constexpr int kMaxDims = 64;  // of a tensor, the samples' among them

// A row is one event. The noise of element i of sample k is element start + i of the stream (seed, offset + k 2^40).
struct Shape {
  int64_t rows, event, samples;
  uint64_t start;

  int64_t elements() const { return rows * event; }
};

}  // namespace vaekit
