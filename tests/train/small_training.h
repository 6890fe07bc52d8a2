// A training small enough to repeat many times in a second: 60 images in three classes, a sum of
// two pathways and a linear layer, float64 unless told.
#pragma once

#include <sstream>

#include "tests/nn/layer_examples.h"
#include "train/trainer.h"

namespace evariste {

struct SmallTraining {
  TrainConfig train;
  PriorUpdateConfig prior;
  toml::table prior_keys = toml::parse("type = 'isotropic-gaussian'");

  SmallTraining();
  /// A fresh network from the same streams each time, and its trainer.
  std::unique_ptr<Trainer> make(const Processes* processes = nullptr);
  std::shared_ptr<Likelihood> likelihood = std::make_shared<Softmax>();
  std::string layers =
      "{ type = 'sum', of = [{ type = 'conv', out = 2, kernel = 3, stride = 2, padding = 1 }, "
      "{ type = 'fc', out = 2, stride = 2 }] }, { type = 'relu' }, { type = 'flatten' }, "
      "{ type = 'linear', out = 3 }";
  torch::ScalarType type = torch::kFloat64;
  torch::Device device = torch::kCPU;
  std::optional<AugmentationOptions> augmentation;
  /// The data that make() gives: handles, so that writing to x reaches the trainers made before.
  Samples data, test;
  std::string log_text() const { return log_stream_.str(); }

 private:
  std::ostringstream log_stream_;
  Log log_;
};

/// Images [n, 1, 6, 6] of three classes, each a pattern of its own plus noise.
Samples pattern_images(int64_t n, uint64_t seed);

/// Every number of a record, -1e300 where there is none.
std::vector<double> numbers_of(const EpochRecord& record);

/// log precision of each block's prior.
std::vector<double> log_precisions(const Trainer& trainer);

}  // namespace evariste
