// Sums and maxima over many elements in one order for all instruction sets: element j goes to lane j % kLanes, and the lanes are
// joined in halves.
#pragma once

#include "../macros.h"

namespace vaekit {

constexpr int kLanes = 32;

template <class T>
VAEKIT_INLINE T sum_of_lanes(T* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

template <class T>
VAEKIT_INLINE T maximum_of_lanes(T* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int lane = 0; lane < width; ++lane) lanes[lane] = lanes[lane] < lanes[lane + width] ? lanes[lane + width] : lanes[lane];
  }
  return lanes[0];
}

}  // namespace vaekit
