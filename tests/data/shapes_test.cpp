// The drawn solids: reproducible, of all kinds, turned as their poses say.
#include "data/shapes.h"

#include "core/error.h"
#include "data/transform.h"
#include "groups/grid_action.h"
#include "tests/catch.h"

using namespace evariste;

namespace {

const Dataset& solids() {
  static const Dataset set =
      subset(load_dataset("shapes", "nowhere", Split::Test), torch::arange(40, torch::kInt64));
  return set;
}

double correlation(const torch::Tensor& a, const torch::Tensor& b) {
  const auto x = a.to(torch::kFloat64) - a.to(torch::kFloat64).mean();
  const auto y = b.to(torch::kFloat64) - b.to(torch::kFloat64).mean();
  return ((x * y).sum() / (x.norm() * y.norm())).item<double>();
}

torch::Tensor turned(const torch::Tensor& volume, const Element& g) {
  const auto index = grid_action(g, static_cast<int>(volume.size(0)));
  return volume.flatten().index_select(0, torch::tensor(*index)).view(volume.sizes());
}

}  // namespace

TEST_CASE("solids are drawn without files, the same each time, of all kinds", "[data][shapes]") {
  const auto train = load_dataset("shapes", "nowhere", Split::Train);
  CHECK(train.x.sizes() == at::IntArrayRef({6000, 1, 16, 16, 16}));
  CHECK(std::get<0>(at::_unique(train.y)).numel() == kShapeKinds);
  const auto& test = solids();
  CHECK(torch::equal(test.x, load_dataset("shapes", "nowhere", Split::Test).x.narrow(0, 0, 40)));
  CHECK_FALSE(torch::equal(test.x, train.x.narrow(0, 0, 40)));
  const auto x = normalised(train).x;
  CHECK(x.mean().item<double>() == Approx(0).margin(0.02));
  CHECK(x.std().item<double>() == Approx(1).margin(0.02));
}

TEST_CASE("poses turn solids and keep their labels", "[data][shapes]") {
  const auto& raw = solids();
  CHECK(torch::equal(posed_shapes(raw, "C1", Stream(1)).x, raw.x));
  const auto group = make_group("O", 3);
  const auto posed = posed_shapes(raw, "O", Stream(1));
  CHECK(torch::equal(posed.y, raw.y));
  CHECK(torch::equal(posed.x, posed_shapes(raw, "O", Stream(1)).x));
  CHECK_FALSE(torch::equal(posed.x, posed_shapes(raw, "O", Stream(2)).x));
  int64_t moved = 0;
  for (int64_t i = 0; i < raw.size(); ++i) {
    double best = -1;
    for (const auto& g : group->elements())
      best = std::max(best, correlation(posed.x[i][0], turned(raw.x[i][0], g)));
    CAPTURE(i, raw.y[i].item<int64_t>());
    CHECK(best > 0.6);  // solids lie off the centre by up to a voxel, and keep that place
    moved += correlation(posed.x[i][0], raw.x[i][0]) < 0.9;
    const auto mass = [&](const Dataset& set) { return set.x[i].sum().item<double>(); };
    CHECK(mass(posed) == Approx(mass(raw)).epsilon(0.05));
  }
  CHECK(moved > 20);
}

TEST_CASE("the inversion turns one screw into the other", "[data][shapes]") {
  const auto& raw = solids();
  const auto posed = posed_shapes(raw, "Ci", Stream(1));
  const auto rotations = make_group("O", 3);
  const auto closest = [&](const torch::Tensor& a, const torch::Tensor& b) {
    double best = -1;
    for (const auto& g : rotations->elements()) best = std::max(best, correlation(a, turned(b, g)));
    return best;
  };
  int64_t inverted = 0;
  for (int64_t i = 0; i < raw.size(); ++i) {
    if (raw.y[i].item<int64_t>() < 6 || torch::equal(posed.x[i], raw.x[i])) continue;
    ++inverted;
    CHECK(correlation(posed.x[i][0], raw.x[i][0].flip({0, 1, 2})) > 0.45);
    CHECK(closest(posed.x[i][0], raw.x[i][0]) < closest(posed.x[i][0], raw.x[i][0].flip({0})));
  }
  CHECK(inverted > 0);
  auto other = raw;
  other.name = "mnist";
  CHECK_THROWS_AS(posed_shapes(other, "O", Stream(1)), UsageError);
}
