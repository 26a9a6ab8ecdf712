// Loops over elements of reparameterize_kl; for_each_instruction_set.h includes them for each instruction set.
// The compiler vectorises the loops. Only Philox's words use intrinsics: from plain code no compiler derives the instruction that
// multiplies the low halves of 64-bit lanes, which makes the words two to three times faster.

namespace vaekit {
namespace VAEKIT_ISA {

constexpr bool kFused = VAEKIT_FUSED;
constexpr int kStep = VAEKIT_LANES > 0 ? 2 * VAEKIT_LANES : 4;  // blocks made at a time

#if VAEKIT_LANES == 2
using Lanes = __m128i;
VAEKIT_TARGET VAEKIT_INLINE Lanes splat(uint64_t x) { return _mm_set1_epi64x(static_cast<long long>(x)); }
VAEKIT_TARGET VAEKIT_INLINE Lanes counters(uint64_t first) { return _mm_add_epi64(splat(first), _mm_set_epi64x(1, 0)); }
VAEKIT_TARGET VAEKIT_INLINE Lanes product(Lanes a, Lanes b) { return _mm_mul_epu32(a, b); }
VAEKIT_TARGET VAEKIT_INLINE Lanes high_half(Lanes a) { return _mm_srli_epi64(a, 32); }
VAEKIT_TARGET VAEKIT_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) { return _mm_xor_si128(_mm_xor_si128(a, b), c); }
VAEKIT_TARGET VAEKIT_INLINE void store_low_halves(uint32_t* out, Lanes a, Lanes b) {
  const __m128 packed = _mm_shuffle_ps(_mm_castsi128_ps(a), _mm_castsi128_ps(b), 0x88);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm_castps_si128(packed));
}
#elif VAEKIT_LANES == 4
using Lanes = __m256i;
VAEKIT_TARGET VAEKIT_INLINE Lanes splat(uint64_t x) { return _mm256_set1_epi64x(static_cast<long long>(x)); }
VAEKIT_TARGET VAEKIT_INLINE Lanes counters(uint64_t first) {
  return _mm256_add_epi64(splat(first), _mm256_setr_epi64x(0, 1, 2, 3));
}
VAEKIT_TARGET VAEKIT_INLINE Lanes product(Lanes a, Lanes b) { return _mm256_mul_epu32(a, b); }
VAEKIT_TARGET VAEKIT_INLINE Lanes high_half(Lanes a) { return _mm256_srli_epi64(a, 32); }
VAEKIT_TARGET VAEKIT_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) {
  return _mm256_xor_si256(_mm256_xor_si256(a, b), c);
}
VAEKIT_TARGET VAEKIT_INLINE void store_low_halves(uint32_t* out, Lanes a, Lanes b) {
  const __m256 packed = _mm256_shuffle_ps(_mm256_castsi256_ps(a), _mm256_castsi256_ps(b), 0x88);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute4x64_epi64(_mm256_castps_si256(packed), 0xD8));
}
#elif VAEKIT_LANES == 8
using Lanes = __m512i;
VAEKIT_TARGET VAEKIT_INLINE Lanes splat(uint64_t x) { return _mm512_set1_epi64(static_cast<long long>(x)); }
VAEKIT_TARGET VAEKIT_INLINE Lanes counters(uint64_t first) {
  return _mm512_add_epi64(splat(first), _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7));
}
VAEKIT_TARGET VAEKIT_INLINE Lanes product(Lanes a, Lanes b) { return _mm512_mul_epu32(a, b); }
VAEKIT_TARGET VAEKIT_INLINE Lanes high_half(Lanes a) { return _mm512_srli_epi64(a, 32); }
VAEKIT_TARGET VAEKIT_INLINE Lanes exclusive_or(Lanes a, Lanes b, Lanes c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
VAEKIT_TARGET VAEKIT_INLINE void store_low_halves(uint32_t* out, Lanes a, Lanes b) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi64_epi32(a));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 8), _mm512_cvtepi64_epi32(b));
}
#endif

