#include "groups/kernel_basis.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "core/expect.h"
#include "groups/wigner.h"

namespace evariste {
namespace {

/// A copy of an irrep within out (x) in (x) harmonics: of each component the coefficients
/// [out in, harmonics].
struct Copy {
  Irrep irrep;
  std::vector<Matrix> components;
};

/// Every irrep of out (x) in (x) harmonics of a degree; of `only_trivial` those alone.
std::vector<Copy> copies_of(const GroupPtr& group, const Irrep& out, const Irrep& in, int degree,
                            bool only_trivial) {
  const auto pair = tensor_product(group, out, in);
  const auto harmonics = harmonic_representation(group, degree);
  std::vector<Copy> copies;
  for (size_t p = 0; p < pair.irreps().size(); ++p)
    for (size_t h = 0; h < harmonics.irreps().size(); ++h) {
      const auto& of_pair = pair.irreps()[p];
      const auto& of_harmonics = harmonics.irreps()[h];
      if (only_trivial && of_pair.name != of_harmonics.name) continue;
      const auto both = tensor_product(group, of_pair, of_harmonics);
      const auto left = pair.basis().middleCols(pair.offset(p), of_pair.size);
      const auto right = harmonics.basis().middleCols(harmonics.offset(h), of_harmonics.size);
      for (size_t b = 0; b < both.irreps().size(); ++b) {
        const auto& irrep = both.irreps()[b];
        if (only_trivial && !irrep.is_trivial) continue;
        Copy copy{irrep, {}};
        for (int a = 0; a < irrep.size; ++a) {
          const Vector column = both.basis().col(both.offset(b) + a);
          const Matrix middle = column.reshaped<Eigen::RowMajor>(of_pair.size, of_harmonics.size);
          copy.components.push_back(left * middle * right.transpose());
        }
        copies.push_back(std::move(copy));
      }
    }
  return copies;
}

/// Kept by value: groups of one name and dimension are the same group.
std::shared_ptr<const std::vector<Copy>> kept_copies(const GroupPtr& group, const Irrep& out,
                                                     const Irrep& in, int degree,
                                                     bool only_trivial) {
  static std::mutex mutex;
  static std::map<std::string, std::shared_ptr<const std::vector<Copy>>> kept;
  const auto key = fmt::format("{} {} {} {} {} {}", group->name(), group->dimension(), out.name,
                               in.name, degree, only_trivial);
  {
    const std::lock_guard lock(mutex);
    if (const auto found = kept.find(key); found != kept.end()) return found->second;
  }
  auto made =
      std::make_shared<const std::vector<Copy>>(copies_of(group, out, in, degree, only_trivial));
  const std::lock_guard lock(mutex);
  return kept.emplace(key, std::move(made)).first->second;
}

int harmonics_of(int degree, int dimension) {
  if (dimension == 3) return 2 * degree + 1;
  return degree == 0 ? 1 : 2;
}

/// Harmonics of a degree at points [d, P]: [harmonics, P]; at the origin only degree 0 is not zero.
Matrix harmonics_at(int degree, const Matrix& points) {
  const auto dimension = static_cast<int>(points.rows());
  Matrix out = Matrix::Zero(harmonics_of(degree, dimension), points.cols());
  for (Eigen::Index p = 0; p < points.cols(); ++p) {
    if (degree == 0) {
      out(0, p) = 1;
    } else if (points.col(p).norm() == 0) {
      continue;
    } else if (dimension == 2) {
      const double angle = std::atan2(points(1, p), points(0, p));
      out(0, p) = std::cos(degree * angle), out(1, p) = std::sin(degree * angle);
    } else {
      out.col(p) = spherical_harmonics(degree, points.col(p));
    }
  }
  return out;
}

/// One row of the basis before it is sorted.
struct Row {
  size_t part;  // place of its irrep in the group's list
  int input, output;
  Vector values;
};

}  // namespace

Rings default_rings(int size, int dimension, int dilation) {
  expect_at_least("kernel", size, 1);
  expect_at_least("dilation", dilation, 1);
  if (size % 2 == 0)
    throw UsageError(
        fmt::format("kernel: expected an odd size, found {}: rings are centred on a pixel", size));
  constexpr double kWidth = 0.6, kOutermost = 0.4, kPoint = 0.005;
  const int count = (size + 1) / 2, outermost = size / 2;
  Rings out;
  for (int r = 0; r < count; ++r) {
    out.radii.push_back(r * dilation);
    out.widths.push_back(r == 0 ? kPoint : r == outermost ? kOutermost : kWidth);
    // Beyond these the samples of a harmonic are those of a lower one.
    if (dimension == 3)
      out.degrees.push_back(std::min(2 * r, outermost - r + 2));
    else if (r == 0 || r == outermost)
      out.degrees.push_back(std::min(2 * r, 2));
    else
      out.degrees.push_back(2 * r - (r + 1) % 2);
  }
  return out;
}

int unconstrained_size(const Rings& rings, int dimension) {
  int out = 0;
  for (const int degree : rings.degrees)
    for (int f = 0; f <= degree; ++f) out += harmonics_of(f, dimension);
  return out;
}

Matrix grid_points(int size, int dimension, int dilation) {
  const int points = dimension == 2 ? size * size : size * size * size;
  const double centre = (size - 1) / 2.0;
  Matrix out(dimension, points);
  for (int p = 0; p < points; ++p) {
    out(0, p) = p % size - centre;
    out(1, p) = centre - p / size % size;
    if (dimension == 3) out(2, p) = centre - p / (size * size);
  }
  return dilation * out;
}

KernelBasis kernel_basis(const Representation& in, const Representation& out, int size,
                         const Rings& rings, int dilation, int band) {
  const auto& group = in.group_ptr();
  if (group->name() != out.group().name() || group->dimension() != out.group().dimension())
    throw UsageError(fmt::format("kernels from a representation of {} to one of {}", group->name(),
                                 out.group().name()));
  constexpr double kVanishes = 1e-6;
  const auto points = grid_points(size, group->dimension(), dilation);
  const auto count = points.cols();
  const Vector radii = points.colwise().norm();
  const int largest = *std::max_element(rings.degrees.begin(), rings.degrees.end());
  std::vector<Matrix> harmonics;
  for (int f = 0; f <= largest; ++f) harmonics.push_back(harmonics_at(f, points));
  Matrix profiles(static_cast<Eigen::Index>(rings.radii.size()), count);
  for (size_t r = 0; r < rings.radii.size(); ++r)
    profiles.row(static_cast<Eigen::Index>(r)) =
        (-0.5 * ((radii.array() - rings.radii[r]) / rings.widths[r]).square()).exp();

  const auto irreps = group->irreps(group->is_finite() ? group->largest_band() : std::max(band, 0));
  const auto place = [&](const Irrep& irrep) {
    const auto found = std::find_if(irreps.begin(), irreps.end(),
                                    [&](const Irrep& other) { return other.name == irrep.name; });
    return static_cast<size_t>(found - irreps.begin());
  };
  std::vector<Row> rows;
  for (size_t i = 0; i < in.irreps().size(); ++i)
    for (size_t o = 0; o < out.irreps().size(); ++o) {
      const auto& from = in.irreps()[i];
      const auto& to = out.irreps()[o];
      const auto q_in = in.basis().middleCols(in.offset(i), from.size);
      const auto q_out = out.basis().middleCols(out.offset(o), to.size);
      for (int f = 0; f <= largest; ++f)
        for (const auto& copy : *kept_copies(group, to, from, f, band == kEquivariant)) {
          if (band != kEquivariant && copy.irrep.frequency > band) continue;
          for (size_t r = 0; r < rings.radii.size(); ++r) {
            if (rings.degrees[r] < f) continue;
            const Matrix shape = harmonics[static_cast<size_t>(f)] *
                                 profiles.row(static_cast<Eigen::Index>(r)).asDiagonal();
            std::vector<Matrix> sampled;  // of each component [out in, P] of the irreps
            double norm = 0;
            for (const auto& component : copy.components) {
              sampled.push_back(component * shape);
              norm += sampled.back().squaredNorm();
            }
            norm = std::sqrt(norm / (copy.irrep.size * to.size));
            if (norm < kVanishes) continue;
            for (const auto& component : sampled) {
              Row row{place(copy.irrep), static_cast<int>(i), static_cast<int>(o),
                      Vector(out.size() * in.size() * count)};
              for (Eigen::Index p = 0; p < count; ++p) {
                const Vector point = component.col(p) / norm;
                const Matrix block =
                    q_out * point.reshaped<Eigen::RowMajor>(to.size, from.size) * q_in.transpose();
                for (int a = 0; a < out.size(); ++a)
                  for (int b = 0; b < in.size(); ++b)
                    row.values[(a * in.size() + b) * count + p] = block(a, b);
              }
              rows.push_back(std::move(row));
            }
          }
        }
    }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const Row& a, const Row& b) { return a.part < b.part; });
  KernelBasis basis;
  basis.values.resize(static_cast<Eigen::Index>(rows.size()), out.size() * in.size() * count);
  for (size_t n = 0; n < rows.size(); ++n) {
    basis.values.row(static_cast<Eigen::Index>(n)) = rows[n].values;
    basis.inputs.push_back(rows[n].input), basis.outputs.push_back(rows[n].output);
    if (n == 0 || rows[n].part != rows[n - 1].part)
      basis.parts.push_back({irreps[rows[n].part], static_cast<int>(n), 0});
    ++basis.parts.back().copies;
  }
  for (auto& part : basis.parts) part.copies /= part.irrep.size;
  return basis;
}

}  // namespace evariste
