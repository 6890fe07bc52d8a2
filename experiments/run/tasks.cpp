#include "experiments/run/tasks.h"

#include <fmt/ranges.h>

#include <cmath>

#include "core/error.h"
#include "data/pairs.h"
#include "data/shapes.h"
#include "data/transform.h"
#include "data/vectors.h"
#include "io/safetensors.h"
#include "nn/network.h"

namespace evariste {
namespace {

using Make = Dataset (*)(const Dataset& raw, const Stream& stream);

struct Task {
  const char* name;
  int64_t labels;               // for each class of the data set
  Make make;                    // raw images, once, before training; null: as they are
  bool is_toy = false;          // makes normalised images of 32 x 32 itself
  const char* poses = "C1";     // of solids: the group they are turned by; null: not defined
  const char* pairs = nullptr;  // the group that each of two digits is moved by
  int64_t targets = 0;          // numbers of a target in place of labels
  bool is_of_points = false;    // not of images
};

const std::vector<Task>& tasks() {
  static const std::vector<Task> list = {
      {"digit", 1,
       [](const Dataset& raw, const Stream& stream) {
         return quadrant_mnist(raw, QuadrantLabel::Digit, stream);
       },
       true, nullptr},
      {"quadrant", 4,
       [](const Dataset& raw, const Stream& stream) {
         return quadrant_mnist(raw, QuadrantLabel::Quadrant, stream);
       },
       true, nullptr},
      {"upright", 1, nullptr},
      {"rotated", 1,
       [](const Dataset& raw, const Stream& stream) { return rotated(raw, 180, stream); }, false,
       "SO(3)"},
      {"half-rotated", 1,
       [](const Dataset& raw, const Stream& stream) { return rotated(raw, 90, stream); }, false,
       nullptr},
      {"turned", 1,
       [](const Dataset& raw, const Stream& stream) {
         return quarter_turned(raw, TurnLabel::None, stream);
       },
       false, "O"},
      {"turn", 4,
       [](const Dataset& raw, const Stream& stream) {
         return quarter_turned(raw, TurnLabel::Added, stream);
       },
       false, nullptr},
      {"translated", 1,
       [](const Dataset& raw, const Stream& stream) { return translated(raw, stream); }, false,
       nullptr},
      {"scaled", 1,
       [](const Dataset& raw, const Stream& stream) { return scaled(raw, std::log(2.0), stream); },
       false, nullptr},
      {"mirrored", 1, nullptr, false, "O(3)"},
      {"pairs-C1", 1, nullptr, false, nullptr, "C1"},
      {"pairs-C4", 1, nullptr, false, nullptr, "C4"},
      {"pairs-SO2", 1, nullptr, false, nullptr, "SO(2)"},
      {"pairs-D1", 1, nullptr, false, nullptr, "D1"},
      {"pairs-D4", 1, nullptr, false, nullptr, "D4"},
      {"pairs-O2", 1, nullptr, false, nullptr, "O(2)"},
      {"angle", 1, [](const Dataset& raw, const Stream& stream) { return angles_of(raw, stream); },
       false, nullptr, nullptr, 2},
      {"norm", 1, [](const Dataset& raw, const Stream&) { return vector_targets(raw, {0}); }, false,
       nullptr, nullptr, 1, true},
      {"cosine", 1, [](const Dataset& raw, const Stream&) { return vector_targets(raw, {1}); },
       false, nullptr, nullptr, 1, true},
      {"norm-cosine", 1,
       [](const Dataset& raw, const Stream&) {
         return vector_targets(raw, {0, 1});
       },
       false, nullptr, nullptr, 2, true},
  };
  return list;
}

const Task& task_named(const std::string& name) {
  for (const auto& task : tasks())
    if (name == task.name) return task;
  throw UsageError(fmt::format("no task \"{}\"", name));  // expect_valid names the nearest
}

/// The samples that a run makes its task from.
Dataset chosen(const RunConfig& config, const Dataset& whole, const Stream& stream) {
  return whole.split == Split::Train
             ? random_subset(whole, config.data.train, stream.split("subset"))
             : subset(whole, torch::arange(config.data.test));
}

Stream data_stream(const RunConfig& config) {
  return Stream(static_cast<uint64_t>(config.data.seed)).split("data");
}

}  // namespace

std::vector<std::string> task_names() {
  std::vector<std::string> names;
  for (const auto& task : tasks()) names.emplace_back(task.name);
  return names;
}

std::string task_title(const std::string& task, const std::string& set) {
  return task_named(task).is_toy && set == "mnist" ? task + "-MNIST"
                                                   : fmt::format("{} {}", task, set);
}

bool is_regression(const std::string& task) { return task_named(task).targets > 0; }

std::shared_ptr<Likelihood> task_likelihood(const std::string& task, const TrainConfig& train) {
  if (is_regression(task)) return std::make_shared<Gaussian>(train.noise.start);
  return std::make_shared<Softmax>();
}

int64_t task_outputs(const std::string& task, const std::string& set) {
  const auto& found = task_named(task);
  if (found.targets > 0) return found.targets;
  return dataset_classes(set) * (found.pairs ? dataset_classes(set) : found.labels);
}

void expect_input(const std::string& task, const std::string& set,
                  const std::vector<int64_t>& input) {
  const auto& found = task_named(task);
  const auto kind = sample_kind(set);
  const bool volumes = kind == SampleKind::kVolume, points = kind == SampleKind::kPoint;
  if (points != found.is_of_points)
    throw UsageError(fmt::format("tasks: {} is for {}, not for {}", task,
                                 points ? "images" : "the points of vectors",
                                 points ? "the points of " + set : set));
  if (volumes && !found.poses)
    throw UsageError(fmt::format("tasks: {} is for images, not for the volumes of {}", task, set));
  const bool is_drawn = set == "shapes";  // anew in every pose
  if (found.poses && found.poses != std::string_view("C1") && volumes && !is_drawn)
    throw UsageError(
        fmt::format("tasks: {} is for the volumes of shapes, found {}: use upright", task, set));
  if (!volumes && task == "mirrored")
    throw UsageError(fmt::format("tasks: mirrored is for the volumes of shapes, not for {}", set));
  const bool is_known = volumes  ? input.size() == 4 && input[1] == input[2] && input[2] == input[3]
                        : points ? input == std::vector<int64_t>{2, 1, 1}
                        : found.is_toy ? input == std::vector<int64_t>{1, 32, 32}
                                       : input.size() == 3 && input[1] == input[2];
  if (!is_known)
    throw UsageError(fmt::format("network.input: expected {} for the {} of {}, found [{}]",
                                 volumes        ? "[C, S, S, S]"
                                 : points       ? "[2, 1, 1]"
                                 : found.is_toy ? "[1, 32, 32]"
                                                : "[C, S, S]",
                                 volumes  ? "volumes"
                                 : points ? "points"
                                          : "images",
                                 task, fmt::join(input, ", ")));
}

RawImages load_images(const RunConfig& config, const std::filesystem::path& root) {
  auto train = load_dataset(config.data.set, root, Split::Train);
  auto test = load_dataset(config.data.set, root, Split::Test);
  if (config.data.train < 1 || config.data.train > train.size())
    throw UsageError(
        fmt::format("data.train: expected 1 ... {}, found {}", train.size(), config.data.train));
  if (config.data.test < 1 || config.data.test > test.size())
    throw UsageError(
        fmt::format("data.test: expected 1 ... {}, found {}", test.size(), config.data.test));
  return {train, test};
}

Dataset task_images(const RunConfig& config, const std::string& name, const Dataset& raw,
                    const std::vector<int64_t>& input) {
  const auto& task = task_named(name);
  const bool is_train = raw.split == Split::Train;
  const auto stream = data_stream(config).split(is_train ? "train" : "test");
  expect_input(name, config.data.set, input);
  auto set = task.pairs ? digit_pairs(raw, is_train ? config.data.train : config.data.test,
                                      task.pairs, stream)
                        : chosen(config, raw, data_stream(config));
  if (config.data.scaling == "pixel") {
    const auto channels = static_cast<size_t>(raw.x.size(1));
    set.normalisation = {std::vector<double>(channels, 0), std::vector<double>(channels, 1)};
  }
  if (task.make) set = task.make(set, stream);
  if (config.data.set == "shapes") set = posed_shapes(set, task.poses, stream);
  if (!task.is_toy && !task.is_of_points) set = normalised(set);
  const auto channels = set.x.size(1), side = set.x.size(2);
  if (input[0] != channels)
    throw UsageError(
        fmt::format("network.input: expected [{}, S, S{}] for the images of {}, found "
                    "[{}]",
                    channels, raw.x.dim() == 5 ? ", S" : "", task_title(name, config.data.set),
                    fmt::join(input, ", ")));
  return input[1] == side ? set : resized(set, input[1]);
}

std::vector<int64_t> input_of(const RunConfig& config) {
  std::vector<int64_t> input;
  if (const auto* list = config.network["input"].as_array())
    for (const auto& side : *list) input.push_back(side.value_or(int64_t{0}));
  return input;
}

void write_images(const RunConfig& config, const std::string& task, const RawImages& images,
                  const std::filesystem::path& folder) {
  for (const auto& [name, raw] : {std::pair("train", &images.train), {"test", &images.test}}) {
    const auto set = task_images(config, task, *raw, input_of(config));
    write_safetensors(folder / fmt::format("{}.safetensors", name),
                      {to_safe_tensor("x", set.x), to_safe_tensor("y", set.y)});
  }
}

}  // namespace evariste
