"""Laplace evidence by brute force: every deterministic number of `evidence --json`, in float64.

Works from definitions only. One backward pass per sample and output gives the Jacobian row
J[n, c, :] and the gradients g at every layer's output; every structure is one dense matrix H, and
    log q = log p / tau - 1/2 (log|P| - log|P0| + theta' P0 theta),   P = H / tau + P0
is evaluated with dense linear algebra. Kronecker blocks (dense_blocks.py) are written out as
B (x) A at the rows of their tensor, those of ekfac as U diag(s) U^T. Cost N C backward passes and
D^3: a few hundred parameters.

    python tests/oracle/dense_evidence.py --network net.toml --weights w.safetensors \
        --data train.safetensors --test test.safetensors --likelihood classification
"""

import argparse
import json
import math
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

for folder in (Path(__file__).resolve().parents[2] / "python", Path(__file__).resolve().parent):
    sys.path.insert(0, str(folder))
import evariste  # noqa: E402
from dense_blocks import EkfacBlocks, KronBlocks, Refused, Seen, Undefined  # noqa: E402

LOG_PRECISION_RANGE = (-10.0, 20.0)
KRONECKER = {"kron": KronBlocks, "ekfac": EkfacBlocks}  # structures made of Kronecker factors


@dataclass
class Options:
    """The flags of `evidence` that this script knows, with the program's defaults."""

    likelihood: str = "classification"  # regression, bernoulli
    structure: str = "kron"  # ekfac, diag, block, full, lastlayer
    fisher: str = "exact"  # empirical
    sharing: str = "expand"  # reduce
    correction: str = "trace"  # none
    bias: str = "exact"  # expand, joint
    prior: str = "layerwise"  # scalar, diagonal
    prior_precision: tuple = (1.0,)
    fit: str = "none"  # newton: the fixed point, for kron, ekfac and diag
    temperature: float = 1.0
    noise: float = 1.0
    predictive: str = "map"  # probit, bridge
    positions: str = "selected"  # all: of a convolution before a polyphase layer


@dataclass
class Block:
    """Consecutive tensors with one prior precision. `rows` are its places in theta."""

    name: str
    rows: torch.Tensor
    curvature: torch.Tensor | None = None  # [P, P], the structure's H of this block


# ---------------------------------------------------------------- likelihoods

def log_likelihood(options, f, y):
    """[N] nats per sample, and what of it temperature does not divide (regression's normaliser)."""
    if options.likelihood == "classification":
        return F.log_softmax(f, 1).gather(1, y.view(-1, 1))[:, 0], f.new_zeros(len(f))
    if options.likelihood == "bernoulli":
        return -F.binary_cross_entropy_with_logits(f, y, reduction="none").sum(1), \
            f.new_zeros(len(f))
    normaliser = f.new_full((len(f),), -0.5 * f.shape[1] * math.log(2 * math.pi * options.noise**2))
    return -((y - f) ** 2).sum(1) / (2 * options.noise**2) + normaliser, normaliser


def output_gradient(options, f, y):
    """[N, C]: derivative of -log p(y | f) in f."""
    if options.likelihood == "classification":
        return F.softmax(f, 1) - F.one_hot(y, f.shape[1])
    if options.likelihood == "bernoulli":
        return torch.sigmoid(f) - y
    return (f - y) / options.noise**2


def output_curvature(options, f, y):
    """Lambda [N, C, C]: second derivative of -log p in f, or its empirical substitute."""
    if options.fisher == "empirical":
        r = output_gradient(options, f, y)
        return r.unsqueeze(2) * r.unsqueeze(1)
    if options.likelihood == "classification":
        p = F.softmax(f, 1)
        return torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    if options.likelihood == "bernoulli":
        s = torch.sigmoid(f)
        return torch.diag_embed(s * (1 - s))
    return torch.diag_embed(torch.full_like(f, 1 / options.noise**2))


# ---------------------------------------------------------------- evidence

