#include "experiments/run/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>

#include "core/expect.h"
#include "core/nearest.h"
#include "experiments/run/tasks.h"
#include "laplace/priors/builtin.h"
#include "nn/averaged.h"
#include "train/trainer.h"

namespace evariste {
namespace {

constexpr int64_t kMostSeeds = 10000;

/// Controls that every configuration has; {} is its title.
constexpr const char* kControls = R"(
map = { title = "{}, matched prior held fixed", prior = { update = "none" }, train = { hyper = { score = "none" } } }
conv = { title = "strict CONV, evidence", pathways = ["conv"], prior = { lean = 1.0 } }
fc = { title = "strict FC, evidence", pathways = ["fc"], prior = { lean = 1.0 } }
unit = { title = "{}, evidence, unit start", prior = { init = "unit" } }
map-unit = { title = "{}, unit prior held fixed", prior = { init = "unit", update = "none" }, train = { hyper = { score = "none" } } }
rpp = { title = "{}, penalties of residual pathway priors", prior = { init = "penalty", update = "none" }, train = { hyper = { score = "none" } } }
sgd = { title = "{}, evidence, SGD", train = { optimiser = "sgd" } }
)";

/// Those, and under them the variants of the configuration.
toml::table all_variants(const RunConfig& config) {
  auto all = parse_toml(kControls, "controls");
  merge_over(all, config.variant);
  return all;
}

/// "FC+CONV" for the pathways conv and fc, the most flexible first; "network" for one without.
std::string title_of(const RunConfig& config) {
  static const std::map<std::string, std::string> titles = {
      {"fc", "FC"},          {"conv", "CONV"},          {"factored_fc", "F-FC"},
      {"sparse_fc", "S-FC"}, {"sparse_conv", "S-CONV"}, {"group_conv", "GCONV"}};
  if (!config.title.empty()) return config.title;
  std::string title;
  for (const auto& type : pathway_types(config.network)) {
    const auto& kept = config.pathways;
    if (!kept.empty() && std::find(kept.begin(), kept.end(), type) == kept.end()) continue;
    const auto known = titles.find(type);
    title = (known == titles.end() ? type : known->second) + (title.empty() ? "" : "+") + title;
  }
  return title.empty() ? "network" : title;
}

/// What the configuration says with the variant laid over it.
RunConfig with_variant(const RunConfig& config, toml::table change) {
  change.erase("title");
  auto table = to_toml(config);
  table.erase("variant");
  auto* prior = table["prior"].as_table();
  if (const auto type = change["prior"]["type"].value<std::string>();
      type && *type != (*prior)["type"].value_or(std::string())) {
    const auto shared = to_toml(PriorUpdateConfig());  // the keys of the other type go with it
    toml::table kept;
    for (const auto& [key, value] : *prior)
      if (shared.contains(key.str()))
        value.visit([&, &n = key](const auto& v) { kept.insert(n, v); });
    *prior = std::move(kept);
  }
  if (change["network"].as_table()) table.erase("network");  // another one, not a part of it
  merge_over(table, change);
  return read_run_config(table);
}

/// The first layer of a pathway, null where it has none.
template <class Node>
auto first_layer(Node& path) {
  auto* list = path.as_array();
  return list ? (list->empty() ? nullptr : (*list)[0].as_table()) : path.as_table();
}

/// What the tables and `pathways` call a pathway that begins with this layer: its irrep where it
/// takes a part of a group's kernels, else its type; "" of what is no layer.
std::string kind_of(const toml::table* layer) {
  if (!layer) return {};
  return (*layer)["isotypic"].value_or((*layer)["type"].value_or(std::string()));
}

std::string type_of(const toml::table* layer) {
  return layer ? (*layer)["type"].value_or(std::string()) : std::string();
}

/// Types of the pathways of a sum, those of a sum that one begins with in its place.
void add_types(const toml::table& sum, std::vector<std::string>& types) {
  const auto* paths = sum["of"].as_array();
  if (!paths) return;
  for (const auto& path : *paths) {
    if (const auto* inner = inner_sum(path))
      add_types(*inner, types);
    else
      types.push_back(kind_of(first_layer(path)));
  }
}

/// Leaves the other pathways out of a sum; false where none is left.
bool keep_of(toml::table& sum, const std::vector<std::string>& types) {
  toml::array kept;
  if (auto* paths = sum["of"].as_array())
    for (auto& path : *paths) {
      auto* inner = inner_sum(path);
      const bool stays =
          inner ? keep_of(*inner, types)
                : std::find(types.begin(), types.end(), kind_of(first_layer(path))) != types.end();
      if (stays) path.visit([&](const auto& p) { kept.push_back(p); });
    }
  const bool any = !kept.empty();
  sum.insert_or_assign("of", std::move(kept));
  return any;
}

/// Splits [prior] into how the evidence moves a prior and the keys of the prior's own type.
void split_prior(const toml::table& prior, PriorUpdateConfig& config, toml::table& own) {
  const toml::table known = to_toml(PriorUpdateConfig());
  toml::table shared;
  for (const auto& [key, value] : prior) {
    auto& target = known.contains(key.str()) ? shared : own;
    value.visit([&, &name = key](const auto& v) { target.insert(name, v); });  // keeps its place
  }
  config = from_toml<PriorUpdateConfig>(shared, "prior");
  const auto type = own["type"].value_or(std::string(IsotropicGaussian::kName));
  if (const auto found = builtin_priors().find(type); found != builtin_priors().end()) {
    std::vector<std::string> keys = {"type"};
    for (const auto& [key, value] : found->second.keys) keys.push_back(key);
    for (const auto& [key, value] : known) keys.emplace_back(key.str());
    expect_known_keys(own, keys, "prior");
  }
  own = with_defaults(own);
}

/// The record has one row of pathways per sum: every sum of the network has the same ones, and none
/// lies within a layer other than the pathway of a sum that it begins.
void expect_same_pathways(const toml::table& network, Network& built) {
  const auto expected = pathway_types(network);
  const auto* layers = network["layer"].as_array();
  size_t sums = 0;
  for (size_t i = 0; i < layers->size(); ++i) {
    const auto* table = (*layers)[i].as_table();
    if (!table || (*table)["type"].value_or(std::string()) != "sum") continue;
    ++sums;
    std::vector<std::string> found;
    add_types(*table, found);
    if (found != expected)
      throw UsageError(
          fmt::format("network: layer[{}]: expected the pathways of the first sum ({}), found {}",
                      i, fmt::join(expected, ", "), fmt::join(found, ", ")));
  }
  if (const auto all = pathway_layers(built).size(); all != sums)
    throw UsageError(
        fmt::format("network: expected every sum among the layers themselves or first in a pathway "
                    "without other "
                    "weights, found {} elsewhere",
                    all - sums));
}

/// "experiments/mine.toml: [network]"
std::string network_place(const toml::table& network) {
  const auto& path = network.source().path;
  return path && !path->empty() ? fmt::format("{}: [network]", *path) : "[network]";
}

}  // namespace

