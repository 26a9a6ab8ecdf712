// The CUDA kernels on the CPU against a plain loop in double, in every order of threads that cuda_on_cpu.h knows. A program of its own,
// so that it can be built from a copy of csrc/ with a fault planted in it, and with sanitizers: test_cuda_faults.py says which faults.
// Every array is exactly as long as it has to be. Prints what is wrong, if anything.

#include "cuda_on_cpu.h"

#include "cuda/reparameterize_kl.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <utility>
#include <vector>

namespace {

using namespace vaekit;
using cuda_on_cpu::Order;

struct Case {
  int64_t rows, event, row_stride, samples;
  bool prior;
};

int64_t key[2] = {7, -3};

double noise(int64_t element, int64_t sample) {
  const uint64_t counter = static_cast<uint64_t>(key[1]) + static_cast<uint64_t>(sample) * kSampleStride + element / 4;
  const Words x = philox(key[0], static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32));
  const bool late = element % 4 >= 2;
  const double u = uniform(late ? x.x2 : x.x0), angle = 2 * M_PI * uniform(late ? x.x3 : x.x1);
  return std::sqrt(-2 * std::log(u)) * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

void expect(double got, double wanted, const char* what, int64_t index, const Case& c) {
  if (std::fabs(got - wanted) <= 1e-5 * (1 + std::fabs(wanted))) return;
  std::printf("%s[%lld] is %g instead of %g, %lld rows of %lld\n", what, static_cast<long long>(index), got, wanted,
              static_cast<long long>(c.rows), static_cast<long long>(c.event));
  std::exit(1);
}

void run(const Case& c, Order order, uint64_t seed) {
  const int64_t n = c.rows * c.event;
  std::vector<float> mu((c.rows - 1) * c.row_stride + c.event), logvar(mu), grad_z(n * c.samples), grad_kl(c.rows);
  for (size_t i = 0; i < mu.size(); ++i) mu[i] = std::sin(1.0 * i), logvar[i] = std::cos(3.0 * i);
  for (size_t i = 0; i < grad_z.size(); ++i) grad_z[i] = std::cos(5.0 * i);
  for (size_t i = 0; i < grad_kl.size(); ++i) grad_kl[i] = 1 + std::sin(2.0 * i);
  std::vector<float> z(n * c.samples), kl(c.rows), grad_mu(n), grad_logvar(n), grad_prior_mu(n), grad_prior_logvar(n);
  std::vector<double> segments;

  const auto launch = [&](auto kernel, const cuda::Grid& grid, const auto& p) {
    cuda_on_cpu::launch(cuda_on_cpu::Settings{order, seed}, kernel, {grid.x, grid.y, grid.z}, unsigned{cuda::kThreads}, p);
  };
  const auto fill = [&](cuda::Operands& p) {
    p.work.rows = c.rows, p.work.event = c.event;
    p.samples = c.samples, p.key = key, p.key_stride = 1, p.start = 0, p.wide_eps = false, p.reduce = true;
    p.mu = {mu.data(), 0, c.row_stride, 1}, p.logvar = {logvar.data(), 0, c.row_stride, 1};
    if (c.prior) p.prior_mu = p.logvar, p.prior_logvar = p.mu;
  };
  cuda::Forward f;
  fill(f);
  segments.resize(cuda::segments_of(f));
  f.z = z.data(), f.kl = kl.data(), f.segments = segments.empty() ? nullptr : segments.data();
  cuda::forward<float>(f, 1, launch);
  cuda::Backward b;
  fill(b);
  b.grad_z = {grad_z.data(), n, c.event, 1}, b.grad_kl = {grad_kl.data(), 0, 1, 0};
  b.grad_mu = grad_mu.data(), b.grad_logvar = grad_logvar.data(), b.grad_stride = c.event;
  b.grad_prior_mu = c.prior ? grad_prior_mu.data() : nullptr, b.grad_prior_logvar = c.prior ? grad_prior_logvar.data() : nullptr;
  cuda::backward<float>(b, 1, launch);

  for (int64_t row = 0; row < c.rows; ++row) {
    double sum = 0;
    for (int64_t i = row * c.event; i < (row + 1) * c.event; ++i) {
      const int64_t at = row * c.row_stride + i - row * c.event;
      const double m = mu[at], l = logvar[at], pm = c.prior ? l : 0, pl = c.prior ? m : 0, sigma = std::exp(l / 2);
      double drawn = 0, scaled = 0;
      for (int64_t k = 0; k < c.samples; ++k) {
        const double eps = noise(i, k), g = grad_z[k * n + i];
        expect(z[k * n + i], m + sigma * eps, "z", k * n + i, c);
        drawn += g, scaled += g * eps;
      }
      const double precision = std::exp(-pl), g = grad_kl[row], by_mu = g * (m - pm) * precision, by_logvar = g * std::expm1(l - pl) / 2;
      sum += 0.5 * ((m - pm) * (m - pm) * precision + std::expm1(l - pl) - (l - pl));
      expect(grad_mu[i], drawn + by_mu, "grad_mu", i, c);
      expect(grad_logvar[i], sigma / 2 * scaled + by_logvar, "grad_logvar", i, c);
      if (c.prior) expect(grad_prior_mu[i], -by_mu, "grad_prior_mu", i, c);
      if (c.prior) expect(grad_prior_logvar[i], -(by_mu * (m - pm) / 2 + by_logvar), "grad_prior_logvar", i, c);
    }
    expect(kl[row], sum, "kl", row, c);
  }
}

// Which kernel a call gets, and that its grid is one that CUDA launches.
void check_layouts() {
  const auto laid_out = [](int64_t rows, int64_t event, int64_t samples, int64_t row_stride) {
    const void* chosen = nullptr;
    const auto record = [&](auto kernel, const cuda::Grid& grid, const auto&) {
      if (chosen == nullptr) chosen = reinterpret_cast<const void*>(kernel);
      if (grid.x >= 1 && grid.x < (1u << 31) && grid.y >= 1 && grid.y <= 65535 && grid.z >= 1 && grid.z <= 65535) return;
      std::printf("a grid of %u x %u x %u\n", grid.x, grid.y, grid.z);
      std::exit(1);
    };
    alignas(16) static char somewhere[16];
    cuda::Forward f = {};
    f.work.rows = rows, f.work.event = event, f.samples = samples, f.reduce = true;
    f.mu = f.logvar = {somewhere, 0, row_stride, 1};
    f.segments = reinterpret_cast<double*>(somewhere);
    cuda::forward<float>(f, 132, record);
    const void* forward = chosen;
    cuda::Backward b = {};
    static_cast<cuda::Operands&>(b) = f;
    b.grad_z = f.mu, b.grad_kl = {somewhere, 0, 1, 0}, b.grad_mu = b.grad_logvar = somewhere, chosen = nullptr;
    cuda::backward<float>(b, 132, record);
    return std::pair(forward, chosen);
  };
  for (const int64_t rows : {int64_t{1}, int64_t{100}, int64_t{1} << 32}) {
    for (const int64_t event : {int64_t{1}, int64_t{64}, int64_t{5000}, int64_t{1} << 30}) laid_out(rows, event, 1 << 20, event);
  }
  const auto name = [](auto* kernel) { return reinterpret_cast<const void*>(kernel); };
  const bool usual = laid_out(64, 20, 1, 40) == std::pair(name(cuda::forward_usual<float>), name(cuda::backward_usual<float>));
  const bool any = laid_out(64, 20, 2, 40) == std::pair(name(cuda::forward_any<float, true>), name(cuda::backward_any<float, true>));
  const bool scalar =
      laid_out(64, 20, 1, 41) == std::pair(name(cuda::forward_any<float, false>), name(cuda::backward_any<float, false>));
  if (usual && any && scalar) return;
  std::puts("a call gets another kernel than it should");
  std::exit(1);
}

// Rows further apart than 32 bits count, in memory of which next to nothing is touched.
void check_long_strides() {
  const int64_t stride = (int64_t{1} << 32) + 4, rows = 3, event = 16;
  const size_t bytes = ((rows - 1) * stride + event) * sizeof(float);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;  // the system does not lend so much
  float dense[rows * event], z[2][rows * event], kl[2][rows], *sparse = static_cast<float*>(memory);
  for (int64_t i = 0; i < rows * event; ++i) sparse[i / event * stride + i % event] = dense[i] = std::sin(1.0 * i);
  for (const int far : {0, 1}) {
    cuda::Forward f = {};
    f.work.rows = rows, f.work.event = event, f.samples = 1, f.key = key, f.key_stride = 1, f.reduce = true;
    f.mu = f.logvar = {far ? sparse : dense, 0, far ? stride : event, 1};
    f.z = z[far], f.kl = kl[far];
    cuda::forward<float>(f, 1, [](auto kernel, const cuda::Grid& grid, const auto& p) {
      cuda_on_cpu::launch(kernel, {grid.x, grid.y, grid.z}, unsigned{cuda::kThreads}, p);
    });
  }
  munmap(memory, bytes);
  for (int64_t i = 0; i < rows * event; ++i) expect(z[1][i], z[0][i], "z of rows far apart", i, {rows, event, stride, 1, false});
}

}  // namespace

int main() {
  try {
    for (uint64_t seed = 0; seed < 4; ++seed) {
      const Order order = seed == 0 ? Order::kNatural : seed == 1 ? Order::kReversed : Order::kShuffled;
      for (const int64_t rows : {1, 3, 70}) {
        for (const int64_t event : {1, 2, 3, 4, 20, 37, 64, 260}) {
          run({rows, event, event, 1, false}, order, seed);
          run({rows, event, event + 3, 1, false}, order, seed);
          run({rows, event, 2 * event, 2, true}, order, seed);
        }
      }
      for (const int64_t event : {1100, 1101, 5000, 4097}) {
        run({2, event, event, 1, false}, order, seed);
        run({2, event, event, 2, true}, order, seed);
      }
      run({2, 6, 6, 40, false}, order, seed);  // more samples than blocks
      run({40, 1100, 1100, 1, false}, order, seed);  // more rows than blocks
      run({1, 40 * 4096, 40 * 4096, 1, false}, order, seed);  // more segments than blocks
    }
    check_layouts();
    check_long_strides();
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  std::puts("all is right");
}