// Word j of block `first` + i goes to words[j][i], for i below `blocks`, a multiple of kStep.
VAEKIT_TARGET inline void philox_words(uint32_t (*words)[kBlocks], uint64_t seed, uint64_t first, int blocks) {
#if VAEKIT_LANES > 0
  const Lanes multiplier_0 = splat(kMultiplier0), multiplier_1 = splat(kMultiplier1);
  for (int i = 0; i < blocks; i += kStep) {
    // A word is the low half of its lane; `product` and `store_low_halves` ignore the high one.
    uint32_t key_0 = static_cast<uint32_t>(seed), key_1 = static_cast<uint32_t>(seed >> 32);
    const Lanes zero = splat(0), counter_a = counters(first + i), counter_b = counters(first + i + VAEKIT_LANES);
    // The first round, in which words 2 and 3 are 0 and so is one of the products.
    Lanes a3 = product(counter_a, multiplier_0), b3 = product(counter_b, multiplier_0), a1 = zero, b1 = zero;
    Lanes a0 = exclusive_or(high_half(counter_a), splat(key_0), zero), a2 = exclusive_or(high_half(a3), splat(key_1), zero);
    Lanes b0 = exclusive_or(high_half(counter_b), splat(key_0), zero), b2 = exclusive_or(high_half(b3), splat(key_1), zero);
    VAEKIT_UNROLL(9)
    for (int round = 1; round < 10; ++round) {
      key_0 += kWeyl0;
      key_1 += kWeyl1;
      const Lanes k0 = splat(key_0), k1 = splat(key_1);
      const Lanes product_a0 = product(a0, multiplier_0), product_a1 = product(a2, multiplier_1);
      const Lanes product_b0 = product(b0, multiplier_0), product_b1 = product(b2, multiplier_1);
      a0 = exclusive_or(high_half(product_a1), a1, k0), a1 = product_a1;
      a2 = exclusive_or(high_half(product_a0), a3, k1), a3 = product_a0;
      b0 = exclusive_or(high_half(product_b1), b1, k0), b1 = product_b1;
      b2 = exclusive_or(high_half(product_b0), b3, k1), b3 = product_b0;
    }
    store_low_halves(words[0] + i, a0, b0);
    store_low_halves(words[1] + i, a1, b1);
    store_low_halves(words[2] + i, a2, b2);
    store_low_halves(words[3] + i, a3, b3);
  }
#else
  for (int i = 0; i < blocks; ++i) {
    const uint64_t counter = first + i;
    const Words x = philox(seed, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32));
    words[0][i] = x.x0, words[1][i] = x.x1, words[2][i] = x.x2, words[3][i] = x.x3;
  }
#endif
}

VAEKIT_TARGET VAEKIT_INLINE void normals_of(const uint32_t (*words)[kBlocks], int blocks, float* VAEKIT_RESTRICT out) {
  for (int i = 0; i < blocks; ++i) {
    const Pair<float> a = box_muller<kFused>(uniform(words[0][i]), uniform(words[1][i]));
    const Pair<float> b = box_muller<kFused>(uniform(words[2][i]), uniform(words[3][i]));
    out[4 * i] = a.first, out[4 * i + 1] = a.second, out[4 * i + 2] = b.first, out[4 * i + 3] = b.second;
  }
}

VAEKIT_TARGET VAEKIT_INLINE void normals_of(const uint32_t (*words)[kBlocks], int blocks, double* VAEKIT_RESTRICT out) {
  for (int i = 0; i < blocks; ++i) {
    const Pair<double> a = box_muller<kFused>(uniform(words[0][i], words[1][i]), uniform(words[2][i], words[3][i]));
    out[2 * i] = a.first, out[2 * i + 1] = a.second;
  }
}

