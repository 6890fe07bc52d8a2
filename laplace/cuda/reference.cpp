#include "laplace/cuda/reference.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/stream.h"

namespace evariste::cuda_reference {
namespace {

/// Patches of one sample and group: phi[t][j], j in the order (c, y, x).
template <class T>
std::vector<double> patches(const T* x, int64_t height, int64_t width, int64_t channels,
                            const Convolution& c, int64_t group) {
  const auto out_height = c.output_size(0, height), out_width = c.output_size(1, width);
  const auto own = channels / c.groups;
  std::vector<double> phi;
  for (int64_t oy = 0; oy < out_height; ++oy)
    for (int64_t ox = 0; ox < out_width; ++ox)
      for (int64_t channel = group * own; channel < (group + 1) * own; ++channel)
        for (int64_t ky = 0; ky < c.kernel[0]; ++ky)
          for (int64_t kx = 0; kx < c.kernel[1]; ++kx) {
            const auto iy = oy * c.stride[0] + ky * c.dilation[0] - c.padding[0];
            const auto ix = ox * c.stride[1] + kx * c.dilation[1] - c.padding[1];
            const bool inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
            phi.push_back(inside ? static_cast<double>(x[(iy * width + ix) * channels + channel])
                                 : 0.0);
          }
  return phi;
}

template <class T>
std::vector<double> softmax(const T* f, int64_t classes) {
  const auto largest = static_cast<double>(*std::max_element(f, f + classes));
  std::vector<double> p;
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    p.push_back(std::exp(static_cast<double>(f[c]) - largest));
    sum += p.back();
  }
  for (auto& entry : p) entry /= sum;
  return p;
}

/// squares[o, j] += (sum_t g[t, o] phi[t, j])^2
template <class G, class Phi>
void add_squares(const G* g, const Phi* phi, int64_t positions, int64_t outputs, int64_t inputs,
                 double* squares) {
  for (int64_t o = 0; o < outputs; ++o)
    for (int64_t j = 0; j < inputs; ++j) {
      double sum = 0;
      for (int64_t t = 0; t < positions; ++t)
        sum += static_cast<double>(g[t * outputs + o]) * static_cast<double>(phi[t * inputs + j]);
      squares[o * inputs + j] += sum * sum;
    }
}

}  // namespace

template <class T>
void gram(const T* rows, int64_t groups, int64_t count, int64_t dimension, int64_t row_stride,
          int64_t group_stride, double* out, bool accumulate) {
  for (int64_t q = 0; q < groups; ++q)
    for (int64_t i = 0; i < dimension; ++i)
      for (int64_t j = 0; j < dimension; ++j) {
        double sum = 0;
        for (int64_t r = 0; r < count; ++r) {
          const T* row = rows + q * group_stride + r * row_stride;
          sum += static_cast<double>(row[i]) * static_cast<double>(row[j]);
        }
        auto& entry = out[(q * dimension + i) * dimension + j];
        entry = accumulate ? entry + sum : sum;
      }
}

template <class T>
void conv_gram(const T* x, int64_t samples, int64_t height, int64_t width, int64_t channels,
               const Convolution& c, double* out, bool accumulate) {
  const auto side = channels / c.groups * c.kernel[0] * c.kernel[1];
  for (int64_t group = 0; group < c.groups; ++group, out += side * side) {
    if (!accumulate) std::fill(out, out + side * side, 0.0);
    for (int64_t n = 0; n < samples; ++n) {
      const auto phi =
          patches(x + n * height * width * channels, height, width, channels, c, group);
      for (size_t t = 0; t < phi.size(); t += static_cast<size_t>(side))
        for (int64_t i = 0; i < side; ++i)
          for (int64_t j = 0; j < side; ++j)
            out[i * side + j] += phi[t + static_cast<size_t>(i)] * phi[t + static_cast<size_t>(j)];
    }
  }
}

template <class T>
void softmax_root(const T* f, int64_t samples, int64_t classes, T* out) {
  if (classes == 1) std::fill(out, out + samples, T(0));
  for (int64_t n = 0; n < samples; ++n) {
    const auto p = softmax(f + n * classes, classes);
    std::vector<double> from(static_cast<size_t>(classes) + 1, 0.0);  // q_{j-1}
    for (auto j = static_cast<size_t>(classes); j-- > 0;) from[j] = from[j + 1] + p[j];
    for (size_t j = 0; j + 1 < p.size(); ++j)
      for (size_t i = 0; i < p.size(); ++i) {
        const double before = from[j], after = from[j + 1];
        double entry = 0;
        if (i == j && before > 0) entry = std::sqrt(p[j] * after / before);
        if (i > j && before * after > 0) entry = -p[i] * std::sqrt(p[j] / (before * after));
        out[(static_cast<int64_t>(j) * samples + n) * classes + static_cast<int64_t>(i)] =
            static_cast<T>(entry);
      }
  }
}

