"""What tests of `evidence` share: small problems in a folder of their own, the program run in it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

EVIDENCE = "evidence"
SANITIZED = False
CONVOLUTIONAL = """input = [1, 6, 6]
layer = [
  { type = "conv", out = 3, kernel = 3 },
  { type = "tanh" },
  { type = "flatten" },
  { type = "linear", out = 3 },
]
"""
LINEAR = 'input = [4]\nlayer = [ { type = "linear", out = 1 } ]\n'
MLP = """input = [4]
layer = [ { type = "linear", out = 6 }, { type = "tanh" }, { type = "linear", out = 2 } ]
"""


class EvidenceCase(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        self.draw = np.random.default_rng(3)

    def write(self, network, weights, train, test=None):
        (self.folder / "net.toml").write_text(network, encoding="utf-8")
        save_file({k: np.ascontiguousarray(v) for k, v in weights.items()},
                  str(self.folder / "w.safetensors"))
        for name, (x, y) in (("train", train), ("test", test or train)):
            save_file({"x": x, "y": y}, str(self.folder / f"{name}.safetensors"))

    def convolutional(self, n=20):
        normal = self.draw.normal
        x = normal(size=(n, 1, 6, 6))
        self.write(CONVOLUTIONAL,
                   {"0.weight": 0.4 * normal(size=(3, 1, 3, 3)), "0.bias": 0.1 * normal(size=3),
                    "3.weight": 0.2 * normal(size=(3, 48)), "3.bias": 0.1 * normal(size=3)},
                   (x, self.draw.integers(0, 3, n)), (x[:7] + 1, self.draw.integers(0, 3, 7)))

    def regression(self, network, shapes, n=30):
        x = self.draw.normal(size=(n, 4))
        y = np.sin(x @ self.draw.normal(size=(4, shapes[-1][1][0])))
        weights = {name: 0.5 * self.draw.normal(size=shape) for name, shape in shapes}
        self.write(network, weights, (x, y))
        return x, y

    def start(self, *flags, test=False, json_out=True):
        command = [EVIDENCE, "--network", "net.toml", "--weights", "w.safetensors", "--quiet"]
        if "--load" not in flags:
            command += ["--data", "train.safetensors"]
        if json_out:
            command += ["--json"]
        if "--dtype" not in flags and "--load" not in flags:
            command += ["--dtype", "float64"]
        if test:
            command += ["--test", "test.safetensors"]
        return subprocess.run(command + [str(f) for f in flags], capture_output=True, text=True,
                              cwd=self.folder, check=False, timeout=120)

    def evidence(self, *flags, test=False):
        done = self.start(*flags, test=test)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stdout.splitlines()), 1)
        return json.loads(done.stdout)

    def near(self, a, b, tolerance):
        self.assertLessEqual(abs(a - b), tolerance * max(1.0, abs(a), abs(b)))

    def numbers(self, report):
        """What must not depend on how the work is cut up."""
        kept = {k: v for k, v in report.items() if k not in ("seconds", "peak_rss_bytes", "plan")}
        return np.array(list(self.flatten(kept)))

    def flatten(self, value):
        if isinstance(value, dict):
            value = value.values()
        elif not isinstance(value, list):
            if isinstance(value, (int, float)):
                yield float(value)
            return
        for item in value:
            yield from self.flatten(item)


def main(description):
    """The `main` of a file of tests."""
    global EVIDENCE, SANITIZED
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--evidence", required=True, type=Path, help="build/bin/evidence")
    parser.add_argument("--sanitized", action="store_true", help="a build of asan or tsan")
    args, rest = parser.parse_known_args()
    EVIDENCE, SANITIZED = str(args.evidence.resolve()), args.sanitized
    unittest.main(module="__main__", argv=[sys.argv[0], *rest])