AugmentationOptions to_options(const AugmentationConfig& config) {
  const auto& names = AffineAugmentation::kNames;
  AugmentationOptions options;
  options.copies = config.copies;
  options.start = {config.translation_x, config.translation_y, config.rotation,
                   config.scale_x,       config.scale_y,       config.shear};
  for (size_t i = 0; i < names.size(); ++i)
    expect(std::isfinite(options.start[i]), std::string("augmentation.") + names[i],
           "a finite number", options.start[i]);
  options.learns = {};
  for (const auto& name : config.learn) {
    const auto found = std::find(names.begin(), names.end(), name);
    if (found == names.end())
      throw UsageError("augmentation.learn: " +
                       unknown_name("range", name, {names.begin(), names.end()}));
    options.learns[static_cast<size_t>(found - names.begin())] = true;
  }
  return options;
}

std::vector<std::string> pathway_types(const toml::table& network) {
  std::vector<std::string> types;
  if (const auto* layers = network["layer"].as_array())
    for (const auto& layer : *layers) {
      const auto* table = layer.as_table();
      if (type_of(table) != "sum") continue;
      add_types(*table, types);
      return types;
    }
  return types;
}

toml::table with_classes(const toml::table& network, int64_t classes) {
  toml::table out = network;
  const std::function<void(toml::node&)> replace = [&](toml::node& node) {
    if (auto* list = node.as_array())
      for (auto& item : *list) replace(item);
    auto* table = node.as_table();
    if (!table) return;
    if ((*table)["out"].value_or(std::string()) == "classes")
      table->insert_or_assign("out", classes);
    for (auto&& [key, value] : *table) replace(value);
  };
  replace(out);
  return out;
}

