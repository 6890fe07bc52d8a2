"""Runs `evidence --json` and dense_evidence.py on the tiny cases of make_cases.py, over structures
and options, and compares every number of the second with the first to 1e-8 relative.

    python tests/oracle/compare_evidence.py --evidence build/bin/evidence [--cases cnn] [--quick]

Prints one line per run: how many numbers, the worst difference and where. What the contract refuses
must exit with code 2. Exit 1 if anything differs.
"""

import argparse
import dataclasses
import itertools
import json
import math
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent))
from dense_evidence import Case, Options, Refused, Undefined  # noqa: E402
from make_cases import make_cases  # noqa: E402

TOLERANCE = 1e-8
FIT_TOLERANCE = 1e-7  # a fit stops at a gradient of 1e-10 P, which is this in the precision
FLOOR = 1e-6  # numbers below this are compared absolutely, to tolerance * FLOOR
SMALL_CHUNK = "5"  # of 12 samples: sums over chunks, with a short last one


def option_sets(structure, likelihood, blocks, quick):
    """Flags to try beside the defaults, as keyword arguments of Options."""
    yield {}
    yield {"prior_precision": (0.3,), "temperature": 0.6}
    if structure == "kron":
        rules = itertools.product(("expand", "reduce"), ("trace", "none"),
                                  ("exact", "expand", "joint"))
        for sharing, correction, bias in rules:
            chosen = {"sharing": sharing, "correction": correction, "bias": bias}
            if chosen != {"sharing": "expand", "correction": "trace", "bias": "exact"} and \
                    not (quick and (correction, bias) == ("trace", "expand")):
                yield chosen
        yield {"positions": "all"}
        yield {"positions": "all", "sharing": "reduce", "correction": "none"}
    if structure == "ekfac":  # its trace is exact: no correction
        yield {"bias": "expand"}
        yield {"bias": "joint"}
        yield {"positions": "all"}
        yield {"positions": "all", "bias": "joint"}
        yield {"sharing": "reduce"}
    if structure != "lastlayer":
        yield {"prior_precision": tuple(0.5 + 0.25 * i for i in range(blocks))}
    if likelihood != "regression":
        yield {"predictive": "probit", "prior_precision": (0.8,)}
    if likelihood == "classification":
        yield {"predictive": "bridge", "prior_precision": (0.8,)}
    yield {"fisher": "empirical"}
    if structure in ("kron", "ekfac", "diag", "block"):
        yield {"fit": "newton", "temperature": 0.8}
    if quick:
        return
    if structure in ("kron", "ekfac", "diag", "block"):
        yield {"fit": "newton", "prior": "scalar", "prior_precision": (30.0,)}
    yield {"fisher": "empirical", "temperature": 1.7}
    yield {"prior": "scalar", "prior_precision": (2.5,)}
    yield {"prior": "diagonal", "prior_precision": (2.5,)}


def run_program(binary, folder, flags):
    """(exit code, JSON object or None, last line of stderr)."""
    command = [binary, "--json", "--quiet", "--dtype", "float64", "--threads", "1",
               "--batch", SMALL_CHUNK, "--network", folder / "network.toml",
               "--weights", folder / "weights.safetensors", "--data", folder / "train.safetensors",
               "--test", folder / "test.safetensors"]
    done = subprocess.run([str(c) for c in command] + flags, capture_output=True, text=True,
                          check=False)
    try:
        answer = json.loads(done.stdout)
    except json.JSONDecodeError:
        answer = None
    return done.returncode, answer, (done.stderr.strip().splitlines() or [""])[-1]


def to_flags(options):
    """Only what differs from the defaults, so that the program's defaults are tested too."""
    flags = []
    for field in dataclasses.fields(Options):
        value = getattr(options, field.name)
        if value != field.default:
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--{field.name.replace('_', '-')}", *map(str, values)]
    return flags


