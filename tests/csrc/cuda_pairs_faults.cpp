// The kernels of vaekit::kernel_sum and vaekit::log_aggregate on the CPU against plain loops in double, in every order of threads that
// cuda_on_cpu.h knows: as cuda_faults.cpp, which says why. Every array is exactly as long as it has to be.

#include "cuda_on_cpu.h"

#include "cuda/kernel_sum.cuh"
#include "cuda/log_aggregate.cuh"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using namespace vaekit;
using cuda_on_cpu::Order;
using Floats = std::vector<float>;
using Doubles = std::vector<double>;

struct Launch {
  Order order;
  uint64_t seed;

  template <class Kernel, class P>
  void operator()(Kernel kernel, const cuda::Grid& grid, const P& p) const {
    cuda_on_cpu::launch(cuda_on_cpu::Settings{order, seed}, kernel, {grid.x, grid.y, grid.z}, unsigned{cuda::kThreads}, p);
  }
};

void expect(double got, double wanted, const char* what, int64_t index, int64_t rows, int64_t others, int64_t latents) {
  if (std::fabs(got - wanted) <= 1e-4 * (1 + std::fabs(wanted))) return;
  std::printf("%s[%lld] is %g instead of %g, %lld rows, %lld others, %lld latents\n", what, static_cast<long long>(index), got, wanted,
              static_cast<long long>(rows), static_cast<long long>(others), static_cast<long long>(latents));
  std::exit(1);
}

Floats waves(int64_t count, double step, double size) {
  Floats values(count);
  for (int64_t i = 0; i < count; ++i) values[i] = size * std::sin(step * (i + 1));
  return values;
}

cuda::View view(const Floats& values, int64_t row) { return {const_cast<float*>(values.data()), 0, row, 1}; }

// --- sums of a kernel over all pairs ---------------------------------------------------------------------------------------

void run_sums(int64_t rows, int64_t others, int64_t latents, bool within, bool is_gaussian, const Launch& launch) {
  const int64_t points = within ? rows : others;
  const Floats x = waves(rows * latents, 1.3, 1), y = within ? x : waves(points * latents, 0.7, 1), bandwidths = {0.7f, 3.0f};
  const double grad = 0.3;
  const auto fill = [&](cuda::KernelSum& p) {
    p.x = view(x, latents), p.y = view(within ? x : y, latents);
    p.rows = rows, p.points = points, p.latents = latents, p.within = within;
    p.bandwidths = bandwidths.data(), p.count = 2;
  };
  cuda::KernelSumForward forward;
  fill(forward);
  Doubles strips(cuda::strips_of(forward));
  double total = -1;
  forward.strips = strips.data();
  cuda::forward_kernel_sum<float>(forward, is_gaussian, &total, 1, launch);
  cuda::KernelSumBackward backward;
  fill(backward);
  Floats gradient(rows * latents);
  backward.grad = &grad, backward.out = gradient.data();
  cuda::backward_kernel_sum<float>(backward, is_gaussian, 1, launch);

  double sum = 0;
  Doubles slopes(rows * latents);
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < points; ++j) {
      double squared = 0, slope = 0;
      for (int64_t d = 0; d < latents; ++d) squared += std::pow(double{x[i * latents + d]} - y[j * latents + d], 2);
      for (const double b : bandwidths) {
        sum += is_gaussian ? std::exp(-squared / b) : b / (b + squared);
        slope += is_gaussian ? std::exp(-squared / b) / b : b / std::pow(b + squared, 2);
      }
      const double factor = (within ? -4 : -2) * grad * slope;
      for (int64_t d = 0; d < latents; ++d) slopes[i * latents + d] += factor * (double{x[i * latents + d]} - y[j * latents + d]);
    }
  }
  expect(total, sum, "sum", 0, rows, points, latents);
  for (int64_t i = 0; i < rows * latents; ++i) expect(gradient[i], slopes[i], "gradient", i, rows, points, latents);
}