// The normals of the blocks `first`, `first` + 1, ...; `blocks` is a multiple of kStep and at most kBlocks.
template <class T>
VAEKIT_TARGET void normals(T* out, uint64_t seed, uint64_t first, int blocks) {
  alignas(64) uint32_t words[4][kBlocks];
  philox_words(words, seed, first, blocks);
  normals_of(words, blocks, out);
}

// One draw z and each element's divergence from N(0, 1).
template <class T>
VAEKIT_TARGET void draw_and_diverge(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT logvar, const T* VAEKIT_RESTRICT eps,
                                    int n, T limit, T* VAEKIT_RESTRICT z, T* VAEKIT_RESTRICT kl) {
  for (int i = 0; i < n; ++i) {
    const Divergence<T> d = vaekit::divergence<kFused>(mu[i], logvar[i], limit);
    z[i] = draw<kFused>(mu[i], d.sigma, eps[i]);
    kl[i] = d.kl;
  }
}

// The same for several draws: sigma = e^(logvar / 2), with which `sample` makes each of them, and the divergence.
template <class T>
VAEKIT_TARGET void divergence(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT logvar, int n, T limit,
                              T* VAEKIT_RESTRICT sigma, T* VAEKIT_RESTRICT kl) {
  for (int i = 0; i < n; ++i) {
    const Divergence<T> d = vaekit::divergence<kFused>(mu[i], logvar[i], limit);
    sigma[i] = d.sigma;
    kl[i] = d.kl;
  }
}

// The same from N(prior_mu, e^prior_logvar).
template <class T>
VAEKIT_TARGET void divergence_from(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT logvar,
                                   const T* VAEKIT_RESTRICT prior_mu, const T* VAEKIT_RESTRICT prior_logvar, int n, T limit,
                                   T* VAEKIT_RESTRICT sigma, T* VAEKIT_RESTRICT kl) {
  for (int i = 0; i < n; ++i) {
    const Divergence<T> d = vaekit::divergence_from<kFused>(mu[i], logvar[i], prior_mu[i], prior_logvar[i], limit);
    sigma[i] = d.sigma;
    kl[i] = d.kl;
  }
}

template <class T>
VAEKIT_TARGET void sample(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT sigma, const T* VAEKIT_RESTRICT eps, int n,
                          T* VAEKIT_RESTRICT z) {
  for (int i = 0; i < n; ++i) z[i] = draw<kFused>(mu[i], sigma[i], eps[i]);
}

// The sum of a piece of a row: element i goes to lane i % 32, and the lanes are added in halves. The order is the same for every
// instruction set. `values` can be read up to the next multiple of 32.
template <class T>
VAEKIT_TARGET T sum(const T* VAEKIT_RESTRICT values, int n) {
  if (n <= 4) {  // the same order without the zeros
    const T even = n > 2 ? values[0] + values[2] : values[0], odd = n > 3 ? values[1] + values[3] : values[1];
    return n > 1 ? even + odd : even;
  }
  T x[32] = {}, halves[16], quarters[8], eighths[4];
  int i = 0;
  for (; i + 32 <= n; i += 32) {
    for (int lane = 0; lane < 32; ++lane) x[lane] += values[i + lane];
  }
  if (i < n) {
    using Bits = typename Real<T>::Bits;
    const Bits* mask = kMask<Bits>.bits + 32 - (n - i);
    for (int lane = 0; lane < 32; ++lane) x[lane] += bit_cast<T>(bit_cast<Bits>(values[i + lane]) & mask[lane]);
  }
  for (int lane = 0; lane < 16; ++lane) halves[lane] = x[lane] + x[lane + 16];
  for (int lane = 0; lane < 8; ++lane) quarters[lane] = halves[lane] + halves[lane + 8];
  for (int lane = 0; lane < 4; ++lane) eighths[lane] = quarters[lane] + quarters[lane + 4];
  return (eighths[0] + eighths[2]) + (eighths[1] + eighths[3]);
}

