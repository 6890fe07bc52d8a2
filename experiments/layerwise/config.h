// The layer-wise experiment as its TOML files describe it.
#pragma once

#include <toml++/toml.h>

#include "io/command_line.h"
#include "io/config.h"
#include "train/config.h"

namespace evariste {

struct LayerwiseData {
  std::string set = "mnist";
  int64_t train = 5000, test = 10000, seed = 711;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("set", set, "data set of 28 x 28 digits the tasks are made from");
    field("train", train, "training images, a random subset");
    field("test", test, "test images, the first ones");
    field("seed", seed, "of the subset and of the quadrants; the same for every run");
  }
};

struct LayerwiseConfig {
  int64_t seed = 1, seeds = 1, control_seeds = 1;
  std::vector<std::string> tasks = {"digit", "quadrant"};
  std::vector<std::string> controls = {"map", "conv"};
  bool report = true;
  LayerwiseData data;
  TrainConfig train;
  toml::table prior;
  toml::table network;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("seed", seed, "first seed: weights, order of the images, Monte Carlo");
    field("seeds", seeds, "how many seeds, from the first one on");
    field("control_seeds", control_seeds, "how many of them run the controls too");
    field("tasks", tasks, "digit: the label ignores the position; quadrant: it needs it");
    field("controls", controls, "map, conv, fc, unit, sgd, map-unit: see layerwise --help");
    field("report", report, "make figure.png and report.html with the notebook at the end");
    field("data", data, "the images");
    field("train", train, "the training");
    field("prior", prior, "the prior of each block: type, its keys, and how the evidence moves it");
    field("network", network, "the network file with every pathway");
  }
};

/// The configuration of a table, [prior] completed: what it prints is what it does.
LayerwiseConfig read_layerwise(const toml::table& table);

/// `prior.type` and the keys of every type, for --help.
std::string prior_help();

/// One training within a run: the evidence run or a control.
struct Member {
  std::string name;     ///< "evidence", "map", "conv", ...
  toml::table network;  ///< with the pathways it has
  TrainConfig train;
  PriorUpdateConfig prior;
  toml::table prior_keys;  ///< of the prior's own type
};

/// Labels of digit (10) or quadrant (40).
int64_t task_classes(const std::string& task);

/// "evidence", then the controls of the configuration. Throws UsageError for unknown names.
Member make_member(const LayerwiseConfig& config, const std::string& name);
std::vector<std::string> control_names();

/// Refuses with UsageError what can be refused before images are read and folders made: tasks,
/// seeds, controls, and for each member its network and its prior.
void expect_valid(const LayerwiseConfig& config);

/// The network with only the pathways of one type ("conv", "fc") in every sum.
toml::table keep_pathways(const toml::table& network, std::string_view type);
/// The network with the number of labels in place of the width "classes": a file of its own.
toml::table with_classes(const toml::table& network, int64_t classes);
/// Types of the pathways of the first sum, in order.
std::vector<std::string> pathway_types(const toml::table& network);

}  // namespace evariste
