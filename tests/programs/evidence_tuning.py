"""`evidence --fit`: what grids and held-out data say is what single runs say.

    python tests/programs/evidence_tuning.py --evidence build/bin/evidence
"""

import numpy as np
from safetensors.numpy import load_file, save_file

import evidence_case
from evidence_case import LINEAR, EvidenceCase

GRID = ("--fit", "grid", "--grid-low", 0.01, "--grid-high", 100, "--grid-points", 5)
HELD_OUT = ("--fit-on", "validation", "--validation", "test.safetensors")


class Tuning(EvidenceCase):
    def refused(self, words, *flags):
        done = self.start(*flags)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)

    def linear(self):
        self.regression(LINEAR, [("0.weight", (1, 4)), ("0.bias", (1,))])
        data = load_file(self.folder / "train.safetensors")
        save_file({"x": data["x"][:9] + 0.5, "y": data["y"][:9] - 0.3},
                  str(self.folder / "test.safetensors"))

    def test_a_grid_over_the_evidence_is_many_runs_in_one(self):
        self.convolutional()
        for flags in ((), ("--structure", "full"), ("--structure", "diag", "--prior", "diagonal"),
                      ("--prior", "scalar", "--temperature", 0.5)):
            report = self.evidence(*GRID, *flags)
            tuning = report["tuning"]
            self.assertEqual((tuning["fit"], tuning["objective"]), ("grid", "evidence"))
            np.testing.assert_allclose([p["prior_precision"] for p in tuning["path"]],
                                       np.geomspace(0.01, 100, 5))
            single = [self.evidence("--prior-precision", p["prior_precision"], *flags)["log_evidence"]
                      for p in tuning["path"]]
            np.testing.assert_allclose([p["value"] for p in tuning["path"]], single, rtol=1e-12)
            self.assertEqual(tuning["best"], int(np.argmax(single)))
            self.near(tuning["value"], max(single), 1e-12)
            self.near(report["log_evidence"], max(single), 1e-12)
            self.assertEqual(tuning["at_edge"], tuning["best"] in (0, 4))

    def test_a_grid_over_held_out_data_is_many_runs_in_one(self):
        self.convolutional()
        for predictive in ("probit", "mc", "bridge"):
            flags = ("--predictive", predictive, "--checks", "off")
            report = self.evidence(*GRID, *HELD_OUT, *flags, test=predictive != "mc")
            tuning = report["tuning"]
            self.assertEqual(tuning["objective"], "validation")
            if predictive == "mc":  # draws of its own stream
                continue
            single = [self.evidence("--prior-precision", p["prior_precision"], *flags,
                                    test=True)["test"]["nll"] for p in tuning["path"]]
            np.testing.assert_allclose([p["value"] for p in tuning["path"]], single, rtol=1e-11)
            self.assertEqual(tuning["best"], int(np.argmin(single)))
            self.near(report["test"]["nll"], min(single), 1e-11)

    def test_a_grid_takes_the_best_noise_at_each_precision(self):
        self.linear()
        flags = ("--likelihood", "regression", "--checks", "off")
        report = self.evidence(*GRID, *flags, "--fit-noise", "on")
        for point in report["tuning"]["path"]:
            single = self.evidence(*flags, "--prior-precision", point["prior_precision"],
                                   "--fit-noise", "on")
            self.near(single["log_evidence"], point["value"], 1e-11)
            self.near(single["noise"], point["noise"], 1e-9)
        best = report["tuning"]["path"][report["tuning"]["best"]]
        self.near(report["noise"], best["noise"], 1e-14)

    def test_descent_on_held_out_data(self):
        self.convolutional()
        for predictive in ("probit", "mc", "bridge"):
            flags = ("--predictive", predictive, "--checks", "off")
            report = self.evidence("--fit", "adam", "--prior-steps", 40, *HELD_OUT, *flags, test=True)
            tuning = report["tuning"]
            values = [p["value"] for p in tuning["path"]]
            self.assertEqual(len(values), 41)
            self.assertEqual(tuning["path"][0]["prior_precision"], [1, 1, 1, 1])
            self.assertLess(tuning["value"], values[0])
            self.assertEqual(tuning["value"], min(values))
            precisions = tuning["path"][tuning["best"]]["prior_precision"]
            np.testing.assert_allclose([b["prior_precision"] for b in report["blocks"]], precisions)
            if predictive != "mc":
                self.near(report["test"]["nll"], tuning["value"], 1e-11)

    def test_descent_moves_noise_and_temperature_where_asked(self):
        self.linear()
        flags = ("--likelihood", "regression", "--predictive", "probit", "--fit", "adam", *HELD_OUT)
        held = self.evidence(*flags, test=True)
        self.assertNotIn("noise", held)
        moved = self.evidence(*flags, "--fit-noise", "on", "--fit-temperature", "on", "--save", "p.h5",
                              test=True)
        self.assertLess(moved["tuning"]["value"], held["tuning"]["value"])
        self.near(moved["test"]["nll"], moved["tuning"]["value"], 1e-11)
        best = moved["tuning"]["path"][moved["tuning"]["best"]]
        self.near(moved["noise"], best["noise"], 1e-14)
        self.assertEqual(moved["temperature"], best["temperature"])
        self.assertNotEqual(moved["temperature"], 1)
        loaded = self.evidence("--load", "p.h5", "--predictive", "probit", test=True)
        self.assertEqual(loaded["log_evidence"], moved["log_evidence"])
        self.assertEqual(loaded["test"], moved["test"])

    def test_a_loaded_posterior_is_tuned_alike(self):
        self.convolutional()
        self.evidence("--save", "p.h5")
        for flags in (GRID, (*GRID, *HELD_OUT, "--predictive", "bridge"),
                      ("--fit", "adam", "--prior-steps", 5, *HELD_OUT, "--predictive", "probit")):
            anew = self.evidence("--threads", 1, *flags)
            loaded = self.evidence("--threads", 1, "--load", "p.h5", *flags)
            self.assertEqual(loaded["tuning"], anew["tuning"])

    def test_what_is_not_defined_is_refused(self):
        self.convolutional()
        for flags, words in (
                (("--fit", "newton", *HELD_OUT), ("newton", "evidence", "adam")),
                (HELD_OUT, ("--fit-on validation", "adam or grid")),
                (("--fit", "adam", "--fit-on", "validation", "--predictive", "mc"), ("--validation",)),
                (("--fit", "adam", *HELD_OUT), ("map", "probit, mc or bridge")),
                (("--fit", "adam", *HELD_OUT, "--predictive", "probit", "--structure", "diag",
                  "--prior", "diagonal"), ("diagonal", "layerwise")),
                (("--fit", "adam", "--validation", "test.safetensors"), ("--fit-on validation",)),
                (("--fit-temperature", "on"), ("--fit-temperature", "--fit-on validation")),
                ((*GRID, *HELD_OUT, "--predictive", "mc", "--fit-temperature", "on"),
                 ("--fit-temperature", "--fit adam")),
                (("--grid-points", 7), ("--grid-points", "--fit grid")),
                ((*GRID, "--grid-points", 1), ("--grid-points", "at least 2")),
                ((*GRID, "--grid-high", 1e-3), ("low < high",)),
                ((*GRID, "--grid-low", 1e-9), ("4.54e-05",)),
                ((*GRID, "--prior-precision", 3), ("--prior-precision", "--grid-low")),
                ((*GRID, "--fit-noise", "on"), ("--fit-noise", "regression")),
                (("--fit", "adam", "--fit-noise", "on", "--likelihood", "regression"),
                 ("--fit-noise", "adam"))):
            self.refused(words, *flags)
        x = load_file(self.folder / "test.safetensors")["x"]
        save_file({"x": x[:, :, :3], "y": np.zeros(7, np.int64)},
                  str(self.folder / "v.safetensors"))
        self.refused(("v.safetensors", "[N, 1, 6, 6]"), "--fit", "grid", "--fit-on", "validation",
                     "--validation", "v.safetensors", "--predictive", "probit")

    def test_numbers_that_overflow_are_named(self):
        self.linear()
        data = load_file(self.folder / "test.safetensors")
        save_file({"x": data["x"] * 1e180, "y": data["y"]}, str(self.folder / "test.safetensors"))
        done = self.start("--likelihood", "regression", "--predictive", "probit", *GRID, *HELD_OUT)
        self.assertEqual(done.returncode, 3, done.stderr)
        self.assertIn("prior precision 0.01 of 0.weight", done.stderr)

    def test_the_table_says_what_was_looked_at(self):
        self.convolutional()
        done = self.start(*GRID, *HELD_OUT, "--predictive", "probit", json_out=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"validation nll [0-9.]+, the best of 5")


if __name__ == "__main__":
    evidence_case.main(__doc__.split("\n")[0])
