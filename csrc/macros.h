// What each compiler calls the same thing. No torch header; compiles for host and device.
#pragma once

#if defined(__CUDACC__)
#define VAEKIT_INLINE __host__ __device__ __forceinline__
#elif defined(_MSC_VER)
#define VAEKIT_INLINE __forceinline
#else
// Always inlined, so that a caller compiled for a wider instruction set takes its callees along.
#define VAEKIT_INLINE inline __attribute__((always_inline))
#endif

#if defined(__CUDACC__)
#define VAEKIT_PRAGMA(text) _Pragma(#text)
#define VAEKIT_UNROLL(n) VAEKIT_PRAGMA(unroll n)
#elif defined(__clang__)
#define VAEKIT_PRAGMA(text) _Pragma(#text)
#define VAEKIT_UNROLL(n) VAEKIT_PRAGMA(clang loop unroll_count(n))
#elif defined(__GNUC__)
#define VAEKIT_PRAGMA(text) _Pragma(#text)
#define VAEKIT_UNROLL(n) VAEKIT_PRAGMA(GCC unroll n)
#else
#define VAEKIT_UNROLL(n)
#endif

#if defined(_MSC_VER)
#define VAEKIT_RESTRICT __restrict
#else
#define VAEKIT_RESTRICT __restrict__
#endif

#if defined(_WIN32)
#define VAEKIT_EXPORT extern "C" __declspec(dllexport)
#else
#define VAEKIT_EXPORT extern "C" __attribute__((visibility("default")))
#endif
