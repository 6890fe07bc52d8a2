#include "laplace/posterior.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/nearest.h"

namespace evariste {
namespace {

using Blocks = std::vector<const Block*>;

std::vector<std::string> names_of(const std::vector<Block*>& blocks) {
  std::vector<std::string> names;
  for (const auto* block : blocks) names.push_back(block->name);
  return names;
}

/// The blocks of those names; joint ones ("0.weight+bias") are made here.
Blocks find_blocks(Layer& network, const PosteriorRecord& record, std::string_view source,
                   std::vector<std::shared_ptr<Block>>& owned) {
  const auto all = named_blocks(network);
  const auto find = [&](std::string_view name) -> Block* {
    const auto found =
        std::find_if(all.begin(), all.end(), [&](const Block* b) { return b->name == name; });
    return found == all.end() ? nullptr : *found;
  };
  constexpr std::string_view kJoint = "+bias";
  Blocks blocks;
  for (const auto& block : record.evidence.blocks) {
    const std::string_view name = block.name;
    const bool is_joint = name.ends_with(kJoint);
    auto* found = find(is_joint ? name.substr(0, name.size() - kJoint.size()) : name);
    if (found && is_joint) {
      if (found->bias) owned.push_back(std::make_shared<JointBlock>(*found, *found->bias));
      blocks.push_back(found->bias ? owned.back().get() : nullptr);
    } else {
      blocks.push_back(found);
    }
    if (!blocks.back())
      throw UsageError(
          fmt::format("{}: the posterior of another network: expected a block \"{}\", found {}",
                      source, name, fmt::join(names_of(all), ", ")));
  }
  return blocks;
}

void expect_same_shapes(const PosteriorRecord& record, const Blocks& blocks,
                        std::string_view source) {
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto expected = record.blocks[m].mean.sizes(), found = blocks[m]->value().sizes();
    if (expected != found)
      throw UsageError(
          fmt::format("{}: the posterior of another network: block \"{}\": expected {}, found {}",
                      source, blocks[m]->name, shape_text(expected), shape_text(found)));
    const auto type = dtype_name(blocks[m]->weight().scalar_type());
    if (type != record.dtype)
      throw UsageError(
          fmt::format("{}: expected a network in {}, found {}", source, record.dtype, type));
  }
}

Prior restore_prior(const PosteriorRecord::PriorRecord& record, at::IntArrayRef shape,
                    std::string_view source,
                    const std::map<std::string_view, BuiltinPrior>& known) {
  const auto found = known.find(record.name);
  if (found == known.end()) {
    std::vector<std::string> names;
    for (const auto& [name, prior] : known) names.emplace_back(name);
    throw UsageError(fmt::format("{}: {}", source, unknown_name("prior", record.name, names)));
  }
  toml::table table;
  for (const auto& [key, value] : found->second.keys) {
    const auto constant = record.constants.find(key);
    table.insert(key, constant == record.constants.end() ? value : constant->second);
  }
  const auto prior = found->second.make({table, 1.0, shape});
  torch::NoGradGuard no_grad;
  for (const auto& [name, leaf] : prior.hyperparameters()) {
    const auto stored = std::find_if(record.hyperparameters.begin(), record.hyperparameters.end(),
                                     [&, &n = name](const auto& item) { return item.first == n; });
    if (stored == record.hyperparameters.end() || stored->second.sizes() != leaf.sizes())
      throw IoError(fmt::format(
          "{}: prior {}: expected \"{}\" {}, found {}", source, record.name, name,
          shape_text(leaf.sizes()),
          stored == record.hyperparameters.end() ? "none" : shape_text(stored->second.sizes())));
    leaf.copy_(stored->second);
  }
  return prior;
}

}  // namespace

std::string dtype_name(torch::ScalarType type) {
  return type == torch::kFloat64 ? "float64" : "float32";
}

