#include "data/vectors.h"

#include <fmt/format.h>

#include <cmath>

#include "core/error.h"
#include "core/stream.h"

namespace evariste {
namespace {

constexpr int64_t kTrain = 10000, kTest = 2000;

}  // namespace

LabelledImages read_vectors(SourceFolder&, Split split) {
  const auto count = split == Split::Train ? kTrain : kTest;
  const auto stream = Stream(17).split("vectors").split(split == Split::Train ? "train" : "test");
  LabelledImages out{torch::empty({count, 2, 1, 1}, torch::kFloat32),
                     torch::empty({count, kVectorTargets}, torch::kFloat32)};
  auto* x = out.x.data_ptr<float>();
  auto* y = out.y.data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) {
    Draws draws(stream.split(static_cast<uint64_t>(i)));
    const double first = draws.uniform(-1, 1), second = draws.uniform(-1, 1);
    const double length = std::hypot(first, second);
    x[2 * i] = static_cast<float>(first), x[2 * i + 1] = static_cast<float>(second);
    y[2 * i] = static_cast<float>(length), y[2 * i + 1] = static_cast<float>(first / length);
  }
  return out;
}

Dataset vector_targets(const Dataset& vectors, const std::vector<int64_t>& columns) {
  if (vectors.name != "vectors")
    throw UsageError(
        fmt::format("vector_targets: expected the data set vectors, found {}", vectors.name));
  auto out = vectors;
  out.y = vectors.y.index_select(1, torch::tensor(columns));
  out.classes = out.y.size(1);
  return out;
}

}  // namespace evariste
