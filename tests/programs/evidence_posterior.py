"""The posterior of `evidence` as a file: saved, loaded on another day, sampled, and refused where it
does not fit.

    python tests/programs/evidence_posterior.py --evidence build/bin/evidence
"""

import json

import h5py
import numpy as np
import xarray
from safetensors.numpy import load_file, save_file

import evidence_case
from evidence_case import CONVOLUTIONAL, EvidenceCase

STRUCTURES = ("kron", "ekfac", "diag", "block", "full", "lastlayer", "lowrank")


class Posterior(EvidenceCase):
    def problem(self, likelihood, n=20):
        """Of the network of `convolutional`, with labels of a likelihood."""
        self.convolutional(n)
        if likelihood == "classification":
            return
        for name in ("train", "test"):
            x = load_file(self.folder / f"{name}.safetensors")["x"]
            y = self.draw.normal(size=(len(x), 3))
            save_file({"x": x, "y": y if likelihood == "regression" else (y > 0).astype(float)},
                      str(self.folder / f"{name}.safetensors"))

    @staticmethod
    def content(report):
        """All that a loaded posterior has to give again, to the bit."""
        return {key: value for key, value in report.items()
                if key not in ("seconds", "peak_rss_bytes", "plan", "tuning")}

    def refused(self, code, words, *flags, test=False):
        done = self.start(*flags, test=test)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertEqual(done.stdout, "")

    def test_a_loaded_posterior_gives_every_number_of_the_run_that_saved_it(self):
        for likelihood in ("classification", "regression", "bernoulli"):
            self.problem(likelihood)
            predictive = "probit" if likelihood == "regression" else "mc"
            for structure in STRUCTURES:
                prior = "diagonal" if structure in ("diag", "full") else "layerwise"
                saved = self.evidence("--threads", 1, "--likelihood", likelihood, "--structure",
                                      structure, "--prior", prior, "--fit", "newton",
                                      "--temperature", 0.7, "--predictive", predictive, "--seed", 5,
                                      "--save", "p.h5", "--force", test=True)
                loaded = self.evidence("--threads", 1, "--load", "p.h5", "--predictive", predictive,
                                       test=True)
                self.assertEqual(self.content(loaded), self.content(saved), (likelihood, structure))

    def test_options_of_the_fit_come_along(self):
        self.problem("regression", 80)
        for flags in (("--bias", "joint"), ("--correction", "none"), ("--only", "3", "0.bias"),
                      ("--fisher", "mc", "--mc-samples", 3), ("--prior", "scalar"),
                      ("--fit-noise", "on", "--fit", "newton"), ("--polish", 3),
                      ("--dtype", "float32"), ("--structure", "lowrank", "--rank", 5)):
            saved = self.evidence("--threads", 1, "--likelihood", "regression", "--noise", 0.3,
                                  *flags, "--predictive", "probit", "--save", "p.h5", "--force",
                                  test=True)
            saved.pop("noise", None)
            loaded = self.evidence("--threads", 1, "--load", "p.h5", "--predictive", "probit",
                                   test=True)
            self.assertEqual(self.content(loaded), self.content(saved), flags)
        self.evidence("--load", "p.h5", "--likelihood", "regression", "--noise", 0.3, "--dtype",
                      "float64")
        for flag, value, found in (("--likelihood", "bernoulli", "regression"),
                                   ("--structure", "kron", "lowrank"), ("--noise", 0.31, "0.3"),
                                   ("--fisher", "mc", "exact"), ("--sharing", "reduce", "expand"),
                                   ("--correction", "none", "trace"), ("--bias", "joint", "exact"),
                                   ("--temperature", 2, "1"), ("--dtype", "float32", "float64"),
                                   ("--prior", "scalar", "layerwise"), ("--rank", 6, "5"),
                                   ("--only", "0", "p.h5")):
            self.refused(2, (flag, str(value), "was made with", found), "--load", "p.h5", flag,
                         value)

    def test_the_prior_is_fitted_anew_without_data(self):
        self.problem("regression", 80)
        flags = ("--likelihood", "regression", "--threads", 1)
        self.evidence(*flags, "--save", "p.h5")
        for fit in (("--fit", "newton"), ("--fit", "adam", "--prior-steps", 30), ("--fit", "grid"),
                    ("--fit", "newton", "--fit-noise", "on"), ("--prior-precision", 3.5)):
            anew = self.evidence(*flags, *fit, "--checks", "off", test=True)
            loaded = self.evidence("--load", "p.h5", "--threads", 1, *fit, test=True)
            self.assertEqual(self.content(loaded), self.content(anew), fit)
        # What is saved after --load is a posterior like any other.
        fitted = self.evidence("--load", "p.h5", "--threads", 1, "--fit", "newton", "--save", "q.h5",
                               test=True)
        again = self.evidence("--load", "q.h5", "--threads", 1, test=True)
        self.assertEqual(self.content(again), self.content(fitted))
        self.evidence("--load", "q.h5", "--save", "q.h5", "--force")

    def test_samples_have_the_moments_of_the_posterior(self):
        self.problem("regression")
        count = 4000
        self.evidence("--likelihood", "regression", "--structure", "full", "--noise", 0.5, "--save",
                      "p.h5")
        flags = ("--load", "p.h5", "--predictive", "probit", "--seed", 3)
        report = self.evidence(*flags, "--samples", count, "--samples-out", "s.safetensors",
                               "--predictive-out", "f.safetensors", test=True)
        draws = load_file(self.folder / "s.safetensors")
        weights = load_file(self.folder / "w.safetensors")
        self.assertEqual(list(sorted(draws)), list(sorted(weights)))
        for name, values in draws.items():
            self.assertEqual(values.shape, (count, *weights[name].shape))
        flat = np.concatenate([draws[n].reshape(count, -1)
                               for n in ("0.weight", "0.bias", "3.weight", "3.bias")], axis=1)
        mean = np.concatenate([weights[n].ravel()
                               for n in ("0.weight", "0.bias", "3.weight", "3.bias")])
        with h5py.File(self.folder / "p.h5") as file:
            hessian = file.attrs["scale"] * file["curvature/hessian"][:]
            covariance = np.linalg.inv(hessian + np.eye(len(hessian)))
        error = np.cov(flat.T) - covariance
        variance = np.diag(covariance)
        deviation = np.sqrt((covariance**2 + np.outer(variance, variance)) / count)
        self.assertLess(np.max(np.abs(error) / deviation), 6)
        self.assertLess(np.max(np.abs(flat.mean(0) - mean) / np.sqrt(variance / count)), 5)
        outputs = load_file(self.folder / "f.safetensors")
        self.assertEqual(list(outputs), ["outputs"])
        self.assertEqual(outputs["outputs"].shape, (count, 7, 3))
        np.testing.assert_allclose(outputs["outputs"].var(0), report["test_function_variance"],
                                   rtol=0.15)
        # The first draws do not depend on how many there are.
        self.evidence(*flags, "--samples", 2, "--samples-out", "few.safetensors")
        np.testing.assert_array_equal(load_file(self.folder / "few.safetensors")["0.weight"],
                                      draws["0.weight"][:2])

    def test_predictive_samples_average_to_the_prediction(self):
        self.convolutional()
        report = self.evidence("--predictive", "mc", "--draws", 50, "--samples", 50, "--predictive-out",
                               "f.safetensors", test=True)
        p = load_file(self.folder / "f.safetensors")["probabilities"].mean(0)
        y = load_file(self.folder / "test.safetensors")["y"]
        self.near(-np.log(p[np.arange(len(y)), y]).mean(), report["test"]["nll"], 1e-12)

    def test_python_reads_the_file(self):
        self.convolutional()
        report = self.evidence("--structure", "diag", "--prior", "diagonal", "--fit", "newton",
                               "--save", "p.h5")
        with xarray.open_dataset(self.folder / "p.h5", group="blocks", engine="h5netcdf") as blocks:
            self.assertEqual(list(blocks.prior_index.values), [0, 1, 2, 3])
            np.testing.assert_array_equal(blocks.trace_ratio, 1)
        with xarray.open_dataset(self.folder / "p.h5", group="weights/3.weight",
                                 engine="h5netcdf") as weight:
            self.assertEqual(dict(weight.sizes), {"group": 1, "output": 3, "input": 48})
            precision = weight.prior_precision.values
        self.near(precision.mean(), report["blocks"][2]["prior_precision"], 1e-12)
        with h5py.File(self.folder / "p.h5") as file:
            np.testing.assert_allclose(np.exp(file["priors/2/log_precision"][:]), precision)
            self.assertEqual(file.attrs["structure"], "diag")
            self.assertEqual(file.attrs["fisher"], "exact")
            self.assertEqual(file.attrs["network"], CONVOLUTIONAL)

    def test_a_posterior_that_does_not_fit_is_refused(self):
        self.convolutional()
        self.evidence("--save", "p.h5")
        good = (self.folder / "p.h5").read_bytes()
        load = ("--load", "p.h5")

        def write(content):
            (self.folder / "p.h5").write_bytes(content)

        for damage in (b"", good[:50], good[:len(good) // 2], good[:-8000], b"x" * 5000):
            write(damage)
            self.refused(4, ("p.h5", "damaged or no posterior"), *load)
        write(good)
        with h5py.File(self.folder / "p.h5", "r+") as file:
            file["weights/3.bias/mean"][0, 0, 0] += 1e-3
        self.refused(4, ("p.h5", "checksum"), *load)
        for version, advice in ((3, "newer evariste"), (1, "save it again")):
            write(good)
            with h5py.File(self.folder / "p.h5", "r+") as file:
                file.attrs["version"] = version
            self.refused(2, ("p.h5", f"version {version}", "expected 2", advice), *load)
        write(good)
        with h5py.File(self.folder / "p.h5", "r+") as file:
            file.attrs["format"] = "evariste-run"
        self.refused(2, ("p.h5", "no posterior", "evariste-posterior"), *load)
        write(good)
        self.refused(2, ("none.h5", "no such file"), "--load", "none.h5")

        # Another network, by name, by shape, by layers without weights; other weights.
        weights = load_file(self.folder / "w.safetensors")
        network = self.folder / "net.toml"
        wide = {**weights, "3.weight": np.zeros((4, 48)), "3.bias": np.zeros(4)}
        save_file(wide, str(self.folder / "w.safetensors"))
        network.write_text(CONVOLUTIONAL.replace('"linear", out = 3', '"linear", out = 4'))
        self.refused(2, ("p.h5", "3.weight", "[1, 3, 48]", "[1, 4, 48]"), *load)
        network.write_text(CONVOLUTIONAL.replace('  { type = "tanh" },\n', ""))
        save_file({k.replace("3.", "2."): v for k, v in weights.items()},
                  str(self.folder / "w.safetensors"))
        self.refused(2, ("p.h5", 'expected a block "3.weight"', "2.weight"), *load)
        save_file(weights, str(self.folder / "w.safetensors"))
        network.write_text(CONVOLUTIONAL.replace("tanh", "relu"))
        self.refused(2, ("p.h5", "another network", "net.toml"), *load)
        network.write_text("# the same\n" + CONVOLUTIONAL)
        self.evidence(*load)
        save_file({**weights, "0.bias": weights["0.bias"] + 1e-9},
                  str(self.folder / "w.safetensors"))
        self.refused(2, ("p.h5", "other weights", "w.safetensors"), *load)

    def test_what_needs_data_is_refused(self):
        self.convolutional()
        self.evidence("--save", "p.h5", "--fisher", "empirical")
        for flags in (("--data", "train.safetensors"), ("--polish", 2), ("--repeat", 2),
                      ("--budget", 1), ("--checks", "on")):
            self.refused(2, (flags[0], "--load"), "--load", "p.h5", *flags)
        self.evidence("--load", "p.h5", "--checks", "off")
        self.problem("regression")
        self.evidence("--save", "p.h5", "--force", "--fisher", "empirical", "--likelihood",
                      "regression")
        self.refused(2, ("--fit-noise", "empirical"), "--load", "p.h5", "--fit-noise", "on")
        for flags in (("--samples", 3), ("--samples-out", "s"), ("--predictive-out", "s"),
                      ("--samples", 3, "--predictive-out", "s"), ("--samples", -1)):
            self.refused(2, (flags[0] if len(flags) < 4 else "--test",), "--load", "p.h5", *flags)

    def test_a_dry_run_says_what_loading_needs(self):
        self.convolutional()
        self.evidence("--save", "p.h5", "--temperature", 0.5)
        done = self.start("--load", "p.h5", "--dry-run", json_out=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        (self.folder / "c.toml").write_text(done.stdout, encoding="utf-8")
        plan = json.loads(self.start("--dry-run", "--load", "p.h5").stdout)
        self.assertEqual(plan["config"]["temperature"], 0.5)
        self.assertEqual(list(plan["plan"]["stages"]), ["curvature"])
        repeated = self.evidence("--config", "c.toml", "--load", "p.h5")
        self.assertEqual(self.content(repeated), self.content(self.evidence("--load", "p.h5")))


if __name__ == "__main__":
    evidence_case.main(__doc__.split("\n")[0])