// Adds one of several samples' grad_z and grad_z eps to their sums.
template <class T>
VAEKIT_TARGET void add_sample(const T* VAEKIT_RESTRICT grad_z, const T* VAEKIT_RESTRICT eps, int n, T* VAEKIT_RESTRICT grad_mu,
                              T* VAEKIT_RESTRICT scaled) {
  for (int i = 0; i < n; ++i) {
    grad_mu[i] += grad_z[i];
    scaled[i] = multiply_add<kFused>(grad_z[i], eps[i], scaled[i]);
  }
}

// The gradients of one draw and of its divergence from N(0, 1).
template <class T>
VAEKIT_TARGET void gradients(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT logvar, const T* VAEKIT_RESTRICT eps,
                             const T* VAEKIT_RESTRICT grad_z, const T* VAEKIT_RESTRICT grad_kl, int n, T limit,
                             T* VAEKIT_RESTRICT grad_mu, T* VAEKIT_RESTRICT grad_logvar) {
  for (int i = 0; i < n; ++i) {
    const Gradient<T> g = gradient<kFused>(mu[i], logvar[i], eps[i], grad_z[i], grad_kl[i], limit);
    grad_mu[i] = g.mu;
    grad_logvar[i] = g.logvar;
  }
}

// grad_logvar of draws alone; `scaled` is the sum of grad_z eps.
template <class T>
VAEKIT_TARGET void draw_gradient(const T* VAEKIT_RESTRICT logvar, const T* VAEKIT_RESTRICT scaled, int n, T limit,
                                 T* VAEKIT_RESTRICT grad_logvar) {
  for (int i = 0; i < n; ++i) grad_logvar[i] = vaekit::draw_gradient<kFused>(logvar[i], scaled[i], limit);
}

// Adds the gradients of a divergence from N(0, 1).
template <class T>
VAEKIT_TARGET void add_divergence(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT logvar,
                                  const T* VAEKIT_RESTRICT grad_kl, int n, T limit, T* VAEKIT_RESTRICT grad_mu,
                                  T* VAEKIT_RESTRICT grad_logvar) {
  for (int i = 0; i < n; ++i) {
    const Gradient<T> draws = {grad_mu[i], grad_logvar[i]};
    const Gradient<T> g = vaekit::add_divergence<kFused>(draws, mu[i], logvar[i], grad_kl[i], limit);
    grad_mu[i] = g.mu;
    grad_logvar[i] = g.logvar;
  }
}

// Adds the gradients of a divergence from N(prior_mu, e^prior_logvar), and writes the prior's own.
template <class T>
VAEKIT_TARGET void add_divergence_from(const T* VAEKIT_RESTRICT mu, const T* VAEKIT_RESTRICT logvar,
                                       const T* VAEKIT_RESTRICT prior_mu, const T* VAEKIT_RESTRICT prior_logvar,
                                       const T* VAEKIT_RESTRICT grad_kl, int n, T limit, T* VAEKIT_RESTRICT grad_mu,
                                       T* VAEKIT_RESTRICT grad_logvar, T* VAEKIT_RESTRICT grad_prior_mu,
                                       T* VAEKIT_RESTRICT grad_prior_logvar) {
  for (int i = 0; i < n; ++i) {
    const GradientFrom<T> g =
        divergence_gradient_from<kFused>(mu[i], logvar[i], prior_mu[i], prior_logvar[i], grad_kl[i], limit);
    grad_mu[i] += g.posterior.mu;
    grad_logvar[i] += g.posterior.logvar;
    grad_prior_mu[i] = g.prior.mu;
    grad_prior_logvar[i] = g.prior.logvar;
  }
}

template <class T>
constexpr Loops<T> kLoops = {kStep,           &normals<T>, &draw_and_diverge<T>, &divergence<T>, &divergence_from<T>,
                             &sample<T>,      &sum<T>,     &add_sample<T>,       &gradients<T>,  &draw_gradient<T>,
                             &add_divergence<T>, &add_divergence_from<T>};

}  // namespace VAEKIT_ISA
}  // namespace vaekit
