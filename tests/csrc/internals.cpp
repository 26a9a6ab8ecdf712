// A test-only module: the arithmetic of csrc/ and the loops of every instruction set, on NumPy arrays.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "counts.h"
#include "cpu/arrays.cpp"
#include "cpu/reparameterize_kl.h"
#include "exp.h"

namespace py = pybind11;
using namespace vaekit;

template <class T>
using Array = py::array_t<T, py::array::c_style | py::array::forcecast>;

template <class T>
Array<T> like(const Array<T>& array) {
  return Array<T>(array.size());
}

int named(const std::string& name) {
  int i = 0;
  for (const InstructionSet& set : kInstructionSets) {
    if (name == set.name && set.supported()) return i;
    ++i;
  }
  throw std::invalid_argument("no instruction set " + name + " here");
}

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet& set : kInstructionSets) {
    if (set.supported()) names.push_back(set.name);
  }
  return names;
}

template <class T>
const Loops<T>& loops_of(const std::string& name) {
  return VAEKIT_TABLE_OF(named(name), kLoops<T>);
}

template <class T>
Array<T> short_exponentials(const Array<T>& x, bool fused) {
  Array<T> out = like(x);
  const T lowest = kLowestExponent<T>;
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    out.mutable_data()[i] = fused ? exp_or_zero<true>(x.data()[i], lowest) : exp_or_zero<false>(x.data()[i], lowest);
  }
  return out;
}

template <class T>
py::tuple exponentials(const Array<T>& x, bool fused) {
  Array<T> value = like(x), minus_one = like(x), excess = like(x);
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    const T limit = Real<T>::kExpLimit;
    const Exponential<T> e = fused ? exponential<true>(x.data()[i], limit) : exponential<false>(x.data()[i], limit);
    value.mutable_data()[i] = e.value, minus_one.mutable_data()[i] = e.minus_one, excess.mutable_data()[i] = e.excess;
  }
  return py::make_tuple(value, minus_one, excess);
}

template <class T>
Array<T> logarithms(const Array<T>& x, bool fused) {
  Array<T> out = like(x);
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    out.mutable_data()[i] = fused ? minus_two_log<true>(x.data()[i]) : minus_two_log<false>(x.data()[i]);
  }
  return out;
}

template <class T>
Array<T> growths(const Array<T>& x, bool fused) {
  Array<T> out = like(x);
  for (py::ssize_t i = 0; i < x.size(); ++i) {
    const T limit = Real<T>::kExpLimit;
    out.mutable_data()[i] = (fused ? exponential<true>(x.data()[i], limit) : exponential<false>(x.data()[i], limit)).growth;
  }
  return out;
}

// log(1 + a), and Stirling's remainder and -z^2 times its derivative at z = 1 / inverse.
template <class T>
Array<T> logs_of_one_plus(const Array<T>& a, bool fused) {
  Array<T> out = like(a);
  for (py::ssize_t i = 0; i < a.size(); ++i) {
    out.mutable_data()[i] = fused ? log_one_plus<true>(a.data()[i]) : log_one_plus<false>(a.data()[i]);
  }
  return out;
}

template <class T>
py::tuple stirlings(const Array<T>& inverse, bool fused) {
  Array<T> remainder = like(inverse), slope = like(inverse);
  for (py::ssize_t i = 0; i < inverse.size(); ++i) {
    const T v = inverse.data()[i];
    remainder.mutable_data()[i] = fused ? stirling<true>(v) : stirling<false>(v);
    slope.mutable_data()[i] = fused ? stirling_slope<true>(v) : stirling_slope<false>(v);
  }
  return py::make_tuple(remainder, slope);
}

template <class Arithmetic, bool fused, class T>
CountNll<T> count_nll(T log_mean, T log_theta, T logit, T x) {
  const T limit = Real<T>::kExpLimit;
  return x == T(0) ? Arithmetic::template of_none<fused>(log_mean, log_theta, logit, limit)
                   : Arithmetic::template of_count<fused>(log_mean, log_theta, logit, x, limit);
}

// -log p of each count and its three derivatives, [4, n].
template <class Arithmetic, class T>
Array<T> count_nlls(const Array<T>& log_mean, const Array<T>& log_theta, const Array<T>& logit, const Array<T>& x, bool fused) {
  const py::ssize_t n = x.size();
  Array<T> out({py::ssize_t{4}, n});
  for (py::ssize_t i = 0; i < n; ++i) {
    const T m = log_mean.data()[i], t = log_theta.data()[i], l = logit.data()[i], count = x.data()[i];
    const CountNll<T> e = fused ? count_nll<Arithmetic, true>(m, t, l, count) : count_nll<Arithmetic, false>(m, t, l, count);
    T* place = out.mutable_data() + i;
    place[0] = e.nll, place[n] = e.by_log_mean, place[2 * n] = e.by_log_theta, place[3 * n] = e.by_logit;
  }
  return out;
}