class Case:
    """A network with its data; passes over the data happen once, `evidence` may be called often."""

    def __init__(self, network, weights, data, test=None):
        self.network = evariste.load_network(network).double().eval()
        evariste.load_weights(self.network, weights)
        self.theta = torch.cat([p.detach().flatten() for p in self.network.parameters()])
        self.rows, at = {}, 0
        for name, p in self.network.named_parameters():
            self.rows[name] = torch.arange(at, at + p.numel())
            at += p.numel()
        self.x, self.y = self._read(data)
        self.seen = self._pass(self.x)
        self.test = self._read(test) if test else None
        self.test_seen = self._pass(self.test[0]) if test else None

    def _pass(self, x):
        seen = Seen(self.network, x)
        seen.rows = self.rows
        return seen

    @staticmethod
    def _read(path):
        tensors = load_file(str(path))
        y = tensors["y"]
        return tensors["x"].double(), y.double() if y.is_floating_point() else y.long()

    def blocks(self, options, curvature):
        """The blocks and H, dense over all of theta that the structure covers."""
        J, D = self.seen.J, len(self.theta)
        exact = torch.einsum("ncp,ncd,ndq->pq", J, curvature, J)
        if options.structure in KRONECKER:
            H, found = torch.zeros(D, D, dtype=torch.float64), []
            structure = KRONECKER[options.structure](self.seen, curvature, options)
            for name, tensors, matrix in structure.matrices():
                rows, ratio = torch.cat([self.rows[t] for t in tensors]), None
                if options.structure == "kron":
                    trace, true = matrix.trace(), exact[rows, rows].sum()
                    ratio = (trace / true).item() if true > 0 else 1.0
                    if options.correction == "trace" and ratio > 0:
                        matrix = matrix / ratio
                H[rows.unsqueeze(1), rows] = matrix
                found.append((Block(name, rows, matrix), ratio))
            return found, H
        found = [(Block(name, rows), None) for name, rows in self.rows.items()]
        if options.structure == "full":
            return found, exact
        if options.structure == "diag":
            for block, _ in found:
                block.curvature = torch.diag(exact[block.rows, block.rows])
            return found, torch.diag(exact.diagonal())
        if options.structure == "block":
            H = torch.zeros(D, D, dtype=torch.float64)
            for block, _ in found:
                block.curvature = exact[block.rows][:, block.rows]
                H[block.rows.unsqueeze(1), block.rows] = block.curvature
            return found, H
        if options.structure == "lastlayer":
            last = [(layer.weight, layer.bias) for layer, _, _ in self.seen.layers
                    if isinstance(layer.module, nn.Linear)][-1]
            return [(b, r) for b, r in found if b.name in last], exact
        raise Undefined(f"--structure {options.structure} is not known here")

    def evidence(self, options):
        """The object of `evidence --json`, without the keys that are not deterministic."""
        o = options
        if o.structure in KRONECKER and o.prior == "diagonal":
            raise Refused(f"--prior diagonal with --structure {o.structure} is refused")
        curvature = output_curvature(o, self.seen.f, self.y)
        blocks, H = self.blocks(o, curvature)
        covered = torch.cat([b.rows for b, _ in blocks])
        place = torch.full((len(self.theta),), -1)
        place[covered] = torch.arange(len(covered))
        H = H[covered][:, covered] / o.temperature
        precisions = o.prior_precision if len(o.prior_precision) > 1 \
            else o.prior_precision * len(blocks)
        if len(precisions) != len(blocks):
            raise Refused(f"{len(precisions)} precisions for {len(blocks)} blocks")
        if o.fit == "newton":
            precisions = self._fixed_point(o, [b for b, _ in blocks])
        delta = torch.cat([torch.full((len(b.rows),), d, dtype=torch.float64)
                           for (b, _), d in zip(blocks, precisions)])
        theta = self.theta[covered]
        P_inverse = torch.linalg.inv(H + torch.diag(delta))
        # log|P| - log|P0| = log|I + P0^-1/2 H P0^-1/2|, from the spectrum: no cancellation.
        log_det_ratio = self._log_det(H, delta)
        gain = (H * P_inverse.T).sum(1)  # diagonal of H P^-1; sums to the effective dimension

        per_sample, normaliser = log_likelihood(o, self.seen.f, self.y)
        log_p = per_sample.sum().item()
        scatter = (delta * theta**2).sum().item()
        tempered = ((per_sample - normaliser).sum() / o.temperature + normaliser.sum()).item()
        report = {"n": len(self.x), "log_likelihood": log_p, "log_det_ratio": log_det_ratio,
                  "scatter": scatter, "log_evidence": tempered - 0.5 * (log_det_ratio + scatter)}

        report["blocks"] = []
        for (block, ratio), precision in zip(blocks, precisions):
            at = place[block.rows]
            own = (delta[at] * theta[at] ** 2).sum().item()
            gamma = gain[at].sum().item()
            entry = {"name": block.name, "parameters": len(at), "prior_precision": precision,
                     "log_det_ratio": None, "scatter": own, "effective_dimension": gamma,
                     "evidence_gradient": 0.5 * (gamma - own)}
            if block.curvature is not None:
                entry["log_det_ratio"] = self._log_det(block.curvature / o.temperature, delta[at])
            if ratio is not None:
                entry["trace_ratio"] = ratio
            report["blocks"].append(entry)

        r = output_gradient(o, self.seen.f, self.y)
        gradient = torch.einsum("nc,ncp->p", r, self.seen.J)[covered] / o.temperature
        gradient = gradient + delta * theta
        report["checks"] = {
            "newton_decrement": (0.5 * gradient @ P_inverse @ gradient / len(self.x)).item()}

        if self.test:
            J = self.test_seen.J[:, :, covered]
            V = torch.einsum("ncp,pq,ndq->ncd", J, P_inverse, J)
            report["test"] = test_metrics(o, self.test_seen.f, V, self.test[1])
            report["test_function_variance"] = V.diagonal(dim1=1, dim2=2).tolist()
        return report

    def _fixed_point(self, options, blocks):
        """delta = gamma(delta) / |theta|^2 per block, or for all together under a scalar prior: the
        derivative of -log q in log delta grows with it, so bisection between the clamps will do."""
        if options.structure not in (*KRONECKER, "diag", "block") or options.prior == "diagonal":
            raise Undefined("--fit newton is solved here for separate blocks only")
        spectra = [torch.linalg.eigvalsh((b.curvature + b.curvature.T) / 2).clamp(min=0)
                   / options.temperature for b in blocks]
        squares = [(self.theta[b.rows] ** 2).sum().item() for b in blocks]
        if options.prior == "scalar":
            return (self._fit_one(torch.cat(spectra), sum(squares)),) * len(blocks)
        return tuple(self._fit_one(*pair) for pair in zip(spectra, squares))

    @staticmethod
    def _fit_one(spectrum, square):
        low, high = LOG_PRECISION_RANGE
        for _ in range(120):
            middle = 0.5 * (low + high)
            precision = math.exp(middle)
            rising = precision * square < (spectrum / (spectrum + precision)).sum().item()
            low, high = (middle, high) if rising else (low, middle)
        return math.exp(0.5 * (low + high))

    @staticmethod
    def _log_det(H, delta):
        root = delta.rsqrt()
        scaled = root.unsqueeze(1) * H * root
        return torch.linalg.eigvalsh((scaled + scaled.T) / 2).clamp(min=0).log1p().sum().item()


