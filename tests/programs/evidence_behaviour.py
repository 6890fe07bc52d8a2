"""What `evidence` promises beyond its numbers (compare_evidence.py checks these): the keys of its
JSON, independence of chunks and threads, polishing, the saved posterior, the plan.

    python tests/programs/evidence_behaviour.py --evidence build/bin/evidence
"""

import json
import math

import h5py
import numpy as np
import xarray
from safetensors.numpy import load_file, save_file

import evidence_case
from evidence_case import LINEAR, MLP, EvidenceCase


class Evidence(EvidenceCase):
    def test_json_has_the_keys_of_the_contract(self):
        self.convolutional()
        report = self.evidence("--repeat", 3, "--fit", "newton", test=True)
        self.assertEqual(list(report), ["n", "log_likelihood", "log_det_ratio", "scatter",
                                        "log_evidence", "blocks", "checks", "test",
                                        "test_function_variance", "tuning", "seconds",
                                        "peak_rss_bytes", "plan"])
        self.assertEqual(report["tuning"], {"fit": "newton", "objective": "evidence",
                                            "value": report["log_evidence"]})
        self.assertEqual([b["name"] for b in report["blocks"]],
                         ["0.weight", "0.bias", "3.weight", "3.bias"])
        self.assertEqual(list(report["blocks"][0]),
                         ["name", "parameters", "prior_precision", "log_det_ratio", "scatter",
                          "effective_dimension", "evidence_gradient", "trace_ratio"])
        self.assertEqual(list(report["checks"]), ["newton_decrement", "linearised_gap", "believable"])
        self.assertEqual(list(report["test"]), ["accuracy", "nll", "ece"])
        self.assertEqual(list(report["seconds"]), ["fit", "eigen", "prior", "predict"])
        for seconds in report["seconds"].values():
            self.assertEqual(len(seconds), 3)
        self.assertEqual(np.shape(report["test_function_variance"]), (7, 3))
        self.assertEqual(report["n"], 20)

    def test_equivariance_is_measured_layer_by_layer(self):
        self.convolutional()
        report = self.evidence("--equivariance", "D4")["equivariance"]
        self.assertEqual(report["group"], "D4")
        self.assertEqual([(round(e["degrees"]), e["reflects"]) for e in report["elements"]],
                         [(90, False), (180, False), (270, False), (0, True), (90, True),
                          (180, True), (270, True)])
        self.assertEqual([layer["name"] for layer in report["layers"]], ["0", "1", "2", "3"])
        for layer in report["layers"]:
            self.assertEqual(np.shape(layer["error"]), (7,))
            self.assertTrue(all(e > 0 for e in layer["error"]))
            self.assertEqual(layer["floor"], [0] * 7)
        report = self.evidence("--equivariance", "SO(2)", "--rotations", 6)["equivariance"]
        self.assertEqual([round(e["degrees"]) for e in report["elements"]], [60, 120, 180, 240, 300])
        self.assertGreater(report["layers"][0]["floor"][0], 0)
        table = self.start("--equivariance", "C4", json_out=False).stdout
        self.assertIn("Equivariance to C4", table)

    def test_graphs_are_of_cuda(self):
        self.convolutional()
        done = self.start("--graphs", "on")
        self.assertEqual(done.returncode, 2)
        self.assertIn("--graphs on has no meaning without --device cuda", done.stderr)
        for flags, message in ((("--rank-tolerance", 0.1), "use one of the two"),
                               (("--structure", "full"), "not those of full")):
            done = self.start("--graphs", "on", "--device", "cuda", *flags)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)

    def test_equivariance_refuses_what_is_no_group_or_no_image(self):
        self.convolutional()
        for flags, message in ((("--equivariance", "E4"), "group: expected CN"),
                               (("--equivariance", "T"), "acts on space"),
                               (("--equivariance", "C4", "--fit", "newton"), "no evidence"),
                               (("--equivariance", "C4", "--dry-run"), "no evidence"),
                               (("--rotations", 3), "--rotations has no meaning without"),
                               (("--equivariance", "C4", "--rotations", 1), "at least 2, found 1")):
            done = self.start(*flags)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)
        self.regression(LINEAR, [("0.weight", (1, 4)), ("0.bias", (1,))])
        done = self.start("--equivariance", "C4", "--likelihood", "regression")
        self.assertEqual(done.returncode, 2)
        self.assertIn("expected images [N, C, S, S]", done.stderr)

    def invariant_to_quarter_turns(self, n=60):
        """Images of a bright column or a bright row, and a network that cannot tell them apart."""
        network = ('input = [1, 6, 6]\nlayer = [\n'
                   '  { type = "steerable_conv", group = "C4", out = "2 regular", padding = 1 }, { type = "relu" },\n'
                   '  { type = "steerable_conv", out = "4 trivial" }, { type = "tanh" }, { type = "global_avgpool" },\n'
                   '  { type = "linear", out = 2 } ]\n')
        # A field's four kernels are quarter turns of one, and so are those that read a field.
        kernels = self.draw.normal(size=(2, 6, 3, 3))
        turned = [np.stack([np.rot90(k, r, (1, 2)) for r in range(4)], 1) for k in kernels]
        normal = self.draw.normal
        weights = {"0.weight": 0.5 * normal(size=(2, 6)), "0.bias": 0.1 * normal(size=2),
                   "0.basis": turned[0][:, :, None], "2.weight": 0.3 * normal(size=(4, 12)),
                   "2.bias": 0.1 * normal(size=4), "2.basis": turned[1][:, None],
                   "5.weight": normal(size=(2, 4)), "5.bias": np.zeros(2)}
        y = np.arange(n) % 2
        x = 0.1 * normal(size=(n, 1, 6, 6))
        for image, label, place in zip(x[:, 0], y, self.draw.integers(6, size=n)):
            image[(slice(None), place) if label else (place, slice(None))] += 2
        self.write(network, weights, (x, y))

    def test_entry_names_the_layer_and_the_irrep_that_want_to_break_the_symmetry(self):
        self.invariant_to_quarter_turns()
        report = self.evidence("--entry", "on")["entry"]
        self.assertEqual([(e["layer"], e["irrep"], e["kept"]) for e in report],
                         [(layer, irrep, irrep == "(0)") for layer in ("0", "2")
                          for irrep in ("(0)", "(1)", "(2)")])
        found = {(e["layer"], e["irrep"]): e for e in report}
        # Which way a line runs changes its sign with a quarter turn: a function of irrep (2), which the
        # second convolution can make of the orientations that the first has.
        self.assertGreater(found["2", "(2)"]["ratio"], 3)
        self.assertGreater(found["2", "(2)"]["ratio"], 3 * found["2", "(1)"]["ratio"])
        self.assertGreater(found["2", "(2)"]["gain_per_sample"], 0.05)
        table = self.start("--entry", "on", json_out=False).stdout
        self.assertRegex(table, r"2 +\(0\)\* +48 ")
        for flags, message in ((("--entry", "on", "--fit", "newton"), "--entry makes no evidence"),
                               (("--entry", "on", "--structure", "full"), "--structure kron"),
                               (("--entry", "on", "--equivariance", "C4"), "one at a time"),
                               (("--entry", "on", "--only", "0"), "--only"),
                               (("--entry", "on", "--entry-band", 0), "expected 1 to 16, found 0"),
                               (("--entry-band", 3), "has no meaning without")):
            done = self.start(*flags)
            self.assertEqual(done.returncode, 2)
            self.assertIn(message, done.stderr)
        self.convolutional()
        self.assertIn("no layer of net.toml is a steerable convolution",
                      self.start("--entry", "on").stderr)

    def test_what_does_not_exist_is_null(self):
        self.convolutional()
        report = self.evidence("--structure", "full", "--checks", "off")
        self.assertIsNone(report["blocks"][0]["log_det_ratio"])
        self.assertIsNone(report["checks"])
        self.assertIsNone(report["test"])
        self.assertIsNone(self.evidence("--correction", "none", "--checks", "off")
                          ["blocks"][0]["trace_ratio"])

    def test_names_of_blocks_follow_the_options(self):
        self.convolutional()
        for flags, names in ((("--bias", "joint"), ["0.weight+bias", "3.weight+bias"]),
                             (("--structure", "lastlayer"), ["3.weight", "3.bias"]),
                             (("--only", "3.bias", "0"), ["0.weight", "0.bias", "3.bias"])):
            report = self.evidence(*flags)
            self.assertEqual([b["name"] for b in report["blocks"]], names)

    def test_norms_may_have_a_block_of_weight_and_bias(self):
        network = ('input = [4]\nlayer = [ { type = "linear", out = 3 }, { type = "layernorm" } ]\n')
        self.regression(network, [("0.weight", (3, 4)), ("0.bias", (3,)), ("1.weight", (3,)),
                                  ("1.bias", (3,))])
        report = self.evidence("--likelihood", "regression", "--norm", "joint")
        self.assertEqual([b["name"] for b in report["blocks"]],
                         ["0.weight", "0.bias", "1.weight+bias"])

    def test_outputs_are_averaged_over_copies(self):
        self.convolutional()
        train, weights = self.folder / "train.safetensors", self.folder / "w.safetensors"
        plain = self.evidence("--fit", "newton", test=True)
        for name in ("train", "test"):  # copies that are all the same change nothing
            data = load_file(self.folder / f"{name}.safetensors")
            data["x"] = np.ascontiguousarray(np.repeat(data["x"][:, None], 3, axis=1))
            save_file(data, str(self.folder / f"{name}.safetensors"))
        same = self.evidence("--fit", "newton", test=True)
        np.testing.assert_allclose(self.numbers(same), self.numbers(plain), rtol=1e-6, atol=1e-8)
        self.evidence("--save", "p.h5")
        loaded = self.evidence("--load", "p.h5", test=True)
        self.near(loaded["log_evidence"], self.evidence()["log_evidence"], 1e-12)
        # Of other copies: the mean of their outputs.
        data = load_file(train)
        data["x"] += self.draw.normal(size=data["x"].shape)
        save_file(data, str(train))
        kernel, bias, out, shift = (load_file(weights)[k] for k in
                                    ("0.weight", "0.bias", "3.weight", "3.bias"))
        patches = np.lib.stride_tricks.sliding_window_view(data["x"][:, :, 0], (3, 3), (2, 3))
        hidden = np.tanh(np.einsum("nkhwij,cij->nkchw", patches, kernel[:, 0])
                         + bias[:, None, None])
        f = (hidden.reshape(20, 3, -1) @ out.T + shift).mean(1)
        log_p = f - np.log(np.exp(f).sum(1, keepdims=True))
        report = self.evidence("--checks", "off")
        self.near(report["log_likelihood"], log_p[np.arange(20), data["y"]].sum(), 1e-10)
        data = load_file(self.folder / "test.safetensors")  # in one of the files only
        data["x"] = np.ascontiguousarray(data["x"][:, 0])
        save_file(data, str(self.folder / "test.safetensors"))
        refused = self.start(test=True)
        self.assertEqual(refused.returncode, 2)
        self.assertIn("copies", refused.stderr)

    def test_chunks_and_threads_do_not_matter(self):
        self.convolutional()
        flags = ("--fisher", "mc", "--mc-samples", 3, "--predictive", "mc", "--seed", 5)
        for structure in ("kron", "diag", "full"):
            base = self.numbers(self.evidence(*flags, "--structure", structure, test=True))
            other = self.numbers(self.evidence(*flags, "--structure", structure, "--batch", 3,
                                               "--threads", 1, test=True))
            np.testing.assert_allclose(base, other, rtol=1e-9, atol=1e-11)

    def test_the_seed_matters_to_draws_only(self):
        self.convolutional()
        one, two = (self.evidence("--fisher", "mc", "--seed", s) for s in (1, 2))
        self.assertNotEqual(one["log_det_ratio"], two["log_det_ratio"])
        self.assertEqual(one["log_likelihood"], two["log_likelihood"])

    def test_many_draws_find_the_exact_fisher(self):
        self.convolutional()
        exact = self.evidence("--structure", "diag", "--checks", "off")
        drawn = self.evidence("--structure", "diag", "--checks", "off", "--fisher", "mc",
                              "--mc-samples", 3000)
        # 3000 labels per sample: a relative error of about 1/sqrt(3000 * 20) per curvature entry.
        self.near(drawn["log_det_ratio"], exact["log_det_ratio"], 0.01)

    def test_float32_is_near_float64(self):
        self.convolutional()
        single = self.numbers(self.evidence("--dtype", "float32", test=True))
        double = self.numbers(self.evidence(test=True))
        np.testing.assert_allclose(single, double, rtol=2e-4, atol=2e-5)

    def test_one_step_polishes_a_linear_model_to_its_closed_form(self):
        x, y = self.regression(LINEAR, [("0.weight", (1, 4)), ("0.bias", (1,))])
        sigma, delta = 0.4, 1.7
        report = self.evidence("--likelihood", "regression", "--structure", "full", "--noise", sigma,
                               "--prior-precision", delta, "--polish", 1)
        features = np.c_[x, np.ones(len(x))]
        covariance = sigma**2 * np.eye(len(x)) + features @ features.T / delta
        exact = -0.5 * (y[:, 0] @ np.linalg.solve(covariance, y[:, 0]) +
                        np.linalg.slogdet(covariance)[1] + len(x) * math.log(2 * math.pi))
        self.near(report["log_evidence"], exact, 1e-11)
        self.assertLess(report["checks"]["newton_decrement"], 1e-20)

    def test_polishing_approaches_a_mode(self):
        shapes = [("0.weight", (6, 4)), ("0.bias", (6,)), ("2.weight", (2, 6)), ("2.bias", (2,))]
        self.regression(MLP, shapes)
        flags = ("--likelihood", "regression", "--noise", 0.3)
        for extra in ((), ("--bias", "joint"), ("--temperature", 0.5)):
            start = self.evidence(*flags, *extra)
            end = self.evidence(*flags, *extra, "--polish", 150)
            self.assertGreater(start["checks"]["newton_decrement"], 1e-2)
            # Block-wise factors converge linearly, not quadratically.
            self.assertLess(end["checks"]["newton_decrement"],
                            1e-3 * start["checks"]["newton_decrement"])
            self.assertGreater(end["log_evidence"], start["log_evidence"])

    def test_adam_and_newton_agree(self):
        self.convolutional()
        newton = self.evidence("--fit", "newton")
        adam = self.evidence("--fit", "adam", "--prior-steps", 2000)
        self.near(adam["log_evidence"], newton["log_evidence"], 1e-6)

    def test_noise_is_fitted_to_the_evidence(self):
        x, _ = self.regression(LINEAR, [("0.weight", (1, 4)), ("0.bias", (1,))])
        report = self.evidence("--likelihood", "regression", "--fit-noise", "on", "--fit", "newton")
        gamma = sum(b["effective_dimension"] for b in report["blocks"])
        sigma = report["noise"]
        # log-likelihood = -S/(2 sigma^2) - N log sigma - N/2 log 2 pi, and S = sigma^2 (N - gamma)
        n = len(x)
        expected = -0.5 * (n - gamma) - n * math.log(sigma) - 0.5 * n * math.log(2 * math.pi)
        self.near(report["log_likelihood"], expected, 1e-9)

    def test_the_saved_posterior_has_the_whole_evidence(self):
        self.convolutional()
        for structure, prior in (("kron", "layerwise"), ("ekfac", "layerwise"), ("diag", "diagonal"),
                                 ("block", "layerwise"), ("full", "layerwise"), ("lowrank", "layerwise")):
            report = self.evidence("--structure", structure, "--prior", prior, "--fit", "newton",
                                   "--temperature", 0.7, "--save", "p.h5", "--force")
            with h5py.File(self.folder / "p.h5") as file:
                self.assertEqual(file.attrs["format"], "evariste-posterior")
                self.assertEqual(file.attrs["version"], 2)
                self.near(self.log_det_ratio(file, structure), report["log_det_ratio"], 1e-9)
                for name in ("0.weight", "3.bias"):
                    self.assertEqual(file[f"weights/{name}/mean"].ndim, 3)
            with xarray.open_dataset(self.folder / "p.h5", group="blocks",
                                     engine="h5netcdf") as blocks:
                self.assertEqual(list(blocks.block.values), [b["name"] for b in report["blocks"]])
                precision = blocks.prior_precision.values
                np.testing.assert_allclose(precision,
                                           [b["prior_precision"] for b in report["blocks"]])

    @staticmethod
    def log_det_ratio(file, structure):
        """log|P| - log|P0| from what the file holds."""
        scale, total = file.attrs["scale"], 0.0
        if structure in ("full", "lowrank"):
            blocks = file["blocks"]
            delta = np.repeat(blocks["prior_precision"][:], blocks["parameters"][:])
            if structure == "full":
                hessian = scale * file["curvature/hessian"][:]
            else:
                basis = file["curvature/basis"][:]
                hessian = scale * (basis * file["curvature/values"][:]) @ basis.T
            return np.linalg.slogdet(hessian + np.diag(delta))[1] - np.log(delta).sum()
        for name, mean_precision in zip(file["blocks/block"].asstr()[:],
                                        file["blocks/prior_precision"][:]):
            part = file[f"curvature/{name}"]
            if structure == "block":
                hessian = scale * part["hessian"][:] / mean_precision
                total += np.linalg.slogdet(hessian + np.eye(len(hessian)))[1]
            elif structure == "diag":
                delta = file[f"weights/{name}/prior_precision"][:]
                total += np.log1p(scale * part["diagonal"][:] / delta).sum()
            else:
                a, b = part["a_values"][:], part["b_values"][:]
                spectrum = part["correction"][()] * b[:, :, None] * a[:, None, :]
                if structure == "ekfac":
                    spectrum = part["spectrum"][:]
                total += np.log1p(scale * spectrum / mean_precision).sum()
                assert part["a_basis"].shape == (len(a), file[f"weights/{name}/mean"].shape[2],
                                                 a.shape[1])
        return total

    def test_low_rank_grows_into_the_full_curvature(self):
        self.convolutional()
        full = self.evidence("--structure", "full", test=True)
        whole = self.evidence("--structure", "lowrank", "--rank", "500", "--save", "low.h5", test=True)
        self.assertAlmostEqual(whole["log_evidence"], full["log_evidence"], delta=1e-6)
        np.testing.assert_allclose(whole["test_function_variance"], full["test_function_variance"],
                                   rtol=1e-5)
        few = self.evidence("--structure", "lowrank", "--rank", "4")
        self.assertGreater(few["log_evidence"], full["log_evidence"])
        self.assertTrue(math.isfinite(few["checks"]["newton_decrement"]))
        with h5py.File(self.folder / "low.h5") as file:
            basis = file["curvature/basis"][()]
            np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-8)

    def test_flags_win_over_a_config(self):
        self.convolutional()
        (self.folder / "c.toml").write_text('structure = "diag"\ntemperature = 0.5\n',
                                            encoding="utf-8")
        from_file = self.evidence("--config", "c.toml", "--temperature", 0.8)
        flags = self.evidence("--structure", "diag", "--temperature", 0.8)
        self.assertEqual(from_file["log_evidence"], flags["log_evidence"])

    def test_a_dry_run_prints_what_repeats_it_and_stops(self):
        self.convolutional()
        done = self.start("--dry-run", "--structure", "diag", "--save", "p.h5", json_out=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        (self.folder / "c.toml").write_text(done.stdout, encoding="utf-8")
        again = self.start("--dry-run", "--config", "c.toml", json_out=False)
        self.assertEqual(again.returncode, 0, again.stderr)
        self.assertEqual(done.stdout.split("#")[0], again.stdout.split("#")[0])
        self.assertFalse((self.folder / "p.h5").exists())
        plan = json.loads(self.start("--dry-run").stdout)
        self.assertGreater(plan["plan"]["peak_bytes"], 0)
        self.assertEqual(plan["config"]["structure"], "kron")
        self.assertEqual(set(plan["plan"]["stages"]), {"pass", "curvature", "eigen"})

    def test_what_needs_more_than_the_budget_is_refused_with_a_way_out(self):
        self.convolutional()
        done = self.start("--structure", "full", "--budget", 1e-6)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, "full curvature needs about .* GB, 1e-06 GB may be used")
        done = self.start("--structure", "full", "--budget", 0.0005)
        self.assertRegex(done.stderr, "structure [a-z]+ fits")

    def test_the_plan_foresees_the_memory(self):
        if evidence_case.SANITIZED:
            self.skipTest("sanitizers take memory of their own")
        self.convolutional(n=3000)
        for structure in ("kron", "ekfac", "diag", "block", "full"):
            report = self.evidence("--structure", structure, "--batch", 1500, test=True)
            ratio = report["plan"]["peak_bytes"] / report["peak_rss_bytes"]
            self.assertGreater(ratio, 0.8, structure)
            self.assertLess(ratio, 2.0, structure)

    def test_the_peak_is_that_of_the_program_and_not_of_what_started_it(self):
        if evidence_case.SANITIZED:
            self.skipTest("sanitizers take memory of their own")
        self.convolutional()
        before = self.evidence()["peak_rss_bytes"]
        ballast = b"x" * (before + 2**28)
        self.assertLess(self.evidence()["peak_rss_bytes"], len(ballast))

    def test_the_table_is_for_reading(self):
        self.convolutional()
        done = self.start("--fit", "newton", test=True, json_out=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("0.weight", "log evidence", "believable", "accuracy", "seconds"):
            self.assertIn(word, done.stdout)


if __name__ == "__main__":
    evidence_case.main(__doc__.split("\n")[0])
