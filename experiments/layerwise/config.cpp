#include "layerwise/config.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <functional>

#include "core/expect.h"
#include "core/nearest.h"
#include "laplace/priors/builtin.h"
#include "train/trainer.h"

namespace evariste {
namespace {

constexpr int64_t kMostSeeds = 10000;

std::string path_type(const toml::node& path) {
  if (const auto* list = path.as_array(); list && !list->empty()) return path_type((*list)[0]);
  const auto* table = path.as_table();
  return table ? (*table)["type"].value_or(std::string()) : std::string();
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
/// lies within another layer.
void expect_same_pathways(const toml::table& network, Network& built) {
  const auto expected = pathway_types(network);
  const auto* layers = network["layer"].as_array();
  size_t sums = 0;
  for (size_t i = 0; i < layers->size(); ++i) {
    const auto* table = (*layers)[i].as_table();
    if (!table || (*table)["type"].value_or(std::string()) != "sum") continue;
    ++sums;
    std::vector<std::string> found;
    if (const auto* paths = (*table)["of"].as_array())
      for (const auto& path : *paths) found.push_back(path_type(path));
    if (found != expected)
      throw UsageError(
          fmt::format("network: layer[{}]: expected the pathways of the first sum ({}), found {}",
                      i, fmt::join(expected, ", "), fmt::join(found, ", ")));
  }
  if (const auto all = pathway_layers(built).size(); all != sums)
    throw UsageError(fmt::format(
        "network: expected every sum among the layers themselves, found {} within other layers",
        all - sums));
}

/// "experiments/mine.toml: [network]"
std::string network_place(const toml::table& network) {
  const auto& path = network.source().path;
  return path && !path->empty() ? fmt::format("{}: [network]", *path) : "[network]";
}

}  // namespace

std::vector<std::string> control_names() {
  return {"map", "conv", "fc", "unit", "sgd", "map-unit"};
}

std::vector<std::string> pathway_types(const toml::table& network) {
  std::vector<std::string> types;
  if (const auto* layers = network["layer"].as_array())
    for (const auto& layer : *layers) {
      const auto* table = layer.as_table();
      if (!table || (*table)["type"].value_or(std::string()) != "sum") continue;
      if (const auto* paths = (*table)["of"].as_array())
        for (const auto& path : *paths) types.push_back(path_type(path));
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

toml::table keep_pathways(const toml::table& network, std::string_view type) {
  toml::table out = network;
  auto* layers = out["layer"].as_array();
  if (!layers) throw UsageError("network: key \"layer\" is missing");
  int64_t sums = 0;
  for (auto& layer : *layers) {
    auto* table = layer.as_table();
    if (!table || (*table)["type"].value_or(std::string()) != "sum") continue;
    toml::array kept;
    if (const auto* paths = (*table)["of"].as_array())
      for (const auto& path : *paths)
        if (path_type(path) == type) path.visit([&](const auto& p) { kept.push_back(p); });
    if (kept.empty())
      throw UsageError(
          fmt::format("network: control {} needs a pathway of that type in every sum", type));
    table->insert_or_assign("of", std::move(kept));
    ++sums;
  }
  if (sums == 0)
    throw UsageError(
        fmt::format("network: control {} keeps one pathway of every sum, found no sum", type));
  return out;
}

LayerwiseConfig read_layerwise(const toml::table& table) {
  auto config = from_toml<LayerwiseConfig>(table);
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

int64_t task_classes(const std::string& task) { return task == "digit" ? 10 : 40; }

Member make_member(const LayerwiseConfig& config, const std::string& name) {
  Member member;
  member.name = name;
  member.network = config.network;
  member.train = config.train;
  split_prior(config.prior, member.prior, member.prior_keys);
  expect_valid(member.train);
  expect_valid(member.prior);
  if (name == "evidence") return member;
  if (name == "map") {
    member.prior.update = "none";
  } else if (name == "conv" || name == "fc") {
    member.network = keep_pathways(config.network, name);
    member.prior.lean = 1;
  } else if (name == "unit") {
    member.prior.init = "unit";
  } else if (name == "map-unit") {
    member.prior.init = "unit";
    member.prior.update = "none";
  } else if (name == "sgd") {
    member.train.optimiser = "sgd";
  } else {
    throw UsageError("controls: " + unknown_name("control", name, control_names()));
  }
  return member;
}

void expect_valid(const LayerwiseConfig& config) {
  const std::vector<std::string> tasks = {"digit", "quadrant"};
  if (config.tasks.empty()) throw UsageError("tasks: expected digit, quadrant or both, found none");
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
  auto members = config.controls;
  members.insert(members.begin(), "evidence");
  for (const auto& name : members) {
    const auto member = make_member(config, name);
    const auto network =
        build_network(member.network, network_place(config.network), task_classes("quadrant"));
    if (network->input() != std::vector<int64_t>{1, 32, 32})
      throw UsageError(
          fmt::format("network.input: expected [1, 32, 32], the images of the tasks, "
                      "found {}",
                      shape_text(network->input())));
    if (name == "evidence") expect_same_pathways(config.network, *network);
    make_priors(*network, member.prior, member.prior_keys);
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
      const auto classes = task_classes(task);
      const auto of_task = build_network(member.network, network_place(config.network), classes);
      if (of_task->outputs() < classes)
        throw UsageError(
            fmt::format("network: expected an output for each label of {} ({}), found {}", task,
                        classes, of_task->outputs()));
      of_task->eval();
      expect_trainable(*of_task, Softmax(), member.train, config.data.train);
    }
  }
}

}  // namespace evariste