toml::table* inner_sum(toml::node& path) {
  auto* first = first_layer(path);
  return type_of(first) == "sum" ? first : nullptr;
}

const toml::table* inner_sum(const toml::node& path) {
  const auto* first = first_layer(path);
  return type_of(first) == "sum" ? first : nullptr;
}

toml::table keep_pathways(const toml::table& network, const std::vector<std::string>& types) {
  toml::table out = network;
  auto* layers = out["layer"].as_array();
  if (!layers) throw UsageError("network: key \"layer\" is missing");
  int64_t sums = 0;
  for (auto& layer : *layers) {
    auto* table = layer.as_table();
    if (type_of(table) != "sum") continue;
    if (!keep_of(*table, types))
      throw UsageError(fmt::format("pathways: every sum needs one of {}, found none in a sum",
                                   fmt::join(types, ", ")));
    ++sums;
  }
  if (sums == 0)
    throw UsageError(
        fmt::format("pathways: {} are kept of every sum, found no sum", fmt::join(types, ", ")));
  return out;
}

RunConfig read_run_config(const toml::table& table) {
  auto config = from_toml<RunConfig>(table);
  PriorUpdateConfig update;
  toml::table own;
  split_prior(config.prior, update, own);
  merge_over(own, to_toml(update));
  config.prior = std::move(own);
  return config;
}

std::string prior_help() {
  std::string text;
  for (const auto& [name, prior] : builtin_priors()) {
    text += fmt::format("  prior.type = {}", name);
    for (const auto& [key, value] : prior.keys) text += fmt::format(", prior.{} = {}", key, value);
    text += "\n";
  }
  return text;
}

namespace {

Member make(const RunConfig& config, const std::string& name) {
  toml::table change;
  Member member;
  member.name = name;
  member.title = title_of(config) + ", evidence";
  if (name != "evidence") {
    const auto variants = all_variants(config);
    std::vector<std::string> names;
    for (const auto& [key, value] : variants) names.emplace_back(key.str());
    const auto* found = variants[name].as_table();
    if (!found) throw UsageError("controls: " + unknown_name("control", name, names));
    change = *found;
    expect_known_keys(change, {"title", "pathways", "train", "prior", "augmentation", "network"},
                      "variant." + name);
    auto title = change["title"].value_or(name);
    const auto hole = title.find("{}");
    member.title = hole == std::string::npos ? title : title.replace(hole, 2, title_of(config));
    const auto place = std::find(config.controls.begin(), config.controls.end(), name);
    member.place = 1 + (place - config.controls.begin());
  }
  const auto own = change.empty() ? config : with_variant(config, change);
  member.network = own.pathways.empty() ? own.network : keep_pathways(own.network, own.pathways);
  member.train = own.train;
  member.augmentation = own.augmentation;
  split_prior(own.prior, member.prior, member.prior_keys);
  expect_valid(member.train);
  expect_valid(member.prior);
  expect_at_least("augmentation.copies", member.augmentation.copies, 0);
  to_options(member.augmentation);
  if (member.train.flip_crop && member.augmentation.copies > 0)
    throw UsageError(
        "train.flip_crop and augmentation.copies are two ways of one thing: leave one of them out");
  return member;
}

}  // namespace

Member make_member(const RunConfig& config, const std::string& name) {
  if (name == "evidence" || !all_variants(config).contains(name)) return make(config, name);
  try {
    return make(config, name);
  } catch (const UsageError& error) {
    throw UsageError(fmt::format("control {}: {}", name, error.what()));
  }
}

