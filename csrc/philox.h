// Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
// No torch header; compiles for host and device. The same stream as vaekit/ops/philox.py, which describes it.
#pragma once

#include <cstdint>

#include "macros.h"

namespace vaekit {

// Offset between the streams of two samples of one call.
constexpr uint64_t kSampleStride = uint64_t{1} << 40;

// Random123, philox.h: the multipliers, and the key's increments from round to round.
constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;

struct Words {
  uint32_t x0, x1, x2, x3;
};

struct Product {
  uint32_t high, low;
};

VAEKIT_INLINE Product multiply(uint32_t a, uint32_t b) {
#if defined(__CUDA_ARCH__)
  Product product;  // one instruction, where nvcc makes two multiplications of the line below
  asm("{.reg .b64 t; mul.wide.u32 t, %2, %3; mov.b64 {%0, %1}, t;}" : "=r"(product.low), "=r"(product.high) : "r"(a), "r"(b));
  return product;
#else
  return {static_cast<uint32_t>((uint64_t{a} * b) >> 32), a * b};
#endif
}

// The four words for key `seed` and counter (low, high, 0, 0).
VAEKIT_INLINE Words philox(uint64_t seed, uint32_t counter_low, uint32_t counter_high) {
  uint32_t key_0 = static_cast<uint32_t>(seed), key_1 = static_cast<uint32_t>(seed >> 32);
  Words x{counter_low, counter_high, 0, 0};
  VAEKIT_UNROLL(10)
  for (int round = 0; round < 10; ++round) {
    const Product first = multiply(kMultiplier0, x.x0), second = multiply(kMultiplier1, x.x2);
    x = Words{second.high ^ x.x1 ^ key_0, second.low, first.high ^ x.x3 ^ key_1, first.low};
    key_0 += kWeyl0;
    key_1 += kWeyl1;
  }
  return x;
}

}  // namespace vaekit
