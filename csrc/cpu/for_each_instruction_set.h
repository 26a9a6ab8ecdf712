// Includes VAEKIT_LOOPS, a file of loops over elements, once for each instruction set of instruction_sets.h. No include guard: each
// operator has loops of its own, in a namespace of its own within
//   VAEKIT_ISA     the instruction set's namespace. Every function in it has the attribute
//   VAEKIT_TARGET  that makes the compiler use the instruction set.
//   VAEKIT_FUSED   is whether it has fused multiply-adds,
//   VAEKIT_LANES   how many 64-bit lanes an integer vector has: 2, 4 or 8; 0 where there are no x86 intrinsics.
// x86-64-v3 and v4 give the same bits: see real.h.
#include "instruction_sets.h"

#define VAEKIT_ISA baseline
#define VAEKIT_TARGET
#if defined(__aarch64__) || defined(_M_ARM64)
#define VAEKIT_FUSED true
#else
#define VAEKIT_FUSED false
#endif
#define VAEKIT_LANES (VAEKIT_X86 ? 2 : 0)
#include VAEKIT_LOOPS
#undef VAEKIT_ISA
#undef VAEKIT_TARGET
#undef VAEKIT_FUSED
#undef VAEKIT_LANES

// Features rather than an architecture: they add to a -march on the command line, where an architecture would replace it.
#if VAEKIT_DISPATCH
#define VAEKIT_ISA x86_64_v3
#define VAEKIT_TARGET __attribute__((target("avx2,fma,bmi,bmi2,f16c,popcnt")))
#define VAEKIT_FUSED true
#define VAEKIT_LANES 4
#include VAEKIT_LOOPS
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
#include VAEKIT_LOOPS
#undef VAEKIT_ISA
#undef VAEKIT_AVX512
#undef VAEKIT_TARGET
#undef VAEKIT_FUSED
#undef VAEKIT_LANES
#endif

#undef VAEKIT_LOOPS
