// A run as its TOML file describes it.
#pragma once

#include <toml++/toml.h>

#include "io/command_line.h"
#include "io/config.h"
#include "nn/affine_augmentation.h"
#include "train/config.h"

namespace evariste {

struct RunData {
  std::string set = "mnist", scaling = "standard";
  int64_t train = 5000, test = 10000, seed = 711;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("set", set, "data set the tasks are made from; digit and quadrant want 28 x 28 grey");
    field("scaling", scaling,
          "pixels as (x/255 - mean)/std of the data set, or as x/255: 0 where an image ends",
          {"standard", "pixel"});
    field("train", train, "training images, a random subset");
    field("test", test, "test images, the first ones");
    field("seed", seed, "of the subset and of what is made of it; the same for every run");
  }
};

/// Copies of every image under affine maps, their outputs averaged (LILA, Augerino).
struct AugmentationConfig {
  int64_t copies = 0;
  std::vector<std::string> learn = {"translation_x", "translation_y", "rotation",
                                    "scale_x",       "scale_y",       "shear"};
  double translation_x = 0, translation_y = 0, rotation = 0, scale_x = 0, scale_y = 0, shear = 0;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("copies", copies, "of each image, their outputs averaged; 0: no augmentation");
    field("learn", learn, "ranges that are learnt, as train.hyper.score says; others stay");
    field("translation_x", translation_x, "range at the start, in halves of an image");
    field("translation_y", translation_y, "the same");
    field("rotation", rotation, "range at the start, in radians");
    field("scale_x", scale_x, "range at the start of the logarithm of a scale");
    field("scale_y", scale_y, "the same");
    field("shear", shear, "range at the start");
  }
};

/// Throws UsageError for an unknown range.
AugmentationOptions to_options(const AugmentationConfig& config);

struct RunConfig {
  std::string title;
  int64_t seed = 1, seeds = 1, control_seeds = 1;
  std::vector<std::string> tasks = {"digit", "quadrant"};
  std::vector<std::string> controls = {"map", "conv"};
  std::vector<std::string> pathways;
  bool report = true;
  RunData data;
  TrainConfig train;
  AugmentationConfig augmentation;
  toml::table prior;
  toml::table network;
  toml::table variant;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("title", title, "what the tables call the network; empty: by its pathways");
    field("seed", seed, "first seed: weights, order of the images, Monte Carlo");
    field("seeds", seeds, "how many seeds, from the first one on");
    field("control_seeds", control_seeds, "how many of them run the controls too");
    field("tasks", tasks,
          "digit: the label ignores the position; quadrant: it needs it; or the data set upright, "
          "rotated (by up to 180 degrees), half-rotated (90), turned (by quarter turns), turn (the "
          "label is digit and turn), translated, scaled, pairs-C1, -C4, -SO2, -D1, -D4, -O2 (two "
          "digits, each moved by an element of the group); angle: cosine and sine of the angle by "
          "which an image was rotated; solids of shapes are upright, turned (by rotations of the "
          "cube), rotated (any) or mirrored (reflected too); of vectors norm, cosine (of their "
          "angle) or norm-cosine");
    field("controls", controls,
          "trainings beside the evidence's: map, conv, fc, unit, sgd, map-unit, or a [variant.*]");
    field(
        "pathways", pathways,
        "types of pathways (of steerable ones irreps) that every sum of the network keeps; empty: "
        "all");
    field("report", report, "make figure.png and report.html with the notebook at the end");
    field("data", data, "the images");
    field("train", train, "the training");
    field("prior", prior, "the prior of each block: type, its keys, and how the evidence moves it");
    field("augmentation", augmentation, "copies of the images");
    field("network", network, "the network file with every pathway");
    field("variant", variant,
          "controls of one's own, each a table with what it changes: title, pathways, train, "
          "prior, augmentation, network");
  }
};

/// The configuration of a table, [prior] completed: what it prints is what it does.
RunConfig read_run_config(const toml::table& table);

/// `prior.type` and the keys of every type, for --help.
std::string prior_help();

/// One training within a run: the evidence run or a control.
struct Member {
  std::string name;     ///< "evidence", "map", "conv", ...
  std::string title;    ///< what the tables call it
  int64_t place = 0;    ///< in the tables
  toml::table network;  ///< with the pathways it has
  AugmentationConfig augmentation;
  TrainConfig train;
  PriorUpdateConfig prior;
  toml::table prior_keys;  ///< of the prior's own type
};

/// "evidence", a control of every configuration ("map", "conv", ...), or one of its variants.
/// Throws UsageError for unknown names.
Member make_member(const RunConfig& config, const std::string& name);

/// Refuses with UsageError what can be refused before images are read and folders made: tasks,
/// seeds, controls, and for each member its network and its prior.
void expect_valid(const RunConfig& config);

/// The network with only the pathways of some types ("conv", "fc") in every sum. Throws UsageError
/// for a sum that would have none.
toml::table keep_pathways(const toml::table& network, const std::vector<std::string>& types);
/// The network with the number of labels in place of the width "classes": a file of its own.
toml::table with_classes(const toml::table& network, int64_t classes);
/// A pathway of a sum as a network file writes it, a layer or a list of them: the sum that it
/// begins with, whose pathways stand for it; null where it begins with another layer.
toml::table* inner_sum(toml::node& path);
const toml::table* inner_sum(const toml::node& path);
/// Types of the pathways of the first sum, in order.
std::vector<std::string> pathway_types(const toml::table& network);

}  // namespace evariste