// --- the aggregate posterior -----------------------------------------------------------------------------------------------

struct Aggregates {
  int64_t rows, examples, latents, first;
  Floats mu, logvar, eps, of_joint, of_marginals;
  double own = -1.3;

  Aggregates(int64_t rows, int64_t examples, int64_t latents, int64_t first)
      : rows(rows), examples(examples), latents(latents), first(first), mu(waves(examples * latents, 1.1, 1)),
        logvar(waves(examples * latents, 0.3, 1)), eps(waves(rows * latents, 2.3, 1)), of_joint(waves(rows, 0.9, 1)),
        of_marginals(waves(rows * latents, 1.7, 1)) {}

  double z(int64_t i, int64_t d) const {
    const int64_t place = (first + i) * latents + d;
    return mu[place] + std::exp(0.5 * logvar[place]) * eps[i * latents + d];
  }
  double density(int64_t i, int64_t j, int64_t d) const {  // of example j in a latent of row i
    const double lv = logvar[j * latents + d], distance = z(i, d) - mu[j * latents + d];
    return -0.5 * (kLog2Pi + lv + distance * distance * std::exp(-lv));
  }
  double weight(int64_t i, int64_t j) const { return j == first + i ? own : 0.0; }
};

double log_sum_exp(const Doubles& values) {
  double largest = -HUGE_VAL, sum = 0;
  for (const double value : values) largest = std::fmax(largest, value);
  for (const double value : values) sum += std::exp(value - largest);
  return largest + std::log(sum);
}

// As backward_aggregate, with fewer rows at a time than would fill the weights.
void backward_in_blocks(cuda::AggregateBackward<float> p, int64_t block, const Launch& launch) {
  using namespace cuda;
  for (p.start = 0; p.start < p.rows; p.start += block) {
    p.count = at_most(block, p.rows - p.start);
    launch(aggregate_weights<float>, Grid{2, 1, 1}, p);
    launch(aggregate_columns<float>, Grid{2, 1, 1}, p);
    launch(aggregate_rows<float>, Grid{2, 1, 1}, p);
  }
  launch(aggregate_gradients<float>, Grid{2, 1, 1}, p);
}

void check_gradients(const Aggregates& c, const Doubles& joint, const Doubles& marginals, const Floats& of_mu, const Floats& of_logvar) {
  const int64_t n = c.latents;
  Doubles to_mu(c.examples * n), to_logvar(c.examples * n);
  for (int64_t i = 0; i < c.rows; ++i) {
    for (int64_t j = 0; j < c.examples; ++j) {
      double whole = c.weight(i, j);
      for (int64_t d = 0; d < n; ++d) whole += c.density(i, j, d);
      for (int64_t d = 0; d < n; ++d) {
        const double g = c.of_joint[i] * std::exp(whole - joint[i]) +
                         c.of_marginals[i * n + d] * std::exp(c.density(i, j, d) + c.weight(i, j) - marginals[i * n + d]);
        const int64_t there = j * n + d, here = (c.first + i) * n + d;
        const double lv = c.logvar[there], distance = c.z(i, d) - c.mu[there], slope = distance * std::exp(-lv);
        const double noise = 0.5 * std::exp(0.5 * c.logvar[here]) * c.eps[i * n + d];  // dz / dlogvar
        to_mu[there] += g * slope, to_mu[here] -= g * slope;
        to_logvar[there] += g * 0.5 * (distance * slope - 1), to_logvar[here] -= g * slope * noise;
      }
    }
  }
  for (int64_t k = 0; k < c.examples * n; ++k) {
    expect(of_mu[k], to_mu[k], "of mu", k, c.rows, c.examples, n);
    expect(of_logvar[k], to_logvar[k], "of logvar", k, c.rows, c.examples, n);
  }
}

