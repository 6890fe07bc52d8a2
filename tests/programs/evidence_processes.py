"""`evidence` in several processes gives the numbers of one; a process that dies ends the others.

    python tests/programs/evidence_processes.py --evidence build/bin/evidence
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

EVIDENCE = "evidence"
NETWORK = """input = [1, 6, 6]
layer = [
  { type = "conv", out = 3, kernel = 3 }, { type = "tanh" },
  { type = "flatten" }, { type = "linear", out = 3 },
]
"""


def free_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return str(server.getsockname()[1])


class Processes(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = Path(scratch.name)
        draw = np.random.default_rng(3)
        (self.folder / "net.toml").write_text(NETWORK, encoding="utf-8")
        save_file({"0.weight": 0.4 * draw.normal(size=(3, 1, 3, 3)), "0.bias": 0.1 * draw.normal(size=3),
                   "3.weight": 0.2 * draw.normal(size=(3, 48)), "3.bias": 0.1 * draw.normal(size=3)},
                  str(self.folder / "w.safetensors"))
        save_file({"x": draw.normal(size=(41, 1, 6, 6)), "y": draw.integers(0, 3, 41)},
                  str(self.folder / "train.safetensors"))

    def command(self, *flags):
        return [EVIDENCE, "--network", str(self.folder / "net.toml"), "--weights",
                str(self.folder / "w.safetensors"), "--data", str(self.folder / "train.safetensors"),
                "--dtype", "float64", "--json", *flags]

    def start(self, size, *flags):
        port = free_port()
        clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        return [subprocess.Popen(self.command(*flags), text=True, stdout=subprocess.PIPE,
                                 stderr=subprocess.PIPE,
                                 env={**clean, "RANK": str(rank), "WORLD_SIZE": str(size),
                                      "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                                      "OMP_NUM_THREADS": "1"})
                for rank in range(size)]

    def test_four_processes_give_the_numbers_of_one(self):
        for flags in (["--structure", "kron"], ["--structure", "ekfac"], ["--structure", "diag"],
                      ["--structure", "full"], ["--structure", "lowrank", "--rank", "5"],
                      ["--fisher", "mc", "--fit", "newton", "--polish", "2"]):
            with self.subTest(flags=flags):
                one = json.loads(subprocess.run(self.command(*flags), check=True, text=True,
                                                capture_output=True).stdout)
                ranks = self.start(4, *flags)
                outputs = [rank.communicate(timeout=120) for rank in ranks]
                for rank, (out, errors) in zip(ranks, outputs):
                    self.assertEqual(rank.returncode, 0, errors)
                self.assertEqual([out for out, _ in outputs[1:]], ["", "", ""], "one speaks")
                four = json.loads(outputs[0][0])
                for key in ("n", "log_likelihood", "log_det_ratio", "scatter", "log_evidence"):
                    np.testing.assert_allclose(four[key], one[key], rtol=1e-10, err_msg=key)
                for key in ("newton_decrement", "linearised_gap"):
                    np.testing.assert_allclose(four["checks"][key], one["checks"][key], rtol=1e-7)

    def test_torchrun_starts_them(self):
        one = json.loads(subprocess.run(self.command(), check=True, text=True,
                                        capture_output=True).stdout)
        run = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--no-python",
                              "--nproc-per-node", "2", "--master-port", free_port(),
                              *self.command()], text=True, capture_output=True, timeout=300)
        self.assertEqual(run.returncode, 0, run.stderr)
        two = json.loads(run.stdout)
        np.testing.assert_allclose(two["log_evidence"], one["log_evidence"], rtol=1e-10)

    def test_a_plan_is_printed_once(self):
        outputs = [rank.communicate(timeout=60) for rank in self.start(2, "--dry-run")]
        self.assertIn("peak_bytes", json.loads(outputs[0][0])["plan"], outputs[0][1])
        self.assertEqual(outputs[1][0], "")

    def test_a_process_that_dies_ends_the_others_with_a_sentence(self):
        ranks = self.start(3, "--repeat", "1000000")
        try:
            ranks[0].stderr.readline()  # its first progress: all are at work
            ranks[2].kill()
            died = time.monotonic()
            for rank in ranks[:2]:
                errors = rank.communicate(timeout=30)[1]
                self.assertEqual(rank.returncode, 1, errors)
                self.assertIn("one has ended or cannot be reached", errors)
            self.assertLess(time.monotonic() - died, 30)
        finally:
            for rank in ranks:
                rank.kill()
                rank.communicate()

    def test_more_processes_than_samples_are_refused(self):
        save_file({"x": np.zeros((2, 1, 6, 6)), "y": np.array([0, 1])},
                  str(self.folder / "train.safetensors"))
        for rank in self.start(3):
            errors = rank.communicate(timeout=60)[1]
            self.assertEqual(rank.returncode, 2, errors)
            self.assertIn("2 samples cannot be shared by 3 processes", errors)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--evidence", required=True)
    EVIDENCE = parser.parse_known_args()[0].evidence
    unittest.main(argv=[sys.argv[0], *parser.parse_known_args()[1]])