void expect_valid(const RunConfig& config) {
  const auto tasks = task_names();
  if (config.tasks.empty())
    throw UsageError(fmt::format("tasks: expected some of {}, found none", fmt::join(tasks, ", ")));
  for (size_t i = 0; i < config.tasks.size(); ++i) {
    const auto& task = config.tasks[i];
    if (std::find(tasks.begin(), tasks.end(), task) == tasks.end())
      throw UsageError("tasks: " + unknown_name("task", task, tasks));
    if (std::find(config.tasks.begin(), config.tasks.begin() + i, task) != config.tasks.begin() + i)
      throw UsageError(fmt::format("tasks: \"{}\" stands there twice", task));
  }
  expect_at_least("seeds", config.seeds, 1);
  expect(config.seeds <= kMostSeeds, "seeds", fmt::format("at most {}", kMostSeeds),
         static_cast<double>(config.seeds));
  expect_at_least("control_seeds", config.control_seeds, 0);
  for (auto it = config.controls.begin(); it != config.controls.end(); ++it)
    if (std::find(config.controls.begin(), it, *it) != it)
      throw UsageError(fmt::format("controls: \"{}\" stands there twice", *it));
  for (const auto& [name, variant] : config.variant) {
    if (name.str() == "evidence" || !variant.is_table())
      throw UsageError(fmt::format("variant.{}: expected a table with a name of its own, found {}",
                                   name.str(), describe(variant)));
    make_member(config, std::string(name.str()));  // refuses what it would refuse as a control
  }
  if (std::find(config.controls.begin(), config.controls.end(), "evidence") !=
      config.controls.end())
    throw UsageError("controls: \"evidence\" runs in any case, leave it out");
  auto members = config.controls;
  members.insert(members.begin(), "evidence");
  for (const auto& name : members) {
    const auto member = make_member(config, name);
    int64_t classes = 0;
    for (const auto& task : config.tasks)
      classes = std::max(classes, task_outputs(task, config.data.set));
    if (sample_kind(config.data.set) != SampleKind::kImage &&
        (member.train.flip_crop || member.augmentation.copies > 0))
      throw UsageError(
          fmt::format("control {}: flips, crops and copies are of images, not of the "
                      "samples of {}",
                      name, config.data.set));
    const auto network = build_network(member.network, network_place(config.network), classes);
    for (const auto& task : config.tasks) expect_input(task, config.data.set, network->input());
    if (network->input() != input_of(config))
      throw UsageError(fmt::format(
          "control {}: network.input: expected [{}] as the run's network has, found [{}]", name,
          fmt::join(input_of(config), ", "), fmt::join(network->input(), ", ")));
    expect_same_pathways(member.network, *network);
    make_priors(*network, member.prior, member.prior_keys, config.data.train);
    const auto epochs = member.train.epochs - member.train.burn_in;
    if (member.prior.update != "none" && member.prior.settle >= epochs)
      throw UsageError(fmt::format(
          "prior.settle: expected less than train.epochs - train.burn_in = {}, found {}: no epoch "
          "would be left to move the prior in; prior.update = \"none\" holds it",
          epochs, member.prior.settle));
  }
  if (config.data.train < 1) return;  // refused with the number there are once the set is loaded
  for (const auto& name : members) {
    const auto member = make_member(config, name);
    for (const auto& task : config.tasks) {
      const auto classes = task_outputs(task, config.data.set);
      const auto likelihood = task_likelihood(task, member.train);
      const auto of_task = build_network(member.network, network_place(config.network), classes);
      if (of_task->outputs() < classes ||
          (likelihood->is_regression() && of_task->outputs() > classes))
        throw UsageError(fmt::format("network: expected an output for each {} of {} ({}), found {}",
                                     likelihood->is_regression() ? "target" : "label", task,
                                     classes, of_task->outputs()));
      of_task->eval();
      const auto trained =
          member.augmentation.copies > 0 ? std::make_shared<AveragedNetwork>(*of_task) : of_task;
      expect_trainable(*trained, *likelihood, member.train, config.data.train);
    }
  }
}

}  // namespace evariste
