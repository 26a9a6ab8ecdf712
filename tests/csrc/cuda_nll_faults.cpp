// The kernels that the operators vaekit::*_nll share, with an arithmetic of their own, on the CPU against a plain loop in double, in every
// order of threads that cuda_on_cpu.h knows: as cuda_faults.cpp, which says why. Every array is exactly as long as it has to be.

#include "cuda_on_cpu.h"

#include "cuda/nll.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using namespace vaekit;
using cuda_on_cpu::Order;

// nll = a x + b s, where a and b are the planes and s the shared parameter.
struct Products {
  static constexpr bool kTakesVectors = true;

  template <class S, int n, class T>
  static void values(const cuda::Place<S, n>& place, const T (&x)[n], T (&nll)[n]) {
    T a[n], b[n];
    place.plane(0, a), place.plane(1, b);
    for (int i = 0; i < n; ++i) nll[i] = a[i] * x[i] + b[i] * place.shared();
  }

  template <class S, int n, class T>
  static void gradients(const cuda::Place<S, n>& place, const T (&x)[n], T grad, const cuda::GradientsOf<S, n>& out, T (&shared)[n]) {
    T a[n], b[n];
    place.plane(1, b);
    for (int i = 0; i < n; ++i) a[i] = grad * x[i], shared[i] = grad * b[i], b[i] = grad * place.shared();
    out.plane(0, a), out.plane(1, b);
  }
};

struct Case {
  int64_t rows, event, columns, gap;  // between rows of the parameters
  bool missing;
};

void expect(double got, double wanted, const char* what, int64_t index, const Case& c) {
  if (std::fabs(got - wanted) <= 1e-5 * (1 + std::fabs(wanted))) return;
  std::printf("%s[%lld] is %g instead of %g, %lld rows of %lld, %lld columns\n", what, static_cast<long long>(index), got, wanted,
              static_cast<long long>(c.rows), static_cast<long long>(c.event), static_cast<long long>(c.columns));
  std::exit(1);
}

void run(const Case& c, Order order, uint64_t seed) {
  const int64_t n = c.rows * c.event, row = 2 * c.event + c.gap, count = c.columns > 0 ? c.columns : 1;
  std::vector<float> parameters((c.rows - 1) * row + 2 * c.event), x(n), shared(count), grad(c.rows);
  for (size_t i = 0; i < parameters.size(); ++i) parameters[i] = std::sin(1.0 * i);
  for (int64_t i = 0; i < n; ++i) x[i] = c.missing && i % 3 == 1 ? NAN : std::cos(3.0 * i);
  for (int64_t i = 0; i < count; ++i) shared[i] = 1 + std::sin(2.0 * i);
  for (int64_t i = 0; i < c.rows; ++i) grad[i] = 1 + std::cos(2.0 * i);
  std::vector<float> nll(c.rows), gradients(2 * n), to_shared(count);

  const auto launch = [&](auto kernel, const cuda::Grid& grid, const auto& p) {
    cuda_on_cpu::launch(cuda_on_cpu::Settings{order, seed}, kernel, {grid.x, grid.y, grid.z}, unsigned{cuda::kThreads}, p);
  };
  const auto fill = [&](cuda::Nll& p) {
    p.rows = c.rows, p.event = c.event, p.planes = 2, p.features = c.columns;
    p.parameters = {parameters.data(), c.event, row, 1}, p.x = {x.data(), 0, c.event, 1};
    p.shared = {shared.data(), 0, 0, c.columns > 0 ? 1 : 0};
    p.of_x = cuda::Number::kFloat, p.ignore_missing = c.missing;
  };
  cuda::NllForward f;
  fill(f);
  std::vector<double> segments(cuda::segments_of(f));
  f.nll = nll.data(), f.segments = segments.empty() ? nullptr : segments.data();
  cuda::forward_nll<Products, float>(f, 1, launch);
  cuda::NllBackward b;
  fill(b);
  b.grad = {grad.data(), 0, 1, 0}, b.gradients = gradients.data();
  std::vector<double> parts(cuda::parts_of(b));
  b.parts = parts.data();
  cuda::backward_nll<Products, float>(b, to_shared.data(), 1, launch);

  std::vector<double> sums(count);
  for (int64_t i = 0; i < c.rows; ++i) {
    double sum = 0;
    for (int64_t j = 0; j < c.event; ++j) {
      const int64_t column = c.columns > 0 ? j % c.columns : 0;
      const double first = parameters[i * row + j], second = parameters[i * row + c.event + j], value = x[i * c.event + j];
      const bool gone = std::isnan(value);
      if (!gone) sum += first * value + second * shared[column], sums[column] += grad[i] * second;
      expect(gradients[2 * i * c.event + j], gone ? 0 : grad[i] * value, "gradient", 2 * i * c.event + j, c);
      expect(gradients[(2 * i + 1) * c.event + j], gone ? 0 : grad[i] * shared[column], "gradient", (2 * i + 1) * c.event + j, c);
    }
    expect(nll[i], sum, "nll", i, c);
  }
  for (int64_t i = 0; i < count; ++i) expect(to_shared[i], sums[i], "shared", i, c);
}

// A sum whose floats cancel: only what rounding took is left.
void check_sums() {
  cuda::Sum<float> sum = {};
  for (const float value : {1e8f, 1.0f, -1e8f, 0x1p-20f}) sum.add(value);
  if (sum.value() == 1.0f + 0x1p-20f && sum.wide() == 1.0 + 0x1p-20) return;
  std::printf("a sum is %.9g\n", sum.wide());
  std::exit(1);
}

}  // namespace

int main() {
  try {
    check_sums();
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const Order order = seed == 0 ? Order::kNatural : seed == 1 ? Order::kReversed : Order::kShuffled;
      for (const int64_t rows : {1, 3, 70}) {
        for (const int64_t event : {1, 3, 4, 20, 36, 260, 1101}) {
          run({rows, event, 0, 0, false}, order, seed);
          run({rows, event, 0, 3, true}, order, seed);
          run({rows, event, event, 0, true}, order, seed);
          if (event % 4 == 0) run({rows, event, event / 4, 0, false}, order, seed);
        }
      }
      run({2, 5000, 0, 0, true}, order, seed);
      run({1, 40 * 4096, 0, 0, false}, order, seed);  // more segments than blocks
      run({40, 1101, 0, 0, false}, order, seed);      // more rows than blocks
      run({900, 2, 2, 0, false}, order, seed);        // parts of many rows
    }
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  std::puts("all is right");
}
