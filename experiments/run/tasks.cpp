#include "experiments/run/tasks.h"

#include <fmt/ranges.h>

#include <cmath>

#include "core/error.h"
#include "data/shapes.h"
#include "data/transform.h"
#include "io/safetensors.h"
#include "nn/network.h"

namespace evariste {
namespace {

using Make = Dataset (*)(const Dataset& raw, const Stream& stream);

struct Task {
  const char* name;
  int64_t labels;            // for each class of the data set
  Make make;                 // raw images, once, before training; null: as they are
  bool is_toy = false;       // makes normalised images of 32 x 32 itself
  const char* poses = "C1";  // of solids: the group they are turned by; null: not defined
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
  };
  return list;
}

const Task& task_named(const std::string& name) {
  for (const auto& task : tasks())
    if (name == task.name) return task;
  throw UsageError(fmt::format("no task \"{}\"", name));  // expect_valid names the nearest
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

int64_t task_classes(const std::string& task, const std::string& set) {
  return task_named(task).labels * dataset_classes(set);
}

void expect_input(const std::string& task, const std::string& set,
                  const std::vector<int64_t>& input) {
  const auto& found = task_named(task);
  const bool has_volumes = set == "shapes";
  if (has_volumes && !found.poses)
    throw UsageError(fmt::format("tasks: {} is for images, not for the volumes of {}", task, set));
  if (!has_volumes && task == "mirrored")
    throw UsageError(fmt::format("tasks: mirrored is for the volumes of shapes, not for {}", set));
  const bool is_known = has_volumes    ? input == std::vector<int64_t>{1, 16, 16, 16}
                        : found.is_toy ? input == std::vector<int64_t>{1, 32, 32}
                                       : input.size() == 3 && input[1] == input[2];
  if (!is_known)
    throw UsageError(fmt::format("network.input: expected {} for the images of {}, found [{}]",
                                 has_volumes    ? "[1, 16, 16, 16]"
                                 : found.is_toy ? "[1, 32, 32]"
                                                : "[C, S, S]",
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
  return {random_subset(train, config.data.train, data_stream(config).split("subset")),
          subset(test, torch::arange(config.data.test))};
}

Dataset task_images(const RunConfig& config, const std::string& name, const Dataset& raw,
                    const std::vector<int64_t>& input) {
  const auto& task = task_named(name);
  const auto stream = data_stream(config).split(raw.split == Split::Train ? "train" : "test");
  auto set = raw;
  if (config.data.scaling == "pixel") {
    const auto channels = static_cast<size_t>(raw.x.size(1));
    set.normalisation = {std::vector<double>(channels, 0), std::vector<double>(channels, 1)};
  }
  expect_input(name, config.data.set, input);
  if (raw.x.dim() == 5) return normalised(posed_shapes(set, task.poses, stream));
  if (task.make) set = task.make(set, stream);
  if (!task.is_toy) set = normalised(set);
  const auto channels = set.x.size(1), side = set.x.size(2);
  if (input[0] != channels)
    throw UsageError(
        fmt::format("network.input: expected [{}, S, S] for the images of {}, found [{}]", channels,
                    task_title(name, config.data.set), fmt::join(input, ", ")));
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
