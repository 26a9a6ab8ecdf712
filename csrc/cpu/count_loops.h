// Loops over counts that the operators of counts share, each with its own arithmetic of ../counts.h; included by their loops, for
// each instruction set.
//
// Most counts are 0. So every element is computed as if its count were, and then the others once more: gathered, a block at a
// time, for the longer formula, and put back.

namespace vaekit {
namespace VAEKIT_ISA {
namespace counts {

constexpr int kBlock = 128;  // counts that are not 0, computed at a time
constexpr int kLanes = 16;   // a block is filled up to a multiple of so many

template <class T>
struct Elements {
  const T *log_mean, *log_theta, *logit, *x;  // the same address more than once where a parameter is absent
};

template <class T>
struct Slopes {
  T *by_log_mean, *by_log_theta, *by_logit;  // null where not wanted
};

// The places of what is not 0, and how many there are.
template <class T>
VAEKIT_TARGET int others(const T* VAEKIT_RESTRICT x, int n, int* VAEKIT_RESTRICT places) {
  int count = 0;
  for (int i = 0; i < n; ++i) {
    places[count] = i;
    count += x[i] != T(0);
  }
  return count;
}

template <class T>
struct Block {
  alignas(64) T log_mean[kBlock];
  alignas(64) T log_theta[kBlock];
  alignas(64) T logit[kBlock];
  alignas(64) T x[kBlock];
};

// Returns how many elements the block has, some of them only to fill it up.
template <class T>
VAEKIT_TARGET int gather(const Elements<T>& in, const int* VAEKIT_RESTRICT places, int n, Block<T>& block) {
  for (int j = 0; j < n; ++j) {
    const int i = places[j];
    block.log_mean[j] = in.log_mean[i];
    block.log_theta[j] = in.log_theta[i];
    block.logit[j] = in.logit[i];
    block.x[j] = in.x[i] < T(1) ? T(1) : in.x[i];
  }
  const int filled = (n + kLanes - 1) / kLanes * kLanes;
  for (int j = n; j < filled; ++j) block.log_mean[j] = block.log_theta[j] = block.logit[j] = T(0), block.x[j] = T(1);
  return filled;
}

template <class Arithmetic, class T>
VAEKIT_TARGET void values(const Elements<T>& in, int n, T limit, T* VAEKIT_RESTRICT nll) {
  const T *VAEKIT_RESTRICT log_mean = in.log_mean, *VAEKIT_RESTRICT log_theta = in.log_theta, *VAEKIT_RESTRICT logit = in.logit;
  for (int i = 0; i < n; ++i) {
    nll[i] = Arithmetic::template of_none<VAEKIT_FUSED>(log_mean[i], log_theta[i], logit[i], limit).nll;
  }
  int places[kMaxTile];
  const int count = others(in.x, n, places);
  for (int first = 0; first < count; first += kBlock) {
    const int m = count - first < kBlock ? count - first : kBlock;
    Block<T> block;
    alignas(64) T out[kBlock];
    const int filled = gather(in, places + first, m, block);
    for (int j = 0; j < filled; ++j) {
      const T mean = block.log_mean[j], theta = block.log_theta[j];
      out[j] = Arithmetic::template of_count<VAEKIT_FUSED>(mean, theta, block.logit[j], block.x[j], limit).nll;
    }
    for (int j = 0; j < m; ++j) nll[places[first + j]] = out[j];
  }
}

// The gradients as if every count were 0: a function, as its arguments tell the compiler that no two arrays overlap.
template <class Arithmetic, class T>
VAEKIT_TARGET void gradients_of_none(const T* VAEKIT_RESTRICT log_mean, const T* VAEKIT_RESTRICT log_theta,
                                     const T* VAEKIT_RESTRICT logit, const T* VAEKIT_RESTRICT grad, int n, T limit,
                                     T* VAEKIT_RESTRICT by_log_mean, T* VAEKIT_RESTRICT by_log_theta,
                                     T* VAEKIT_RESTRICT by_logit) {
  for (int i = 0; i < n; ++i) {
    const CountNll<T> e = Arithmetic::template of_none<VAEKIT_FUSED>(log_mean[i], log_theta[i], logit[i], limit);
    by_log_mean[i] = grad[i] * e.by_log_mean;
    if constexpr (Arithmetic::kParameters > 1) by_log_theta[i] = grad[i] * e.by_log_theta;
    if constexpr (Arithmetic::kParameters > 2) by_logit[i] = grad[i] * e.by_logit;
  }
}

template <class T>
VAEKIT_TARGET void put_back(const T* VAEKIT_RESTRICT slopes, const int* VAEKIT_RESTRICT places, int n,
                            const T* VAEKIT_RESTRICT grad, T* VAEKIT_RESTRICT out) {
  for (int j = 0; j < n; ++j) out[places[j]] = grad[places[j]] * slopes[j];
}

template <class Arithmetic, class T>
VAEKIT_TARGET void gradients(const Elements<T>& in, int n, T limit, const T* VAEKIT_RESTRICT grad, const Slopes<T>& out) {
  gradients_of_none<Arithmetic>(in.log_mean, in.log_theta, in.logit, grad, n, limit, out.by_log_mean, out.by_log_theta,
                                out.by_logit);
  int places[kMaxTile];
  const int count = others(in.x, n, places);
  for (int first = 0; first < count; first += kBlock) {
    const int m = count - first < kBlock ? count - first : kBlock;
    Block<T> block;
    alignas(64) T mean_slopes[kBlock];
    alignas(64) T theta_slopes[kBlock];
    alignas(64) T logit_slopes[kBlock];
    const int filled = gather(in, places + first, m, block);
    for (int j = 0; j < filled; ++j) {
      const CountNll<T> e =
          Arithmetic::template of_count<VAEKIT_FUSED>(block.log_mean[j], block.log_theta[j], block.logit[j], block.x[j], limit);
      mean_slopes[j] = e.by_log_mean, theta_slopes[j] = e.by_log_theta, logit_slopes[j] = e.by_logit;
    }
    put_back(mean_slopes, places + first, m, grad, out.by_log_mean);
    if constexpr (Arithmetic::kParameters > 1) put_back(theta_slopes, places + first, m, grad, out.by_log_theta);
    if constexpr (Arithmetic::kParameters > 2) put_back(logit_slopes, places + first, m, grad, out.by_logit);
  }
}

}  // namespace counts
}  // namespace VAEKIT_ISA
}  // namespace vaekit