# ---------------------------------------------------------------- predictive

def bridge(f, V):
    """Laplace bridge after the zero-sum correction: mean of a Dirichlet, [N, C]."""
    C = f.shape[1]
    row, total = V.sum(2), V.sum((1, 2)).unsqueeze(1)
    f = f - row * f.sum(1, keepdim=True) / total
    V = V - row.unsqueeze(2) * row.unsqueeze(1) / total.unsqueeze(2)
    variance = V.diagonal(dim1=1, dim2=2)
    alpha = (1 - 2 / C + f.exp() / C**2 * (-f).exp().sum(1, keepdim=True)) / variance
    return alpha / alpha.sum(1, keepdim=True)


def test_metrics(options, f, V, y):
    """accuracy, nll (mean over samples) and ece, or nll and rmse for regression."""
    if options.likelihood == "regression":
        if options.predictive != "map":
            raise Undefined("regression knows --predictive map here")
        nll = -log_likelihood(options, f, y)[0].mean().item()
        return {"nll": nll, "rmse": (y - f).square().mean().sqrt().item()}
    kappa = 1.0
    if options.predictive == "probit":
        kappa = (1 + math.pi / 8 * V.diagonal(dim1=1, dim2=2)).rsqrt()
    if options.likelihood == "bernoulli":
        if options.predictive == "bridge":
            raise Undefined("bernoulli knows --predictive map and probit")
        s = torch.sigmoid(kappa * f)
        nll = -(y * s.log() + (1 - y) * (1 - s).log()).sum(1).mean().item()
        hit = ((s > 0.5) == (y > 0.5)).double().flatten()  # each output is a decision of its own
        return {"accuracy": hit.mean().item(), "nll": nll,
                "ece": ece(torch.maximum(s, 1 - s).flatten(), hit)}
    p = bridge(f, V) if options.predictive == "bridge" else F.softmax(kappa * f, 1)
    confidence, choice = p.max(1)
    hit = (choice == y).double()
    nll = -p.gather(1, y.view(-1, 1)).log().mean().item()
    return {"accuracy": hit.mean().item(), "nll": nll, "ece": ece(confidence, hit)}


def ece(confidence, hit, bins=15):
    """Mean gap of confidence and accuracy over equal bins (lo, hi], weighted by their counts."""
    total = 0.0
    for b in range(bins):
        inside = (confidence > b / bins) & (confidence <= (b + 1) / bins)
        if inside.any():
            gap = confidence[inside].mean() - hit[inside].mean()
            total += inside.sum().item() * gap.abs().item()
    return total / len(hit)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("network", "weights", "data"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--test")
    parser.add_argument("--likelihood", default="classification",
                        choices=["classification", "regression", "bernoulli"])
    parser.add_argument("--structure", default="kron",
                        choices=[*KRONECKER, "diag", "full", "lastlayer"])
    parser.add_argument("--fisher", default="exact", choices=["exact", "empirical"])
    parser.add_argument("--sharing", default="expand", choices=["expand", "reduce"])
    parser.add_argument("--correction", default="trace", choices=["trace", "none"])
    parser.add_argument("--bias", default="exact", choices=["exact", "expand", "joint"])
    parser.add_argument("--prior", default="layerwise", choices=["layerwise", "scalar", "diagonal"])
    parser.add_argument("--prior-precision", type=float, nargs="+", default=[1.0])
    parser.add_argument("--fit", default="none", choices=["none", "newton"])
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--noise", type=float, default=1.0)
    parser.add_argument("--predictive", default="map", choices=["map", "probit", "bridge"])
    parser.add_argument("--positions", default="selected", choices=["selected", "all"],
                        help="of a convolution before a polyphase layer")
    args = vars(parser.parse_args())
    case = Case(*(args.pop(key) for key in ("network", "weights", "data", "test")))
    args["prior_precision"] = tuple(args["prior_precision"])
    try:
        print(json.dumps(case.evidence(Options(**args)), indent=1))
    except (Refused, Undefined) as why:
        print(why, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