NamedTensors posterior_samples(const Posterior& posterior, int64_t count, const Stream& stream) {
  torch::NoGradGuard no_grad;
  posterior.set_scale();
  const auto& curvature = *posterior.fit.curvature;
  const auto precisions = precisions_of(posterior.priors, curvature);
  NamedTensors out;
  const auto add = [&](const Block& block) {
    auto shape = block.weight().sizes().vec();
    shape.insert(shape.begin(), count);
    out.emplace_back(block.name, torch::empty(shape, block.weight().options()));
  };
  for (const auto* block : curvature.blocks())
    for (const auto& [part, value] : block->parts(block->value())) add(*part);
  for (int64_t s = 0; s < count; ++s) {
    const auto draw = curvature.sample(precisions, stream.split(static_cast<uint64_t>(s)));
    size_t i = 0;
    for (size_t m = 0; m < draw.size(); ++m)
      for (const auto& [part, shift] : curvature.blocks()[m]->parts(draw[m]))
        out[i++].second[s] = part->weight() + part->from_matrix(shift);
  }
  return out;
}

PosteriorRecord record_of(const Posterior& posterior, const Evidence& evidence) {
  torch::NoGradGuard no_grad;
  const auto& [fit, priors, likelihood, temperature] = posterior;
  const auto& blocks = fit.curvature->blocks();
  PosteriorRecord out;
  out.dtype = dtype_name(blocks.front()->weight().scalar_type());
  out.likelihood = likelihood->name();
  if (const auto* gaussian = dynamic_cast<const Gaussian*>(likelihood.get()))
    out.noise = gaussian->noise();
  out.temperature = temperature;
  out.evidence = evidence;
  out.normaliser = fit.normaliser, out.dropped = fit.dropped, out.columns = fit.columns;
  out.count = fit.count;
  out.curvature = store(*fit.curvature);
  for (size_t m = 0; m < blocks.size(); ++m) {
    out.curvature.trace_ratios[m] = evidence.blocks[m].trace_ratio;
    auto& block = out.blocks.emplace_back();
    block.mean = blocks[m]->value().detach().to(torch::kFloat64).clone();
    size_t first = 0;  // the first block with this prior, whose record it is
    while (!priors[first].is_same(priors[m])) ++first;
    block.prior = first < m ? out.blocks[first].prior : out.priors.size();
    if (first < m) continue;
    auto& prior = out.priors.emplace_back();
    prior.name = priors[m].name();
    prior.constants = priors[m].constants();
    for (const auto& [name, leaf] : priors[m].hyperparameters())
      prior.hyperparameters.emplace_back(name, leaf.detach().clone());
  }
  return out;
}

Posterior restore(const PosteriorRecord& record, Layer& network, std::string_view source,
                  const std::map<std::string_view, BuiltinPrior>& known) {
  std::vector<std::shared_ptr<Block>> owned;
  const auto blocks = find_blocks(network, record, source, owned);
  expect_same_shapes(record, blocks, source);
  Posterior out;
  out.likelihood = make_likelihood(record.likelihood, record.noise);
  out.temperature = record.temperature;
  out.fit.curvature = restore(record.curvature, blocks, source);
  out.fit.curvature->keep(std::move(owned));
  out.fit.count = record.count;
  out.fit.log_likelihood = record.evidence.log_likelihood;
  out.fit.normaliser = record.normaliser;
  out.fit.dropped = record.dropped, out.fit.columns = record.columns;
  std::map<size_t, Prior> priors;  // by their place in the record
  for (size_t m = 0; m < blocks.size(); ++m) {
    const auto place = record.blocks[m].prior;
    if (place >= record.priors.size())
      throw IoError(fmt::format("{}: block \"{}\" has prior {} of {}", source, blocks[m]->name,
                                place, record.priors.size()));
    auto found = priors.find(place);
    if (found == priors.end())
      found = priors
                  .emplace(place, restore_prior(record.priors[place], record.blocks[m].mean.sizes(),
                                                source, known))
                  .first;
    out.priors.push_back(found->second);
    set_value(*blocks[m], record.blocks[m].mean);
  }
  out.set_scale();
  return out;
}

}  // namespace evariste