class Comparison:
    """Walks the oracle's report; counts numbers, keeps the worst difference and its place."""

    def __init__(self, ours, theirs, tolerance):
        self.tolerance = tolerance
        self.count, self.worst, self.where, self.wrong = 0, 0.0, "", []
        self.walk(ours, theirs, "", 0.0)

    def walk(self, ours, theirs, path, scale):
        if isinstance(ours, dict) and isinstance(theirs, dict):
            for key, value in ours.items():
                place = f"{path}.{key}" if path else key
                if key not in theirs:
                    self.wrong.append(f"{place} is missing")
                else:
                    self.walk(value, theirs[key], place, self.scale_of(key, ours))
        elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
            for i, (a, b) in enumerate(zip(ours, theirs)):
                self.walk(a, b, f"{path}[{i}]", 0.0)
        elif isinstance(ours, (int, float)) and isinstance(theirs, (int, float)):
            self.count += 1
            scale = max(scale, abs(ours), abs(theirs), FLOOR)
            difference = abs(ours - theirs) / scale
            if not math.isfinite(difference):
                difference = math.inf
            if difference >= self.worst:
                self.worst, self.where = difference, path
            if difference > self.tolerance:
                self.wrong.append(f"{path} is {theirs}, expected {ours}")
        elif ours != theirs:
            self.wrong.append(f"{path} is {str(theirs)[:60]}, expected {str(ours)[:60]}")

    @staticmethod
    def scale_of(key, entry):
        """Differences of larger terms carry the rounding of those terms."""
        if key == "evidence_gradient":
            return max(entry["effective_dimension"], entry["scatter"])
        if key == "log_evidence":
            return max(abs(entry["log_likelihood"]), entry["log_det_ratio"], entry["scatter"])
        return 0.0


def leaves(entry, path=""):
    if isinstance(entry, dict):
        return {leaf for key, value in entry.items()
                for leaf in leaves(value, f"{path}.{key}" if path else key)}
    if isinstance(entry, list) and entry and isinstance(entry[0], dict):
        return {leaf for value in entry for leaf in leaves(value, f"{path}[]")}
    return {path}


def compare_case(args, folder, unchecked):
    """Number of runs of this case that differ."""
    given = json.loads((folder / "case.json").read_text())
    case = Case(folder / "network.toml", folder / "weights.safetensors",
                folder / "train.safetensors", folder / "test.safetensors")
    bad = 0
    for structure in args.structures:
        for extra in option_sets(structure, given["likelihood"], len(case.rows), args.quick):
            options = Options(**given, structure=structure, **extra)
            flags = to_flags(options)
            label = f"{folder.name:<20} {' '.join([structure, *to_flags(Options(**extra))]):<72}"
            try:
                expected = case.evidence(options)
            except Undefined:
                continue
            except Refused:
                expected = None
            code, answer, message = run_program(args.evidence, folder, flags)
            if expected is None:
                right = code == 2
                print(f"{label} {'refused' if right else f'DIFF exit {code}, expected 2'}")
                bad += not right
                continue
            if code != 0 or answer is None:
                print(f"{label} DIFF exit {code}: {message or 'no JSON on stdout'}")
                bad += 1
                continue
            unchecked |= leaves(answer) - leaves(expected)
            result = Comparison(expected, answer,
                                FIT_TOLERANCE if options.fit == "newton" else TOLERANCE)
            verdict = "DIFF" if result.wrong else "ok  "
            print(f"{label} {verdict} {result.count:4} numbers, worst {result.worst:.1e} "
                  f"{result.where}", flush=True)
            for wrong in result.wrong[:args.details]:
                print(f"    {wrong}")
            bad += bool(result.wrong)
    return bad


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evidence", required=True, help="the program, build/bin/evidence")
    parser.add_argument("--cases", nargs="+", help="names of make_cases.py; all of them by default")
    parser.add_argument("--structures", nargs="+",
                        default=["kron", "ekfac", "diag", "block", "full", "lastlayer"])
    parser.add_argument("--quick", action="store_true", help="fewer option sets")
    parser.add_argument("--details", type=int, default=4, help="differences printed per run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    unchecked, bad = set(), 0
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_cases(scratch)
        known = {folder.name for folder in folders}
        for name in set(args.cases or []) - known:
            parser.error(f"case '{name}' is not one of {', '.join(sorted(known))}")
        for folder in folders:
            if not args.cases or folder.name in args.cases:
                bad += compare_case(args, folder, unchecked)
    print(f"answered but not checked here: {', '.join(sorted(unchecked)) or 'nothing'}")
    print(f"{bad} runs differ" if bad else "all runs agree")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
