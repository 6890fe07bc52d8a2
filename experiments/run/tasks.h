// Tasks: what is made of a data set before training.
#pragma once

#include <filesystem>

#include "data/dataset.h"
#include "experiments/run/config.h"
#include "laplace/likelihood.h"

namespace evariste {

/// "digit", "quadrant", "upright", "rotated", "half-rotated", "turned", "turn", "translated",
/// "scaled", "mirrored", "pairs-C4" and of the other groups of pairs, "angle", "norm", "cosine",
/// "norm-cosine".
std::vector<std::string> task_names();
/// "digit-MNIST", or "rotated fashion-mnist".
std::string task_title(const std::string& task, const std::string& set);
/// Labels of a task, or numbers of its targets: outputs of a network for it.
int64_t task_outputs(const std::string& task, const std::string& set);
/// Whether targets are numbers: the likelihood is Gaussian, otherwise softmax.
bool is_regression(const std::string& task);
/// With train.noise.start where it has a noise.
std::shared_ptr<Likelihood> task_likelihood(const std::string& task, const TrainConfig& train);

/// The whole raw sets that the tasks are made from, loaded once.
struct RawImages {
  Dataset train, test;
};
/// Throws UsageError where data.train or data.test is more than there is.
RawImages load_images(const RunConfig& config, const std::filesystem::path& root);

/// Throws UsageError where no image of the task can be the input of a network.
void expect_input(const std::string& task, const std::string& set,
                  const std::vector<int64_t>& input);

/// x [N, C, S, S] float32, or volumes [N, C, S, S, S], for networks whose input is `input`; throws
/// UsageError where that cannot be.
Dataset task_images(const RunConfig& config, const std::string& task, const Dataset& raw,
                    const std::vector<int64_t>& input);

/// Those of a task in the type of the networks, as train.safetensors and test.safetensors of x and
/// y in `folder`.
void write_images(const RunConfig& config, const std::string& task, const RawImages& images,
                  const std::filesystem::path& folder);
/// What the configuration's network takes.
std::vector<int64_t> input_of(const RunConfig& config);

}  // namespace evariste