template <class T>
py::tuple turns(const Array<T>& u, bool fused) {
  Array<T> cosine = like(u), sine = like(u);
  for (py::ssize_t i = 0; i < u.size(); ++i) {
    const Pair<T> pair = fused ? cos_sin_turns<true>(u.data()[i]) : cos_sin_turns<false>(u.data()[i]);
    cosine.mutable_data()[i] = pair.first, sine.mutable_data()[i] = pair.second;
  }
  return py::make_tuple(cosine, sine);
}

template <class T>
py::tuple normal_pairs(const Array<T>& u0, const Array<T>& u1, bool fused) {
  Array<T> first = like(u0), second = like(u0);
  for (py::ssize_t i = 0; i < u0.size(); ++i) {
    const T a = u0.data()[i], b = u1.data()[i];
    const Pair<T> pair = fused ? box_muller<true>(a, b) : box_muller<false>(a, b);
    first.mutable_data()[i] = pair.first, second.mutable_data()[i] = pair.second;
  }
  return py::make_tuple(first, second);
}

Array<float> uniforms(const Array<uint32_t>& words) {
  Array<float> out(words.size());
  for (py::ssize_t i = 0; i < words.size(); ++i) out.mutable_data()[i] = uniform(words.data()[i]);
  return out;
}

Array<double> wide_uniforms(const Array<uint32_t>& a, const Array<uint32_t>& b) {
  Array<double> out(a.size());
  for (py::ssize_t i = 0; i < a.size(); ++i) out.mutable_data()[i] = uniform(a.data()[i], b.data()[i]);
  return out;
}

// Words [4, blocks] by the scalar function of philox.h ("scalar") or by an instruction set's own.
Array<uint32_t> words(const std::string& name, uint64_t seed, uint64_t first, int blocks) {
  alignas(64) uint32_t buffer[4][kBlocks];
  if (blocks % kBlockStep != 0 || blocks > kBlocks) throw std::invalid_argument("blocks");
  if (name == "scalar") {
    for (int i = 0; i < blocks; ++i) {
      const uint64_t counter = first + i;
      const Words x = philox(seed, static_cast<uint32_t>(counter), static_cast<uint32_t>(counter >> 32));
      buffer[0][i] = x.x0, buffer[1][i] = x.x1, buffer[2][i] = x.x2, buffer[3][i] = x.x3;
    }
  } else {
    VAEKIT_TABLE_OF(named(name), philox_words)(buffer, seed, first, blocks);
  }
  Array<uint32_t> out({4, blocks});
  for (int j = 0; j < 4; ++j) std::copy(buffer[j], buffer[j] + blocks, out.mutable_data() + j * blocks);
  return out;
}

template <class T>
Array<T> normals(const std::string& name, uint64_t seed, uint64_t first, int blocks) {
  if (blocks % kBlockStep != 0 || blocks > kBlocks) throw std::invalid_argument("blocks");
  Array<T> out(blocks * (sizeof(T) == 8 ? 2 : 4));
  loops_of<T>(name).normals(out.mutable_data(), seed, first, blocks);
  return out;
}

