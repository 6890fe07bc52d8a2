// What a training starts from: its priors; and what it refuses to start with.
#include <algorithm>
#include <map>

#include "core/error.h"
#include "laplace/priors/builtin.h"
#include "train/trainer.h"

namespace evariste {

void expect_trainable(Network& network, const Likelihood& likelihood, const TrainConfig& config,
                      int64_t images) {
  if (config.batch > images)
    throw UsageError(fmt::format("train.batch: expected 1 ... {} (the training images), found {}",
                                 images, config.batch));
  for (const auto& item : network.named_modules())
    if (const auto* layer = dynamic_cast<const Layer*>(item.value().get());
        layer && !layer->varies_in_training().empty())
      throw UsageError(fmt::format(
          "layer {}: {} cannot be trained here: evidence needs a network that treats each sample "
          "alone and the same way twice; use layernorm or groupnorm, or no dropout",
          item.key(), layer->varies_in_training()));
  if (config.optimiser != "kfac") return;
  torch::NoGradGuard no_grad;
  const auto& refresh = config.refresh;
  const bool part = refresh.samples > 0 && refresh.samples < images;
  const auto rows = part ? refresh.samples : images;
  named_blocks(network);  // names them, for the message
  // One image of zeros tells how many positions each block sees.
  Tape tape;
  const auto f = network.forward(network.zeros(1), &tape);
  const auto columns = refresh.fisher == "exact"       ? likelihood.hessian_root(f).size(0)
                       : refresh.fisher == "empirical" ? 1
                                                       : refresh.draws;
  network.backward(
      torch::zeros_like(f).unsqueeze(0), tape,
      [&](const Block& block, const Tensor& x, const Tensor& g) {
        const auto [outputs, inputs] = std::pair(block.value().size(1), block.value().size(2));
        // A polyphase layer behind keeps one of s^2 positions; a bias sums over all of them.
        const auto kept = block.phase_stride * block.phase_stride;
        const auto in = std::max<int64_t>(1, block.phi(x).size(2) / kept);
        const auto positions = block.to_positions(g.flatten(0, 1)).size(2) / kept;
        const auto out = columns * (block.is_constant() ? 1 : std::max<int64_t>(1, positions));
        const auto needed = std::max((inputs + in - 1) / in, (outputs + out - 1) / out);
        if (rows < needed && outputs * inputs > 1)
          throw UsageError(fmt::format(
              "{}: expected at least {}, found {}: the factors of {} ({} inputs, {} outputs) need "
              "as many for K-FAC steps; or use train.optimiser sgd",
              part ? "train.refresh.samples" : "training images", needed, rows, block.name, inputs,
              outputs));
      },
      false);
}

void expect_shareable(const TrainConfig& config, int64_t train_images, int64_t test_images,
                      int64_t processes) {
  const auto& r = config.refresh;
  const std::pair<const char*, int64_t> shared[] = {
      {"train.batch", config.batch},
      {"train.refresh.samples", r.samples},
      {"train.refresh.check_samples", r.check_samples},
      {"train.refresh.final_samples", r.final_samples},
      {"train.hyper.samples", config.hyper.samples},
      {"train.test_samples", config.test_samples},
      {"training images", train_images},
      {"test images", test_images}};
  for (const auto& [what, count] : shared)
    if (count > 0 && count < processes)  // 0: all
      throw UsageError(fmt::format("{}: expected at least one for each of {} processes, found {}",
                                   what, processes, count));
}

namespace {

/// Precision of each block whose prior is c |theta|^2 added to the mean loss (Finzi et al. 2021).
std::vector<double> penalty_precisions(Network& network, const std::vector<double>& penalties,
                                       int64_t images) {
  std::map<const Block*, double> of_pathway;
  for (const auto& layer : pathway_layers(network))
    for (size_t p = 0; p < layer.paths.size(); ++p) {
      const auto& [sum, k] = layer.paths[p].choices.back();
      sum->paths()[k]->visit_blocks(
          [&](Block& block) { of_pathway[&block] = penalties[std::min(p, penalties.size() - 1)]; });
    }
  std::vector<double> out;
  for (const auto* block : named_blocks(network)) {
    const auto found = of_pathway.find(block->one_copy() ? block->one_copy() : block);
    const double penalty = found == of_pathway.end() ? penalties[0] : found->second;
    out.push_back(2 * penalty * static_cast<double>(images));
  }
  return out;
}

}  // namespace

Priors make_priors(Network& network, const PriorUpdateConfig& config, const toml::table& table,
                   int64_t images) {
  expect_valid(config);
  const auto blocks = named_blocks(network);
  const auto start = config.init == "unit" ? std::vector<double>(blocks.size(), 1.0)
                     : config.init == "penalty"
                         ? penalty_precisions(network, config.penalties, images)
                         : matched_precisions(network, config.lean);
  Priors priors;
  for (size_t m = 0; m < blocks.size(); ++m) {
    if (config.share == "all" && m > 0) {
      priors.push_back(priors[0]);
      continue;
    }
    const auto value = seen_by_prior(*blocks[m]);
    priors.push_back(make_prior({table, start[m], value.sizes().vec()}));
    if (const auto count = priors.back().precision(value).numel(); count != 1)
      throw UsageError(fmt::format(
          "prior {}: expected one precision per block, found {} for {}: training draws its steps "
          "from Kronecker factors, which take one",
          priors.back().name(), count, blocks[m]->name));
  }
  return priors;
}

}  // namespace evariste