template <class T>
void softmax_sampled_scores(const T* f, int64_t samples, int64_t classes, int64_t draws,
                            uint64_t key, int64_t first, T* out) {
  for (int64_t n = 0; n < samples; ++n) {
    const auto p = softmax(f + n * classes, classes);
    // Stream(key).split(index), of which only the key is known.
    Draws numbers(Stream(key ^ split_mix_64(static_cast<uint64_t>(first + n) + 1)));
    for (int64_t s = 0; s < draws; ++s) {
      const double u = numbers.uniform();
      double cumulative = 0;
      int64_t label = 0;
      for (int64_t c = 0; c < classes; ++c) {
        cumulative += p[static_cast<size_t>(c)];
        label += u > cumulative ? 1 : 0;
      }
      label = std::min(label, classes - 1);
      for (int64_t c = 0; c < classes; ++c)
        out[(s * samples + n) * classes + c] =
            static_cast<T>(((c == label ? 1.0 : 0.0) - p[static_cast<size_t>(c)]) /
                           std::sqrt(static_cast<double>(draws)));
    }
  }
}

template <class T>
void softmax_score(const T* f, const int64_t* labels, int64_t samples, int64_t classes, T* out) {
  for (int64_t n = 0; n < samples; ++n) {
    const auto p = softmax(f + n * classes, classes);
    for (int64_t c = 0; c < classes; ++c)
      out[n * classes + c] =
          static_cast<T>((c == labels[n] ? 1.0 : 0.0) - p[static_cast<size_t>(c)]);
  }
}

template <class T>
void bernoulli_root(const T* f, int64_t samples, int64_t classes, T* out) {
  for (int64_t r = 0; r < classes; ++r)
    for (int64_t n = 0; n < samples; ++n)
      for (int64_t c = 0; c < classes; ++c) {
        const auto x = static_cast<double>(f[n * classes + c]);
        const double product = 1 / (1 + std::exp(-x)) / (1 + std::exp(x));
        out[(r * samples + n) * classes + c] = static_cast<T>(r == c ? std::sqrt(product) : 0.0);
      }
}

template <class T>
void pack_positive(const T* x, int64_t count, uint32_t* bits) {
  std::fill(bits, bits + (count + 31) / 32, 0u);
  for (int64_t i = 0; i < count; ++i)
    if (x[i] > 0) bits[i / 32] |= 1u << (i % 32);
}

template <class T>
void masked_backward(const T* g, const uint32_t* bits, const T* skip, double scale, int64_t folds,
                     int64_t count, T* out) {
  for (int64_t r = 0; r < folds; ++r)
    for (int64_t i = 0; i < count; ++i) {
      const bool passes = (bits[i / 32] >> (i % 32) & 1) != 0;
      const T product = passes ? g[r * count + i] * static_cast<T>(scale) : T(0);
      out[r * count + i] = skip ? product + skip[r * count + i] : product;
    }
}

template <class T>
void squared_gradients(const T* g, const T* phi, int64_t groups, int64_t folds, int64_t samples,
                       int64_t positions, int64_t outputs, int64_t inputs, double* out,
                       bool accumulate) {
  for (int64_t q = 0; q < groups; ++q, out += outputs * inputs) {
    if (!accumulate) std::fill(out, out + outputs * inputs, 0.0);
    for (int64_t r = 0; r < folds; ++r)
      for (int64_t n = 0; n < samples; ++n)
        add_squares(g + ((q * folds + r) * samples + n) * positions * outputs,
                    phi + (q * samples + n) * positions * inputs, positions, outputs, inputs, out);
  }
}

template <class T>
void conv_squared_gradients(const T* g, const T* x, int64_t folds, int64_t samples, int64_t height,
                            int64_t width, int64_t channels, int64_t outputs, const Convolution& c,
                            double* out, bool accumulate) {
  const auto own = outputs / c.groups;
  const auto inputs = channels / c.groups * c.kernel[0] * c.kernel[1];
  const auto positions = c.output_size(0, height) * c.output_size(1, width);
  for (int64_t q = 0; q < c.groups; ++q, out += own * inputs) {
    if (!accumulate) std::fill(out, out + own * inputs, 0.0);
    for (int64_t n = 0; n < samples; ++n) {
      const auto phi = patches(x + n * height * width * channels, height, width, channels, c, q);
      for (int64_t r = 0; r < folds; ++r)
        add_squares(g + ((q * folds + r) * samples + n) * positions * own, phi.data(), positions,
                    own, inputs, out);
    }
  }
}