// Every loop but the noise, on arrays of one length: a dictionary of all results.
template <class T>
py::dict every_loop(const std::string& name, const Array<T>& mu, const Array<T>& logvar, const Array<T>& a, const Array<T>& b,
                    const Array<T>& c) {
  const Loops<T>& loop = loops_of<T>(name);
  const int n = static_cast<int>(mu.size());
  const T limit = Real<T>::kExpLimit;
  py::dict out;
  const auto fresh = [&](const char* key) {
    Array<T> array(n);
    std::fill(array.mutable_data(), array.mutable_data() + n, T(1));
    out[key] = array;
    return array.mutable_data();
  };
  loop.divergence(mu.data(), logvar.data(), n, limit, fresh("sigma"), fresh("kl"));
  loop.divergence_from(mu.data(), logvar.data(), a.data(), b.data(), n, limit, fresh("sigma_prior"), fresh("kl_prior"));
  loop.sample(mu.data(), a.data(), b.data(), n, fresh("z"));
  loop.draw_and_diverge(mu.data(), logvar.data(), a.data(), n, limit, fresh("one_z"), fresh("one_kl"));
  loop.add_sample(a.data(), b.data(), n, fresh("drawn"), fresh("scaled"));
  loop.gradients(mu.data(), logvar.data(), a.data(), b.data(), c.data(), n, limit, fresh("grad_mu"), fresh("grad_logvar"));
  loop.draw_gradient(logvar.data(), a.data(), n, limit, fresh("draw_gradient"));
  loop.add_divergence(mu.data(), logvar.data(), c.data(), n, limit, fresh("add_mu"), fresh("add_logvar"));
  loop.add_divergence_from(mu.data(), logvar.data(), a.data(), b.data(), c.data(), n, limit, fresh("from_mu"),
                           fresh("from_logvar"), fresh("prior_mu"), fresh("prior_logvar"));
  std::vector<T> padded(n + 32, std::numeric_limits<T>::quiet_NaN());  // `sum` may look beyond the end, but nothing comes of it
  std::copy(mu.data(), mu.data() + n, padded.begin());
  out["sum"] = loop.sum(padded.data(), n);
  return out;
}

template <class S>
Array<float> widened(const Array<uint16_t>& bits, void (*convert)(const S*, int, float*)) {
  Array<float> out(bits.size());
  convert(reinterpret_cast<const S*>(bits.data()), static_cast<int>(bits.size()), out.mutable_data());
  return out;
}

template <class S>
Array<uint16_t> narrowed(const Array<float>& values, void (*convert)(const float*, int, S*)) {
  Array<uint16_t> out(values.size());
  convert(values.data(), static_cast<int>(values.size()), reinterpret_cast<S*>(out.mutable_data()));
  return out;
}

PYBIND11_MODULE(vaekit_internals, m) {
  m.def("instruction_sets", &instruction_sets);
  m.attr("TILE") = kTile;
  m.attr("BLOCK_STEP") = kBlockStep;
  m.attr("BLOCKS") = kBlocks;
  m.def("words", &words);
  m.def("uniforms", &uniforms);
  m.def("wide_uniforms", &wide_uniforms);
  m.def("short_exponentials_float", &short_exponentials<float>);
  m.def("short_exponentials_double", &short_exponentials<double>);
  m.def("exponentials_float", &exponentials<float>);
  m.def("exponentials_double", &exponentials<double>);
  m.def("minus_two_log_float", &logarithms<float>);
  m.def("minus_two_log_double", &logarithms<double>);
  m.def("growth_float", &growths<float>);
  m.def("growth_double", &growths<double>);
  m.def("log_one_plus_float", &logs_of_one_plus<float>);
  m.def("log_one_plus_double", &logs_of_one_plus<double>);
  m.def("stirling_float", &stirlings<float>);
  m.def("stirling_double", &stirlings<double>);
  m.def("poisson_float", &count_nlls<Poisson, float>);
  m.def("poisson_double", &count_nlls<Poisson, double>);
  m.def("negative_binomial_float", &count_nlls<NegativeBinomial, float>);
  m.def("negative_binomial_double", &count_nlls<NegativeBinomial, double>);
  m.def("zero_inflated_float", &count_nlls<ZeroInflated, float>);
  m.def("zero_inflated_double", &count_nlls<ZeroInflated, double>);
  m.def("cos_sin_turns_float", &turns<float>);
  m.def("cos_sin_turns_double", &turns<double>);
  m.def("box_muller_float", &normal_pairs<float>);
  m.def("box_muller_double", &normal_pairs<double>);
  m.def("normals_float", &normals<float>);
  m.def("normals_double", &normals<double>);
  m.def("every_loop_float", &every_loop<float>);
  m.def("every_loop_double", &every_loop<double>);
  m.def("widen_half", [](const std::string& name, const Array<uint16_t>& bits) {
    return widened<Half>(bits, array_loops(named(name)).widen_half);
  });
  m.def("widen_bfloat16", [](const std::string& name, const Array<uint16_t>& bits) {
    return widened<BFloat16>(bits, array_loops(named(name)).widen_bfloat16);
  });
  m.def("narrow_half", [](const std::string& name, const Array<float>& values) {
    return narrowed<Half>(values, array_loops(named(name)).narrow_half);
  });
  m.def("narrow_bfloat16", [](const std::string& name, const Array<float>& values) {
    return narrowed<BFloat16>(values, array_loops(named(name)).narrow_bfloat16);
  });
}
