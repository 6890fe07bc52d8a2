"""tests/oracle/dense_evidence.py against closed forms and golden values: an oracle needs one too.
Run: python tests/python/test_oracle.py"""

import functools
import json
import math
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "oracle"))
import dense_evidence as dense  # noqa: E402
import golden  # noqa: E402
from dense_evidence import Case, Options, evariste  # noqa: E402
from golden import ramp  # noqa: E402
from make_cases import make_cases  # noqa: E402


class Oracle(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        torch.manual_seed(0)

    def case(self, module, x, y):
        """A Case from a module with its data, through files as the program reads them."""
        module = module.double()
        evariste.save_network(module, tuple(x.shape[1:]), self.folder / "net.toml")
        evariste.save_weights(module, self.folder / "w.safetensors")
        save_file({"x": x, "y": y}, str(self.folder / "d.safetensors"))
        return Case(self.folder / "net.toml", self.folder / "w.safetensors",
                    self.folder / "d.safetensors", self.folder / "d.safetensors")

    def near(self, value, expected, tolerance=1e-12):
        self.assertLessEqual(abs(value - expected), tolerance * max(1.0, abs(expected)))

    def linear(self):
        layer = nn.Linear(3, 3).double()
        with torch.no_grad():
            layer.weight.copy_(ramp((3, 3), 0.5))
            layer.bias.copy_(ramp(3, 0.9))
        return self.case(nn.Sequential(layer), ramp((4, 3), 0.1), torch.tensor([0, 2, 1, 1]))

    def every_case(self):
        """(Case, Options with flags given) of the networks that the program is compared on."""
        for folder in make_cases(self.folder):
            given = json.loads((folder / "case.json").read_text())
            case = Case(folder / "network.toml", folder / "weights.safetensors",
                        folder / "train.safetensors")
            missing = {"grouped": "expand", "factored": "joint"}.get(folder.name.split("-")[0])
            for bias in ("exact", "expand", "joint"):
                if bias != missing:
                    yield case, functools.partial(Options, **given, bias=bias)
            yield case, functools.partial(Options, **given, positions="all")

    def test_linear_layer_has_the_golden_evidence(self):
        case = self.linear()
        base = {"prior_precision": (0.5, 2.0), "correction": "none"}
        kron = case.evidence(Options(**base))
        self.near(kron["log_evidence"], -11.588480311137921)
        self.near(kron["log_likelihood"], -6.625864583825023)
        self.near(kron["blocks"][0]["effective_dimension"], 1.902215439918334)
        self.near(kron["blocks"][0]["evidence_gradient"], -0.17079217960997)
        self.near(kron["blocks"][1]["evidence_gradient"], -1.90970081645617)
        full = case.evidence(Options(**base, structure="full"))
        self.near(full["log_evidence"], -11.488984790330235)
        self.assertIsNone(full["blocks"][0]["log_det_ratio"])
        last = case.evidence(Options(**base, structure="lastlayer"))
        self.near(last["log_evidence"], -11.488984790330235)
        fit = case.evidence(Options(**base, fit="newton"))
        self.near(fit["blocks"][0]["prior_precision"], 0.4468429721870971)
        self.near(fit["blocks"][1]["prior_precision"], 0.5238377565954442)

    def test_convolution_has_the_golden_log_determinants(self):
        for mode, expand, reduce in (("circular", -63.933668989702355, -64.9029960792091),
                                     ("zeros", -64.39830158494463, None)):
            conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode=mode).double()
            head = nn.Linear(3, 3, bias=False).double()
            with torch.no_grad():
                conv.weight.copy_(ramp((3, 2, 3, 3), 0.5))
                conv.bias.copy_(ramp(3, 0.9))
                head.weight.copy_(ramp((3, 3), 0.2))
            module = nn.Sequential(conv, nn.Tanh(), evariste.GlobalAvgPool(), head)
            case = self.case(module, ramp((2, 2, 4, 4), 0.1), torch.tensor([0, 1]))
            base = {"prior_precision": (0.3,), "correction": "none"}
            shift = 54 * math.log(0.3)  # golden: log|P|, here its ratio to the prior's
            kron = case.evidence(Options(**base, bias="expand"))["blocks"]
            self.near(kron[0]["log_det_ratio"] + shift, expand)
            if reduce is None:
                continue
            self.near(case.evidence(Options(**base, sharing="reduce"))["blocks"][0]["log_det_ratio"]
                      + shift, reduce)
            self.near(kron[1]["trace_ratio"], 0.039288489238821694 / 0.24582576065200376)
            curvature = dense.output_curvature(Options(), case.seen.f, case.y)
            exact = torch.einsum("ncp,ncd,ndq->pq", *(case.seen.J[:, :, :54], curvature,
                                                      case.seen.J[:, :, :54]))
            self.near(Case._log_det(exact, torch.full((54,), 0.3)) + shift, -64.30404087040719)
            corrected = case.evidence(Options(prior_precision=(1e9,)))["blocks"][0]
            self.near(corrected["log_det_ratio"] * 1e9, exact.trace().item(), 1e-6)

    def test_factored_layer_has_the_golden_log_determinants(self):
        layer = evariste.FactoredFC((2, 2, 2), 3)
        layer.out_shape = (3, 2, 1)  # two output positions, as in the golden example
        layer.U, layer.bias_U = (nn.Parameter(ramp((3, 8), 0.3)), nn.Parameter(ramp(3, 1.1)))
        layer.V, layer.bias_V = (nn.Parameter(ramp((2, 6), 0.6)), nn.Parameter(ramp(2, 1.7)))
        head = nn.Linear(6, 3, bias=False).double()
        with torch.no_grad():
            head.weight.copy_(ramp((3, 6), 0.2))
        network = evariste.Network([layer, nn.Flatten(), head], (2, 2, 2))
        seen = dense.Seen(network, ramp((3, 2, 2, 2), 0.1))
        curvature = dense.output_curvature(Options(), seen.f, torch.zeros(3))
        blocks = {name: matrix for name, _, matrix
                  in dense.KronBlocks(seen, curvature, Options()).matrices()}
        self.near(Case._log_det(blocks["0.U"], torch.full((24,), 0.7)) + 24 * math.log(0.7),
                  -4.540601005103792)
        self.near(Case._log_det(blocks["0.V"], torch.full((12,), 1.3)) + 12 * math.log(1.3),
                  10.918035010758942)
        self.near(torch.linalg.eigvalsh(blocks["0.bias_U"])[2].item(), 4.98199222950943)
        expand = {name: matrix for name, _, matrix
                  in dense.KronBlocks(seen, curvature, Options(bias="expand")).matrices()}
        self.near(torch.linalg.eigvalsh(expand["0.bias_V"])[1].item(), 3.85456533296762)

    def test_evidence_of_linear_regression_is_the_closed_form(self):
        n, noise, delta = 6, 0.3, 1.7
        X = torch.randn(n, 3, dtype=torch.float64)
        y = torch.randn(n, 1, dtype=torch.float64)
        mode = torch.linalg.solve(X.T @ X + noise**2 * delta * torch.eye(3), X.T @ y)
        layer = nn.Linear(3, 1, bias=False).double()
        layer.weight.data.copy_(mode.T)
        case = self.case(nn.Sequential(layer), X, y)
        covariance = noise**2 * torch.eye(n) + X @ X.T / delta
        exact = -0.5 * (y.T @ torch.linalg.solve(covariance, y) + torch.logdet(covariance)
                        + n * math.log(2 * math.pi)).item()
        for structure in ("full", "kron", "ekfac", "lastlayer"):
            report = case.evidence(Options("regression", structure, noise=noise,
                                           prior_precision=(delta,)))
            self.near(report["log_evidence"], exact, 1e-10)
            self.near(report["checks"]["newton_decrement"], 0.0)
            posterior = torch.linalg.inv(X.T @ X / noise**2 + delta * torch.eye(3))
            self.near(report["test_function_variance"][2][0],
                      (X[2] @ posterior @ X[2]).item(), 1e-10)

    def test_decrement_is_the_distance_to_the_mode_of_a_quadratic(self):
        X, y = torch.randn(5, 2, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
        layer = nn.Linear(2, 1, bias=False).double()
        case = self.case(nn.Sequential(layer), X, y)
        tau, noise, delta = 1.6, 0.4, 0.9

        def loss(w):
            return (((y - X @ w.T) ** 2).sum() / (2 * noise**2 * tau)
                    + 0.5 * delta * (w**2).sum()).item()

        mode = torch.linalg.solve(X.T @ X / (noise**2 * tau) + delta * torch.eye(2),
                                  X.T @ y / (noise**2 * tau)).T
        report = case.evidence(Options("regression", "full", noise=noise, temperature=tau,
                                       prior_precision=(delta,)))
        self.near(report["checks"]["newton_decrement"],
                  (loss(layer.weight.detach()) - loss(mode)) / 5)

    def test_one_sample_makes_factors_exact_and_joint_equal_to_the_dense_block(self):
        module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))
        case = self.case(module, torch.randn(1, 3, dtype=torch.float64), torch.tensor([1]))
        curvature = dense.output_curvature(Options(), case.seen.f, case.y)
        H = torch.einsum("ncp,ncd,ndq->pq", case.seen.J, curvature, case.seen.J)
        for structure in ("kron", "ekfac"):
            _, own = case.blocks(Options(structure=structure, bias="joint", correction="none"),
                                 curvature)
            torch.testing.assert_close(own[:16, :16], H[:16, :16])
            torch.testing.assert_close(own[16:, 16:], H[16:, 16:])
            self.assertEqual(own[:16, 16:].abs().max().item(), 0.0)

    def test_ekfac_of_a_linear_layer_is_the_sum_over_samples_and_columns(self):
        case, delta, tau = self.linear(), 0.5, 0.7
        X, p = case.x, torch.softmax(case.seen.f, 1)
        columns = [golden.root_of_softmax(p[n]) for n in range(4)]
        B = sum(S @ S.T for S in columns)
        U_B, U_A = (torch.linalg.eigh(M).eigenvectors for M in (B, X.T @ X / 4))
        s = sum((U_B.T @ torch.outer(S[:, k], X[n]) @ U_A) ** 2
                for n, S in enumerate(columns) for k in range(3))
        block, bias = case.evidence(Options(structure="ekfac", temperature=tau,
                                            prior_precision=(delta, 2.0)))["blocks"]
        self.near(block["log_det_ratio"], (s / tau / delta).log1p().sum().item())
        self.near(block["effective_dimension"], (s / (s + tau * delta)).sum().item())
        self.near(bias["log_det_ratio"],  # the exact block
                  (torch.linalg.eigvalsh(B) / tau / 2.0).clamp(min=0).log1p().sum().item())

    def test_ekfac_is_exact_where_samples_are_orthogonal_and_kron_is_not(self):
        turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q.contiguous()
        lengths = torch.tensor([0.5, 1.0, 2.0, 3.0], dtype=torch.float64)
        layer = nn.Linear(4, 1, bias=False).double()
        case = self.case(nn.Sequential(layer), lengths.unsqueeze(1) * turn,
                         torch.ones(4, 1, dtype=torch.float64))
        p = torch.sigmoid(lengths * (turn @ layer.weight.detach()[0]))
        exact = (p * (1 - p) * lengths**2 / 0.3).log1p().sum().item()

        def log_det(structure):
            return case.evidence(Options("bernoulli", structure,
                                         prior_precision=(0.3,)))["log_det_ratio"]
        self.near(log_det("full"), exact)
        self.near(log_det("ekfac"), exact)
        self.assertGreater(abs(log_det("kron") - exact), 1e-3)

    def test_ekfac_and_kron_are_the_exact_block_of_a_linear_layer_with_gaussian_noise(self):
        case = self.case(nn.Sequential(nn.Linear(4, 3)), torch.randn(6, 4, dtype=torch.float64),
                         torch.randn(6, 3, dtype=torch.float64))
        for bias in ("exact", "expand", "joint"):
            blocks = {}
            for structure in ("kron", "ekfac"):
                o = Options("regression", structure, noise=0.6, bias=bias, correction="none")
                curvature = dense.output_curvature(o, case.seen.f, case.y)
                blocks[structure], _ = case.blocks(o, curvature)
            exact = torch.einsum("ncp,ncd,ndq->pq", case.seen.J, curvature, case.seen.J)
            for (kron, _), (ekfac, ratio) in zip(*blocks.values(), strict=True):
                torch.testing.assert_close(ekfac.curvature, kron.curvature)
                torch.testing.assert_close(ekfac.curvature, exact[kron.rows][:, kron.rows])
                self.assertIsNone(ratio)

    def test_ekfac_has_the_exact_trace_is_closer_than_kron_and_bounds_the_log_determinant(self):
        for case, options in self.every_case():
            curvature = dense.output_curvature(options(), case.seen.f, case.y)
            exact = torch.einsum("ncp,ncd,ndq->pq", case.seen.J, curvature, case.seen.J)
            ekfac = case.blocks(options(structure="ekfac"), curvature)[0]
            gain = 1.0
            for correction in ("none", "trace"):
                kron = case.blocks(options(structure="kron", correction=correction), curvature)[0]
                for (own, _), (other, _) in zip(ekfac, kron, strict=True):
                    self.assertEqual(own.name, other.name)
                    true = exact[own.rows][:, own.rows]
                    self.near(own.curvature.trace().item(), true.trace().item())
                    distance = (own.curvature - true).norm().item()
                    apart = (other.curvature - true).norm().item()
                    self.assertLessEqual(distance, apart + 1e-12 * true.norm().item())
                    if apart > 1e-9 * true.norm().item():
                        gain = min(gain, distance / apart)
                    ones = torch.ones(len(true), dtype=torch.float64)
                    bound = Case._log_det(own.curvature, ones)
                    self.assertGreaterEqual(bound * (1 + 1e-12), Case._log_det(true, ones))
            self.assertLess(gain, 0.99)  # the bounds are not those of equals

    def test_ekfac_of_every_case_is_unique(self):
        """Noise in the factors turns a basis at random within an eigenspace; H must not follow."""
        eigh = torch.linalg.eigh

        def shaken(matrix):
            noise = torch.randn_like(matrix)
            return eigh(matrix + 1e-13 * torch.linalg.matrix_norm(matrix, 2) * (noise + noise.T))

        for case, options in self.every_case():
            curvature = dense.output_curvature(options(), case.seen.f, case.y)
            _, H = case.blocks(options(structure="ekfac"), curvature)
            with mock.patch("torch.linalg.eigh", shaken):
                _, again = case.blocks(options(structure="ekfac"), curvature)
            self.assertGreater((again - H).norm().item(), 0.0)
            self.assertLess((again - H).norm().item(), 1e-10 * H.norm().item())

    def test_ekfac_refuses_what_it_has_no_definition_for(self):
        case = self.linear()
        for wrong in ({"sharing": "reduce"}, {"prior": "diagonal"}):
            with self.assertRaises(dense.Refused):
                case.evidence(Options(structure="ekfac", **wrong))

    def test_gradient_is_the_slope_of_the_evidence_in_log_precision(self):
        case, step = self.linear(), 1e-5
        for structure in ("kron", "ekfac", "diag", "full"):
            def at(shift, structure=structure):
                return case.evidence(Options(structure=structure, temperature=0.7, prior_precision=(
                    0.5 * math.exp(shift), 2.0)))
            slope = (at(step)["log_evidence"] - at(-step)["log_evidence"]) / (2 * step)
            self.near(at(0.0)["blocks"][0]["evidence_gradient"], slope, 1e-8)

    def test_bridge_mean_is_that_of_the_zero_sum_gaussian(self):
        f, V = torch.tensor([[0.7, -0.2]]), torch.tensor([[[0.5, 0.1], [0.1, 0.3]]])
        p = dense.bridge(f, V)
        self.near(p.sum().item(), 1.0)
        row, total = V[0].sum(1), V.sum()
        corrected = f[0] - row * f.sum() / total
        variance = (V[0] - torch.outer(row, row) / total).diagonal()
        self.near(corrected.sum().item(), 0.0)
        alpha = (corrected.exp() / 4 * (-corrected).exp().sum()) / variance
        torch.testing.assert_close(p[0], alpha / alpha.sum())

    def test_every_golden_value_agrees(self):
        self.assertEqual(golden.main(), 0)


if __name__ == "__main__":
    unittest.main(buffer=True)
