// The instruction sets that the compiler and the platform can choose between at run time, and the choice, which all operators share.
#pragma once

#include <cstdlib>
#include <cstring>

#if defined(__x86_64__) || defined(_M_X64)
#define VAEKIT_X86 1
#include <immintrin.h>
#else
#define VAEKIT_X86 0
#endif

// Where the compiler accepts a target for a single function and can query the processor.
#if VAEKIT_X86 && defined(__GNUC__)
#define VAEKIT_DISPATCH 1
#else
#define VAEKIT_DISPATCH 0
#endif

namespace vaekit {

struct InstructionSet {
  const char* name;
  bool (*supported)();
};

// From the widest to the narrowest; the last one runs everywhere.
inline const InstructionSet kInstructionSets[] = {
#if VAEKIT_DISPATCH
    {"x86-64-v4",
     [] {
       return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512cd") &&
              __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
     }},
    {"x86-64-v3",
     [] {
       return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
              __builtin_cpu_supports("bmi2");
     }},
#endif
    {VAEKIT_X86 ? "x86-64" : "baseline", [] { return true; }},
};

// What for_each_instruction_set.h made of a table for the i-th of kInstructionSets.
#if VAEKIT_DISPATCH
#define VAEKIT_TABLE_OF(i, table) ((i) == 0 ? x86_64_v4::table : (i) == 1 ? x86_64_v3::table : baseline::table)
#else
#define VAEKIT_TABLE_OF(i, table) (static_cast<void>(i), baseline::table)
#endif

// The widest that the processor has, but not wider than what VAEKIT_CPU_CAPABILITY names.
inline int choose_instruction_set() {
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
  return first;
}

// The one in use, by its place in kInstructionSets.
inline int instruction_set() {
  static const int chosen = choose_instruction_set();
  return chosen;
}

}  // namespace vaekit
