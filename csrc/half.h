// bfloat16 and float16 as they lie in memory, and their conversions: exact to float, and from float to the nearest, ties to even.
// Bit arithmetic without branches, so that a loop becomes vector code on machines without instructions for it.
#pragma once

#include "macros.h"
#include "real.h"

namespace vaekit {

struct BFloat16 {
  uint16_t bits;
};
struct Half {
  uint16_t bits;
};

VAEKIT_INLINE float to_float(BFloat16 x) { return bit_cast<float>(uint32_t{x.bits} << 16); }

VAEKIT_INLINE BFloat16 to_bfloat16(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7FFFu + ((bits >> 16) & 1)) >> 16;
  return {static_cast<uint16_t>(x != x ? 0x7FC0u : rounded)};
}

VAEKIT_INLINE float to_float(Half x) {
  const uint32_t sign = (uint32_t{x.bits} & 0x8000u) << 16, magnitude = uint32_t{x.bits} & 0x7FFFu;
  // No operand is subnormal, so that a processor told to flush such numbers to zero gives the same.
  const uint32_t normal = (magnitude << 13) + (112u << 23);
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>((magnitude << 13) + (113u << 23)) - 0x1p-14f);
  const uint32_t infinite = 0x7F800000u | (magnitude << 13);
  const uint32_t finite = magnitude < 0x400u ? subnormal : normal;
  return bit_cast<float>((magnitude < 0x7C00u ? finite : infinite) | sign);
}

VAEKIT_INLINE Half to_half(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7FFFFFFFu;
  // Below 2^-14 the result is a multiple of 2^-24: adding 1/2 leaves that multiple in the last bits, rounded.
  const uint32_t subnormal = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3F000000u;
  const uint32_t normal = (magnitude + 0xFFFu + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  const uint32_t finite = magnitude < 0x38800000u ? subnormal : (normal < 0x7C00u ? normal : 0x7C00u);
  const uint32_t special = magnitude > 0x7F800000u ? 0x7E00u : 0x7C00u;
  return {static_cast<uint16_t>((magnitude < 0x7F800000u ? finite : special) | sign)};
}

}  // namespace vaekit