template <class T>
void spectral_sums(const T* alpha, const T* beta, const T* spectrum, int64_t groups,
                   int64_t outputs, int64_t inputs, double scale, double delta, double* sums,
                   double* cotangent_b, double* cotangent_a) {
  std::fill(sums, sums + 3, 0.0);
  if (cotangent_b) std::fill(cotangent_b, cotangent_b + groups * outputs, 0.0);
  if (cotangent_a) std::fill(cotangent_a, cotangent_a + groups * inputs, 0.0);
  for (int64_t q = 0; q < groups; ++q)
    for (int64_t i = 0; i < outputs; ++i)
      for (int64_t j = 0; j < inputs; ++j) {
        const auto a = spectrum ? 0.0 : static_cast<double>(alpha[q * inputs + j]);
        const auto b = spectrum ? 0.0 : static_cast<double>(beta[q * outputs + i]);
        const double lambda =
            scale *
            (spectrum ? static_cast<double>(spectrum[(q * outputs + i) * inputs + j]) : a * b);
        sums[0] += std::log1p(lambda / delta);
        sums[1] += lambda / (lambda + delta);
        sums[2] += lambda * delta / ((lambda + delta) * (lambda + delta));
        if (cotangent_b) cotangent_b[q * outputs + i] += scale / 2 * a / (lambda + delta);
        if (cotangent_a) cotangent_a[q * inputs + j] += scale / 2 * b / (lambda + delta);
      }
}

template <class T>
void output_covariance(const T* g, const T* w, int64_t groups, int64_t columns, int64_t samples,
                       int64_t outputs, T* out) {
  const auto at = [&](int64_t q, int64_t c, int64_t n, int64_t i) {
    return static_cast<double>(g[((q * columns + c) * samples + n) * outputs + i]);
  };
  for (int64_t n = 0; n < samples; ++n)
    for (int64_t c = 0; c < columns; ++c)
      for (int64_t d = 0; d < columns; ++d) {
        double sum = 0;
        for (int64_t q = 0; q < groups; ++q)
          for (int64_t i = 0; i < outputs; ++i)
            sum += at(q, c, n, i) * static_cast<double>(w[(q * samples + n) * outputs + i]) *
                   at(q, d, n, i);
        out[(n * columns + c) * columns + d] += static_cast<T>(sum);
      }
}

template <class T>
void pack_lower(const T* matrices, int64_t groups, int64_t d, T* packed) {
  for (int64_t q = 0; q < groups; ++q)
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j <= i; ++j) *packed++ = matrices[(q * d + i) * d + j];
}

template <class T>
void unpack_lower(const T* packed, int64_t groups, int64_t d, T* matrices) {
  for (int64_t q = 0; q < groups; ++q)
    for (int64_t i = 0; i < d; ++i)
      for (int64_t j = 0; j <= i; ++j)
        matrices[(q * d + i) * d + j] = matrices[(q * d + j) * d + i] = *packed++;
}

#define EVARISTE_INSTANTIATE(T)                                                                    \
  template void gram(const T*, int64_t, int64_t, int64_t, int64_t, int64_t, double*, bool);        \
  template void conv_gram(const T*, int64_t, int64_t, int64_t, int64_t, const Convolution&,        \
                          double*, bool);                                                          \
  template void softmax_root(const T*, int64_t, int64_t, T*);                                      \
  template void softmax_sampled_scores(const T*, int64_t, int64_t, int64_t, uint64_t, int64_t,     \
                                       T*);                                                        \
  template void softmax_score(const T*, const int64_t*, int64_t, int64_t, T*);                     \
  template void bernoulli_root(const T*, int64_t, int64_t, T*);                                    \
  template void pack_positive(const T*, int64_t, uint32_t*);                                       \
  template void masked_backward(const T*, const uint32_t*, const T*, double, int64_t, int64_t,     \
                                T*);                                                               \
  template void squared_gradients(const T*, const T*, int64_t, int64_t, int64_t, int64_t, int64_t, \
                                  int64_t, double*, bool);                                         \
  template void conv_squared_gradients(const T*, const T*, int64_t, int64_t, int64_t, int64_t,     \
                                       int64_t, int64_t, const Convolution&, double*, bool);       \
  template void spectral_sums(const T*, const T*, const T*, int64_t, int64_t, int64_t, double,     \
                              double, double*, double*, double*);                                  \
  template void output_covariance(const T*, const T*, int64_t, int64_t, int64_t, int64_t, T*);     \
  template void pack_lower(const T*, int64_t, int64_t, T*);                                        \
  template void unpack_lower(const T*, int64_t, int64_t, T*);
EVARISTE_INSTANTIATE(float)
EVARISTE_INSTANTIATE(double)
#undef EVARISTE_INSTANTIATE

}  // namespace evariste::cuda_reference
