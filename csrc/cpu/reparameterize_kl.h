// The loops of reparameterize_kl_loops.h, compiled for every instruction set.
#pragma once

#include "../gaussian.h"
#include "../macros.h"
#include "../philox.h"
#include "instruction_sets.h"

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

}  // namespace vaekit

#define VAEKIT_LOOPS "reparameterize_kl_loops.h"
#include "for_each_instruction_set.h"

namespace vaekit {

template <class T>
const Loops<T>& loops() {
  return VAEKIT_TABLE_OF(instruction_set(), kLoops<T>);
}

}  // namespace vaekit