void run_aggregate(const Aggregates& c, const Launch& launch) {
  const int64_t n = c.latents;
  Floats mean(c.examples * n), scale(mean), peak(mean), shift(c.rows * n), own(shift), joint(c.rows), marginals(shift);
  const auto fill = [&](cuda::Aggregate<float>& p) {
    p.rows = c.rows, p.examples = c.examples, p.latents = n, p.first = c.first, p.own_weight = static_cast<float>(c.own);
    p.mean = mean.data(), p.scale = scale.data(), p.peak = peak.data(), p.shift = shift.data(), p.own = own.data();
  };
  cuda::Prepare<float> prepared;
  fill(prepared);
  prepared.mu = view(c.mu, n), prepared.logvar = view(c.logvar, n), prepared.eps = view(c.eps, n);
  cuda::prepare(prepared, 1, launch);
  cuda::AggregateForward<float> forward;
  fill(forward);
  forward.joint = joint.data(), forward.marginals = marginals.data();
  cuda::forward_aggregate(forward, 1, launch);

  Doubles right(c.rows), each(c.rows * n);
  for (int64_t i = 0; i < c.rows; ++i) {
    Doubles of_all(c.examples);
    for (int64_t j = 0; j < c.examples; ++j) {
      of_all[j] = c.weight(i, j);
      for (int64_t d = 0; d < n; ++d) of_all[j] += c.density(i, j, d);
    }
    right[i] = log_sum_exp(of_all);
    for (int64_t d = 0; d < n; ++d) {
      for (int64_t j = 0; j < c.examples; ++j) of_all[j] = c.weight(i, j) + c.density(i, j, d);
      each[i * n + d] = log_sum_exp(of_all);
      expect(marginals[i * n + d], each[i * n + d], "marginal", i * n + d, c.rows, c.examples, n);
    }
    expect(joint[i], right[i], "joint", i, c.rows, c.examples, n);
  }

  cuda::AggregateBackward<float> backward;
  fill(backward);
  backward.of_joint = view(c.of_joint, 1), backward.of_marginals = view(c.of_marginals, n);
  backward.joint = view(joint, 1), backward.marginals = view(marginals, n);
  for (const int64_t block : {int64_t{0}, int64_t{32}}) {
    const int64_t most = block > 0 ? cuda::at_most(block, c.rows) : cuda::rows_at_once(backward);
    Floats weights(most * c.examples), of_mu(c.examples * n), of_logvar(of_mu);
    Doubles of_mean(c.examples * n), of_scale(of_mean), of_row(c.rows * n);
    backward.weights = weights.data(), backward.of_mean = of_mean.data(), backward.of_scale = of_scale.data();
    backward.of_row = of_row.data(), backward.of_mu = of_mu.data(), backward.of_logvar = of_logvar.data();
    block > 0 ? backward_in_blocks(backward, block, launch) : cuda::backward_aggregate(backward, 1, launch);
    check_gradients(c, right, each, of_mu, of_logvar);
  }
}

}  // namespace

int main() {
  try {
    for (uint64_t seed = 0; seed < 3; ++seed) {
      const Launch launch = {seed == 0 ? Order::kNatural : seed == 1 ? Order::kReversed : Order::kShuffled, seed};
      for (const int64_t latents : {1, 5, 33}) {
        for (const bool is_gaussian : {false, true}) {
          run_sums(1, 1, latents, false, is_gaussian, launch);
          run_sums(33, 40, latents, false, is_gaussian, launch);
          run_sums(70, 70, latents, true, is_gaussian, launch);
        }
        run_aggregate({1, 1, latents, 0}, launch);
        run_aggregate({33, 70, latents, 20}, launch);
        run_aggregate({40, 40, latents, 0}, launch);
      }
      run_sums(40, 600, 3, false, true, launch);  // more tiles than a strip has
      run_sums(600, 600, 2, true, true, launch);
    }
  } catch (const std::exception& error) {
    std::printf("%s\n", error.what());
    return 1;
  }
  std::puts("all is right");
}
