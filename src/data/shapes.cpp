#include "data/shapes.h"

#include <fmt/format.h>

#include <cmath>
#include <numbers>

#include "core/error.h"
#include "groups/group.h"

namespace evariste {
namespace {

using torch::Tensor;

constexpr int64_t kSide = 16, kTrain = 6000, kTest = 2000;
constexpr double kNoise = 0.05;
/// Beyond it a voxel at the surface is half full: about half a voxel, so that solids are smooth.
constexpr double kSurface = 0.05;

/// Screw of 1.5 turns with radius 0.5 and length 1.4; hand = 1 or -1. Distance to its axis line.
Tensor screw(const Tensor& x, const Tensor& y, const Tensor& z, double hand) {
  constexpr int kPoints = 32;
  Tensor least;
  for (int i = 0; i < kPoints; ++i) {
    const double t = static_cast<double>(i) / (kPoints - 1), angle = 3 * std::numbers::pi * t;
    const auto square = (x - 0.5 * std::cos(angle)).square() +
                        (y - hand * 0.5 * std::sin(angle)).square() + (z + 0.7 - 1.4 * t).square();
    least = least.defined() ? torch::minimum(least, square) : square;
  }
  return least.sqrt() - 0.2;
}

/// About the distance from the surface of a solid of size one, negative inside; p [3, P], `shape`
/// in [-1, 1] its proportions.
Tensor surface(int64_t kind, const Tensor& p, double shape) {
  const auto &x = p[0], y = p[1], z = p[2];
  const auto across = (x.square() + y.square()).sqrt();
  switch (kind) {
    case 0:  // cube
      return p.abs().amax(0) - 0.6;
    case 1: {  // tetrahedron
      const double face = 1 / std::sqrt(3.0);
      const auto faces = torch::stack({x + y + z, x - y - z, y - x - z, z - x - y});
      return face * faces.amax(0) - 0.38;
    }
    case 2:  // cylinder
      return torch::maximum(across - 0.4 * (1 + 0.15 * shape), z.abs() - 0.8);
    case 3:  // cone
      return torch::maximum(0.85 * (across - 0.4 * (1 + 0.1 * shape) * (0.8 - z)), z.abs() - 0.8);
    case 4:  // ring
      return ((across - 0.6).square() + z.square()).sqrt() - 0.22 * (1 + 0.15 * shape);
    case 5:  // ellipsoid
      return 0.5 * ((x.square() + y.square() + (z / (1.9 + 0.2 * shape)).square()).sqrt() - 0.45);
    default:
      return screw(x, y, z, kind == 6 ? 1 : -1);
  }
}

Stream stream_of(Split split) {
  return Stream(16).split("shapes").split(split == Split::Train ? "train" : "test");
}

int64_t kind_of(const Stream& sample) {
  Draws draws(sample.split("kind"));
  return static_cast<int64_t>(draws.below(kShapeKinds));
}

/// Voxels [16, 16, 16] uint8 of one solid, turned by `pose` about the middle.
Tensor voxels(const Stream& sample, const Matrix& pose) {
  Draws draws(sample.split("form"));
  const double size = draws.uniform(0.7, 0.9), shape = draws.uniform(-1, 1);
  const auto place = torch::linspace(-1, 1, kSide, torch::kFloat64);
  const auto grid = torch::meshgrid({place, place, place}, "ij");  // slices, rows, columns
  Tensor axes[] = {grid[2].flatten(), -grid[1].flatten(), -grid[0].flatten()};
  for (auto& axis : axes) axis = (axis - draws.uniform(-0.1, 0.1)) / size;
  std::vector<Tensor> p;  // the solid's own coordinates: pose^-1 of the grid's
  for (Eigen::Index i = 0; i < 3; ++i)
    p.push_back(pose(0, i) * axes[0] + pose(1, i) * axes[1] + pose(2, i) * axes[2]);
  auto density =
      torch::sigmoid(-size * surface(kind_of(sample), torch::stack(p), shape) / kSurface);
  Draws noise(sample.split("noise"));
  auto* value = density.data_ptr<double>();
  for (int64_t i = 0; i < density.numel(); ++i) value[i] += kNoise * noise.normal();
  return (255 * density).round().clamp(0, 255).to(torch::kUInt8).view({kSide, kSide, kSide});
}

}  // namespace

LabelledImages read_shapes(SourceFolder&, Split split) {
  const auto count = split == Split::Train ? kTrain : kTest;
  const Matrix upright = Matrix::Identity(3, 3);
  LabelledImages out{torch::empty({count, 1, kSide, kSide, kSide}, torch::kUInt8),
                     torch::empty({count}, torch::kInt64)};
  for (int64_t i = 0; i < count; ++i) {
    const auto sample = stream_of(split).split(static_cast<uint64_t>(i));
    out.x[i][0] = voxels(sample, upright);
    out.y[i] = kind_of(sample);
  }
  return out;
}

Dataset posed_shapes(const Dataset& shapes, const std::string& group, const Stream& stream) {
  if (shapes.name != "shapes")
    throw UsageError(
        fmt::format("posed_shapes: expected the data set shapes, found {}", shapes.name));
  const auto poses = make_group(group, 3);
  auto out = shapes;
  out.name = fmt::format("shapes({})", group);
  out.x = torch::empty_like(shapes.x);
  const auto index = sample_index(shapes);
  for (int64_t i = 0; i < shapes.size(); ++i) {
    const auto place = static_cast<uint64_t>(index[i].item<int64_t>());
    Draws draws(stream.split("pose").split(place));
    out.x[i][0] = voxels(stream_of(shapes.split).split(place), poses->sample(draws));
  }
  return out;
}

}  // namespace evariste
