#include "train/config.h"

#include "core/expect.h"

namespace evariste {

void expect_valid(const TrainConfig& t) {
  expect_at_least("train.epochs", t.epochs, 1);
  expect_at_least("train.batch", t.batch, 1);
  if (t.burn_in < 0 || t.burn_in > t.epochs)
    throw UsageError(fmt::format("train.burn_in: expected 0 ... train.epochs = {}, found {}",
                                 t.epochs, t.burn_in));
  expect_at_least("train.test_samples", t.test_samples, 1);
  expect_at_least("train.evaluation_batch", t.evaluation_batch, 1);
  expect_positive("train.burn_in_lr", t.burn_in_lr);
  expect_not_negative("train.burn_in_decay", t.burn_in_decay);
  expect_positive("train.lr", t.lr);
  expect_not_negative("train.lr_end", t.lr_end);

  const auto& r = t.refresh;
  expect_at_least("train.refresh.every", r.every, 1);
  expect_at_least("train.refresh.samples", r.samples, 0);
  expect_at_least("train.refresh.draws", r.draws, 1);
  expect_at_least("train.refresh.checks_every", r.checks_every, 1);
  expect_at_least("train.refresh.check_samples", r.check_samples, 0);
  expect_at_least("train.refresh.check_draws", r.check_draws, 1);
  expect_at_least("train.refresh.final_samples", r.final_samples, 0);
  expect_at_least("train.refresh.final_draws", r.final_draws, 1);

  const auto& h = t.hyper;
  expect_positive("train.hyper.lr", h.lr);
  expect_not_negative("train.hyper.lr_end", h.lr_end);
  expect_not_negative("train.hyper.penalty", h.penalty);
  expect_not_negative("train.hyper.decay", h.decay);
  expect_not_negative("train.hyper.alignment", h.alignment);
  expect_not_negative("train.hyper.previous", h.previous);
  expect_not_negative("train.hyper.uniform", h.uniform);
  expect_at_least("train.hyper.steps", h.steps, 1);
  expect_at_least("train.hyper.samples", h.samples, 0);

  expect_positive("train.noise.start", t.noise.start);

  const auto& k = t.kfac;
  expect_positive("train.kfac.lr", k.lr);
  expect(k.momentum >= 0 && k.momentum < 1, "train.kfac.momentum", "0 or more and below 1",
         k.momentum);
  expect_positive("train.kfac.clip", k.clip);
  expect(k.average >= 0 && k.average <= 1, "train.kfac.average", "a part of 1", k.average);
  expect_not_negative("train.kfac.damping_min", k.damping_min);
  expect(k.damping_max >= k.damping_min, "train.kfac.damping_max", "damping_min or more",
         k.damping_max);
  expect_not_negative("train.kfac.damping", k.damping);
  expect(k.damping_factor > 0 && k.damping_factor <= 1, "train.kfac.damping_factor",
         "above 0 and at most 1", k.damping_factor);
  expect_at_least("train.kfac.damping_every", k.damping_every, 0);
}

void expect_valid(const PriorUpdateConfig& p) {
  if (p.penalties.empty())
    throw UsageError("prior.penalties: expected one number or more, found none");
  for (const double c : p.penalties) expect_positive("prior.penalties", c);
  expect_positive("prior.lean", p.lean);
  expect_positive("prior.trust", p.trust);
  expect(p.ramp > 0 && p.ramp <= 1, "prior.ramp", "above 0 and at most 1", p.ramp);
  expect_positive("prior.fitted", p.fitted);
  expect_at_least("prior.hold", p.hold, 0);
  expect_at_least("prior.settle", p.settle, 0);
}

}  // namespace evariste
