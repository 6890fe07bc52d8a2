// What a training run is told. One description serves parsing, help and the record.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace evariste {

struct RefreshConfig {
  int64_t every = 1, samples = 2000, draws = 1, checks_every = 5, check_samples = 500,
          check_draws = 4;
  int64_t final_samples = 0, final_draws = 1;
  std::string structure = "kron", fisher = "sketch", correction = "trace", final_fisher = "exact";

  template <class Visitor>
  void visit(Visitor&& field) {
    field("every", every, "epochs between curvature refreshes");
    field("samples", samples, "training images a refresh looks at, rescaled to all; 0: all");
    field("structure", structure,
          "Kronecker factors, or EKFAC: their bases, every eigenvalue its own", {"kron", "ekfac"});
    field("fisher", fisher, "columns of the output Hessian",
          {"sketch", "exact", "mc", "empirical"});
    field("draws", draws, "columns per image of sketch and mc");
    field("correction", correction, "trace-corrected Kronecker factors or plain",
          {"trace", "none"});
    field("checks_every", checks_every, "refreshes between checks of the evidence");
    field("check_samples", check_samples, "training images the sampling gap looks at; 0: all");
    field("check_draws", check_draws, "posterior draws of the sampling gap in an epoch");
    field("final_fisher", final_fisher, "the same for the evidence of the finished network",
          {"exact", "sketch", "mc", "empirical"});
    field("final_draws", final_draws, "columns per image of it");
    field("final_samples", final_samples, "training images it looks at; 0: all");
  }
};

struct KfacConfig {
  double lr = 0.03, momentum = 0.9, clip = 5e-4, average = 0.5;
  double damping = 100, damping_min = 2, damping_max = 1e4, damping_factor = 0.9;
  int64_t damping_every = 5;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("lr", lr, "step size, cosine to 0 over the K-FAC epochs");
    field("momentum", momentum, "of the preconditioned steps");
    field("clip", clip, "kappa, bound on the predicted change of the mean log-likelihood per step");
    field("average", average, "the last part of an epoch's steps whose weights are averaged");
    field("damping", damping, "epsilon added to the curvature, at the start");
    field("damping_min", damping_min, "least epsilon");
    field("damping_max", damping_max, "greatest epsilon");
    field("damping_factor", damping_factor, "factor of one adaptation of epsilon");
    field("damping_every", damping_every, "steps between adaptations; 0: none");
  }
};

/// Of bandwidths, degrees and augmentation ranges, where the network or the data have such.
struct HyperConfig {
  std::string score = "evidence";
  double lr = 0.05, lr_end = 0.005, penalty = 0, decay = 0;
  double alignment = 0, previous = 0, uniform = 0;
  int64_t steps = 1, samples = 500;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("score", score,
          "what moves bandwidths, degrees and augmentation ranges: the evidence, behind each "
          "refresh; the training loss, before each step of the weights; or nothing",
          {"evidence", "loss", "none"});
    field("lr", lr, "step size of Adam on them, cosine over the epochs");
    field("lr_end", lr_end, "its last value");
    field("steps", steps, "steps up the evidence behind one refresh");
    field("samples", samples, "training images a step up the evidence looks at; 0: all");
    field("penalty", penalty, "score loss: the loss less so many times the norm of the ranges");
    field("decay", decay, "score loss: weight decay of the ranges");
    field("alignment", alignment,
          "score loss: weight of max log lambda - log lambda(identity), summed over the degrees");
    field("previous", previous,
          "score loss: weight of a degree's KL to the one before, mean over the degrees");
    field("uniform", uniform, "score loss: weight of the first degree's KL to the uniform density");
  }
};

/// Standard deviation of what is measured about the network's outputs, of regression.
struct NoiseConfig {
  double start = 0.3;
  bool learn = true;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("start", start, "its first value, in the units of the targets");
    field("learn", learn,
          "the evidence moves it behind each refresh but those of the last prior.settle epochs "
          "(MacKay 1992); where the prior is held (prior.update none), so is it");
  }
};

struct TrainConfig {
  int64_t epochs = 24, batch = 125, burn_in = 2, test_samples = 1000, evaluation_batch = 500;
  double burn_in_lr = 0.02, burn_in_decay = 0.01, lr = 0.05, lr_end = 0;
  std::string optimiser = "kfac";
  bool flip_crop = false;
  std::string keep = "last";
  RefreshConfig refresh;
  KfacConfig kfac;
  HyperConfig hyper;
  NoiseConfig noise;

  template <class Visitor>
  void visit(Visitor&& field) {
    field("epochs", epochs, "passes over the training set, burn-in included");
    field("batch", batch, "images per step");
    field("optimiser", optimiser, "of the weights", {"kfac", "sgd", "adam"});
    field("flip_crop", flip_crop,
          "flip and crop the images of a step at random; the evidence and tests see them as they "
          "are");
    field(
        "keep", keep,
        "what a training ends with: its last weights and priors, or those of the refresh with the "
        "highest evidence if they still have more of it",
        {"last", "best"});
    field("burn_in", burn_in, "epochs of SGD before K-FAC, with little prior");
    field("burn_in_lr", burn_in_lr,
          "step size of the burn-in, cosine; of a regression down half the squared error");
    field("burn_in_decay", burn_in_decay, "part of the prior that acts in the burn-in");
    field("lr", lr, "step size of sgd and adam, cosine; of sgd as that of the burn-in");
    field("lr_end", lr_end, "its last value");
    field("test_samples", test_samples, "test images looked at in each epoch; the end takes all");
    field("evaluation_batch", evaluation_batch, "images per forward pass without steps");
    field("refresh", refresh, "the curvature");
    field("kfac", kfac, "the preconditioned step");
    field("hyper", hyper, "bandwidths, degrees and augmentation ranges");
    field("noise", noise, "of tasks whose targets are numbers");
  }
};

struct PriorUpdateConfig {
  std::string init = "matched", share = "block", update = "profile";
  std::vector<double> penalties = {1e-4, 1e-2};
  double lean = 1, trust = 2, ramp = 0.1, fitted = 0.6;
  int64_t hold = 5, settle = 2;

  template <class Visitor>
  void visit(Visitor&& field) {
    field(
        "init", init,
        "precision at the start: 1/variance of the initialisation (fan-in/2); 1; or that of fixed "
        "penalties on the mean loss, as of residual pathway priors",
        {"matched", "unit", "penalty"});
    field(
        "penalties", penalties,
        "init penalty: c of c |theta|^2 for each pathway of a sum, in order; of others the first");
    field("share", share, "one prior per block, or one for all", {"block", "all"});
    field("update", update,
          "how the evidence moves it: the weights answering, weights fixed, Adam, or not (MAP)",
          {"profile", "newton", "adam", "none"});
    field("lean", lean, "start with this much more variance in the first pathway of each sum");
    field("trust", trust, "largest change of a log precision in one refresh");
    field("ramp", ramp, "part of the prior that acts until the network has begun to fit");
    field("fitted", fitted, "begun to fit: training loss below this part of the label entropy");
    field("settle", settle, "last epochs in which the prior stands still");
    field("hold", hold,
          "the evidence moves it once more than so many K-FAC epochs had the whole prior");
  }
};

/// Throw UsageError naming the first key whose value has no meaning, with the range it has.
void expect_valid(const TrainConfig& config);
void expect_valid(const PriorUpdateConfig& config);

}  // namespace evariste
