#include "layerwise/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/expect.h"
#include "core/nearest.h"
#include "laplace/priors/builtin.h"
#include "train/trainer.h"

namespace evariste {
namespace {

std::string path_type(const toml::node& path) {
  if (const auto* list = path.as_array(); list && !list->empty()) return path_type((*list)[0]);
  const auto* table = path.as_table();
  return table ? (*table)["type"].value_or(std::string()) : std::string();
}

/// Splits [prior] into what the training reads and the keys of the prior's own type.
void split_prior(const toml::table& prior, PriorUpdateConfig& config, toml::table& own) {
  const toml::table known = to_toml(PriorUpdateConfig());
  toml::table shared;
  for (const auto& [key, value] : prior) {
    auto& target = known.contains(key.str()) ? shared : own;
    value.visit([&](const auto& v) { target.insert_or_assign(key.str(), v); });
  }
  config = from_toml<PriorUpdateConfig>(shared, "prior");
  if (const auto found = builtin_priors().find(config.type); found != builtin_priors().end()) {
    auto keys = found->second.keys;
    for (const auto& [key, value] : known) keys.emplace_back(key.str());
    expect_known_keys(own, keys, "prior");
  }
  own.insert_or_assign("type", config.type);
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

toml::table keep_pathways(const toml::table& network, std::string_view type) {
  toml::table out = network;
  auto* layers = out["layer"].as_array();
  if (!layers) throw UsageError("network: key \"layer\" is missing");
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
  }
  return out;
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
  expect_at_least("control_seeds", config.control_seeds, 0);
  auto members = config.controls;
  members.insert(members.begin(), "evidence");
  for (const auto& name : members) {
    const auto member = make_member(config, name);
    const auto network = build_network(member.network, "[network]", task_classes("quadrant"));
    if (network->input() != std::vector<int64_t>{1, 32, 32})
      throw UsageError(
          fmt::format("network.input: expected [1, 32, 32], the images of the tasks, "
                      "found {}",
                      shape_text(network->input())));
    make_priors(*network, member.prior, member.prior_keys);
  }
  if (config.data.train < 1) return;  // refused with the number there are once the set is loaded
  for (const auto& name : members) {
    const auto member = make_member(config, name);
    for (const auto& task : config.tasks) {
      const auto classes = task_classes(task);
      const auto of_task = build_network(member.network, "[network]", classes);
      if (of_task->outputs() < classes)
        throw UsageError(
            fmt::format("network: expected an output for each label of {} ({}), found {}", task,
                        classes, of_task->outputs()));
      of_task->eval();
      expect_trainable(*of_task, member.train, config.data.train);
    }
  }
}

}  // namespace evariste
