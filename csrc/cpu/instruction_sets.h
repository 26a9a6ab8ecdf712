// The loops of loops.h, compiled for every instruction set that the compiler and the platform can choose between at run time, and
// the choice. x86-64-v3 and v4 give the same bits: see gaussian.h.
#pragma once

#include <cstdlib>
#include <cstring>

#include "../gaussian.h"
#include "../half.h"
#include "../macros.h"
#include "../philox.h"

#if defined(__x86_64__) || defined(_M_X64)
#define VAEKIT_X86 1
#include <immintrin.h>
#else
#define VAEKIT_X86 0
#endif

namespace vaekit {

constexpr int kTile = 256;       // elements processed at a time, so that all buffers stay in the L1 cache
constexpr int kBlockStep = 16;   // the most Philox blocks that any instruction set makes at a time
constexpr int kBlocks = kTile / 2 + kBlockStep;  // enough for a tile of doubles that begins inside a block
constexpr int kNoise = 4 * (kTile / 4 + kBlockStep);  // normals made for a tile: some too many at either end

// 32 lanes of ones, then 32 of zeros: from kMask + 32 - n on, a mask of n lanes.
template <class Bits>
struct Mask {
  Bits bits[64];
  constexpr Mask() : bits{} {
    for (int i = 0; i < 32; ++i) bits[i] = ~Bits{0};
  }
};
template <class Bits>
inline constexpr Mask<Bits> kMask;

template <class T>
struct Loops {
  int block_step;  // `normals` makes a multiple of this many blocks
  void (*normals)(T* out, uint64_t seed, uint64_t first, int blocks);
  void (*draw_and_diverge)(const T* mu, const T* logvar, const T* eps, int n, T limit, T* z, T* kl);
  void (*divergence)(const T* mu, const T* logvar, int n, T limit, T* sigma, T* kl);
  void (*divergence_from)(const T* mu, const T* logvar, const T* prior_mu, const T* prior_logvar, int n, T limit, T* sigma,
                          T* kl);
  void (*sample)(const T* mu, const T* sigma, const T* eps, int n, T* z);
  T (*sum)(const T* values, int n);
  void (*add_sample)(const T* grad_z, const T* eps, int n, T* grad_mu, T* scaled);
  void (*gradients)(const T* mu, const T* logvar, const T* eps, const T* grad_z, const T* grad_kl, int n, T limit,
                    T* grad_mu, T* grad_logvar);
  void (*draw_gradient)(const T* logvar, const T* scaled, int n, T limit, T* grad_logvar);
  void (*add_divergence)(const T* mu, const T* logvar, const T* grad_kl, int n, T limit, T* grad_mu, T* grad_logvar);
  void (*add_divergence_from)(const T* mu, const T* logvar, const T* prior_mu, const T* prior_logvar, const T* grad_kl, int n,
                              T limit, T* grad_mu, T* grad_logvar, T* grad_prior_mu, T* grad_prior_logvar);
};

struct Conversions {
  void (*widen_bfloat16)(const BFloat16* in, int n, float* out);
  void (*widen_half)(const Half* in, int n, float* out);
  void (*narrow_bfloat16)(const float* in, int n, BFloat16* out);
  void (*narrow_half)(const float* in, int n, Half* out);
};

}  // namespace vaekit

#define VAEKIT_ISA baseline
#define VAEKIT_TARGET
#if defined(__aarch64__) || defined(_M_ARM64)
#define VAEKIT_FUSED true
#else
#define VAEKIT_FUSED false
#endif
#define VAEKIT_LANES (VAEKIT_X86 ? 2 : 0)
#include "loops.h"
#undef VAEKIT_ISA
#undef VAEKIT_TARGET
#undef VAEKIT_FUSED
#undef VAEKIT_LANES

// Where the compiler accepts a target for a single function and can query the processor. Features rather than an architecture: they
// add to a -march on the command line, where an architecture would replace it.
#if VAEKIT_X86 && defined(__GNUC__)
#define VAEKIT_DISPATCH 1

#define VAEKIT_ISA x86_64_v3
#define VAEKIT_TARGET __attribute__((target("avx2,fma,bmi,bmi2,f16c,popcnt")))
#define VAEKIT_FUSED true
#define VAEKIT_LANES 4
#include "loops.h"
#undef VAEKIT_ISA
#undef VAEKIT_TARGET
#undef VAEKIT_FUSED
#undef VAEKIT_LANES

#define VAEKIT_ISA x86_64_v4
#define VAEKIT_AVX512 "avx2,fma,bmi,bmi2,f16c,popcnt,avx512f,avx512bw,avx512cd,avx512dq,avx512vl"
#if defined(__clang__)
#define VAEKIT_TARGET __attribute__((target(VAEKIT_AVX512), min_vector_width(512)))
#else
#define VAEKIT_TARGET __attribute__((target(VAEKIT_AVX512 ",prefer-vector-width=512")))
#endif
#define VAEKIT_FUSED true
#define VAEKIT_LANES 8
#include "loops.h"
#undef VAEKIT_ISA
#undef VAEKIT_TARGET
#undef VAEKIT_FUSED
#undef VAEKIT_LANES
#else
#define VAEKIT_DISPATCH 0
#endif

namespace vaekit {

struct InstructionSet {
  const char* name;
  const Loops<float>& float_loops;
  const Loops<double>& double_loops;
  const Conversions& conversions;
  bool (*supported)();
};

// From the widest to the narrowest; the last one runs everywhere.
inline const InstructionSet kInstructionSets[] = {
#if VAEKIT_DISPATCH
    {"x86-64-v4", x86_64_v4::kLoops<float>, x86_64_v4::kLoops<double>, x86_64_v4::kConversions,
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     }},
    {"x86-64-v3", x86_64_v3::kLoops<float>, x86_64_v3::kLoops<double>, x86_64_v3::kConversions,
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
              __builtin_cpu_supports("bmi2");
     }},
#endif
    {VAEKIT_X86 ? "x86-64" : "baseline", baseline::kLoops<float>, baseline::kLoops<double>, baseline::kConversions,
     [] { return true; }},
};

// The widest that the processor has, but not wider than what VAEKIT_CPU_CAPABILITY names.
inline const InstructionSet& choose_instruction_set() {
#if VAEKIT_DISPATCH
  __builtin_cpu_init();
#endif
  const char* wanted = std::getenv("VAEKIT_CPU_CAPABILITY");
  const int count = sizeof(kInstructionSets) / sizeof(kInstructionSets[0]);
  int first = 0;
  for (int i = 0; wanted && i < count; ++i) {
    if (std::strcmp(wanted, kInstructionSets[i].name) == 0) first = i;
  }
  while (!kInstructionSets[first].supported()) ++first;
  return kInstructionSets[first];
}

inline const InstructionSet& instruction_set() {
  static const InstructionSet& chosen = choose_instruction_set();
  return chosen;
}

template <class T>
const Loops<T>& loops();
template <>
inline const Loops<float>& loops<float>() {
  return instruction_set().float_loops;
}
template <>
inline const Loops<double>& loops<double>() {
  return instruction_set().double_loops;
}

}  // namespace vaekit
