"""`layerwise` in several processes trains what one trains; killed or signalled, it goes on with --resume.

    python tests/programs/layerwise_processes.py --layerwise build/bin/layerwise [names...]

The configuration is that of layerwise_test.py: about a second of one core.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import h5py
import numpy as np

from evidence_processes import free_port
from layerwise_test import CONFIG, FOLDERS, record, status, wait_for_new

LAYERWISE = Path("layerwise")
scratch = Path()
TRACES = ("trace", "blocks", "pathways", "controls/map/trace", "controls/map/blocks")


def command(out, *flags):
    return [str(LAYERWISE), "--config", str(scratch / "small.toml"), "--out", str(out), "--threads", "1",
            *flags]


def environment(**variables):
    clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return {**clean, "OMP_NUM_THREADS": "1", **variables}


def start(size, out, *flags):
    """The first process writes to `out`; what another would write goes to a folder of its own."""
    port = free_port()
    return [subprocess.Popen(command(out if rank == 0 else f"{out}-{rank}", *flags), text=True,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                             env=environment(RANK=str(rank), WORLD_SIZE=str(size),
                                             MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
            for rank in range(size)]


def finish(ranks):
    try:
        return [rank.communicate(timeout=60) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def series(folder):
    """Every trace of a run but the clock's."""
    with h5py.File(folder / "run.h5") as file:
        return {f"{group}/{name}": data[()] for group in TRACES for name, data in file[group].items()
                if name != "wall_seconds" and data.dtype.kind == "f"}


def setUpModule():
    global scratch  # pylint: disable=global-statement
    scratch = Path(tempfile.mkdtemp(prefix="evariste-layerwise-processes-"))
    (scratch / "small.toml").write_text(CONFIG, encoding="utf-8")
    (scratch / "one.json").write_text(
        subprocess.run(command(scratch / "one", "--json"), check=True, text=True, capture_output=True,
                       env=environment()).stdout, encoding="utf-8")
    outputs = finish(start(2, scratch / "two", "--json"))
    assert outputs[0][0], outputs
    for rank, name in enumerate(("two.json", "silent")):
        (scratch / name).write_text(outputs[rank][0], encoding="utf-8")


def tearDownModule():
    shutil.rmtree(scratch)


class Processes(unittest.TestCase):
    def setUp(self):
        self.out = scratch / self.id().rsplit(".", maxsplit=1)[-1]

    def close(self, found, expected):
        # float32: sums in another order differ by 1e-7, which 60 steps and 4 refreshes amplify to
        # 3e-4 (measured, in a precision), as another order in one process does. Machines differ.
        for name in FOLDERS:
            values = series(expected / name)
            for path, value in series(found / name).items():
                np.testing.assert_allclose(value, values[path], rtol=1e-2, atol=1e-3, err_msg=path)

    def same_as_two(self):
        for name in FOLDERS:
            self.assertEqual(record(self.out / name), record(scratch / "two" / name))
            for file in ("weights.safetensors", "weights-map.safetensors"):
                self.assertEqual((self.out / name / file).read_bytes(),
                                 (scratch / "two" / name / file).read_bytes(), file)

    def resumed(self, size):
        ranks = start(size, self.out, "--resume", "--quiet")
        for rank, (_, errors) in zip(ranks, finish(ranks)):
            self.assertEqual((rank.returncode, errors), (0, ""))
        for name in FOLDERS:
            self.assertEqual(status(self.out / name), "finished")

    def test_two_train_what_one_trains(self):
        self.close(scratch / "two", scratch / "one")
        one, two = (json.loads((scratch / name).read_text("utf-8")) for name in ("one.json", "two.json"))
        self.assertEqual({task: set(rows) for task, rows in two.items()},
                         {task: set(rows) for task, rows in one.items()})

    def test_the_first_alone_writes_and_speaks(self):
        self.assertEqual((scratch / "silent").read_text("utf-8"), "")
        self.assertFalse((scratch / "two-1").exists())
        names = {p.relative_to(scratch / "one") for p in (scratch / "one").rglob("*")}
        self.assertEqual({p.relative_to(scratch / "two") for p in (scratch / "two").rglob("*")}, names)
        with h5py.File(scratch / "two" / FOLDERS[0] / "run.h5") as file:
            self.assertEqual(file.attrs["processes"], 2)

    def test_a_killed_process_ends_all_and_any_number_goes_on(self):
        ranks = start(2, self.out)
        wait_for_new(self.out / FOLDERS[0] / "state.pt", ranks[0])
        ranks[1].kill()
        outputs = finish(ranks)
        lines = outputs[0][1].strip().splitlines()
        self.assertEqual((ranks[0].returncode, outputs[0][0]), (1, ""), lines)
        self.assertEqual(sum(line.startswith("error: ") for line in lines), 1, lines)
        for words in ("process 0 of 2", "one has ended or cannot be reached", "--resume"):
            self.assertIn(words, lines[-1])
        self.assertEqual(status(self.out / FOLDERS[0]), "interrupted")
        shutil.copytree(self.out, f"{self.out}-three")
        self.resumed(2)
        self.same_as_two()
        self.out = Path(f"{self.out}-three")
        self.resumed(3)
        self.close(self.out, scratch / "one")

    def test_the_first_that_is_killed_ends_the_others(self):
        ranks = start(3, self.out)
        wait_for_new(self.out / FOLDERS[0] / "state.pt", ranks[0])
        ranks[0].kill()
        outputs = finish(ranks)
        for rank in (1, 2):
            self.assertEqual(ranks[rank].returncode, 1, outputs[rank])
            self.assertIn("one has ended or cannot be reached", outputs[rank][1])
        self.resumed(1)
        self.close(self.out, scratch / "one")

    def test_a_signal_to_one_ends_all_after_the_same_epoch(self):
        for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
            with self.subTest(number):
                ranks = start(2, self.out, "--resume")
                wait_for_new(self.out / FOLDERS[0] / "state.pt", ranks[0])
                ranks[1].send_signal(number)
                for rank, (_, errors) in zip(ranks, finish(ranks)):
                    self.assertEqual(rank.returncode, code, errors)
                self.assertEqual(status(self.out / FOLDERS[0]), "interrupted")
        self.resumed(2)
        self.same_as_two()

    def test_torchrun_starts_them(self):
        run = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--no-python",
                              "--nproc-per-node", "2", "--master-port", free_port(),
                              *command(self.out, "--json", "--set", "tasks=['digit']", "--set",
                                       "train.epochs=3")],
                             text=True, capture_output=True, timeout=120, check=False, env=environment())
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("evidence/nll", json.loads(run.stdout)["digit"])

    def test_a_plan_is_printed_once(self):
        outputs = finish(start(2, self.out, "--dry-run"))
        self.assertIn("predicted memory", outputs[0][0], outputs)
        self.assertEqual(outputs[1], ("", ""))
        self.assertFalse(self.out.exists())

    def test_what_cannot_be_shared_is_refused(self):
        ranks = start(3, self.out, "--set", "train.batch=2")
        for rank, (_, errors) in zip(ranks, finish(ranks)):
            self.assertEqual(rank.returncode, 2, errors)
            self.assertIn("train.batch: expected at least one for each of 3 processes, found 2", errors)
        self.assertFalse(self.out.exists())

    def test_processes_that_were_told_something_else_are_refused(self):
        port = free_port()
        ranks = [subprocess.Popen(command(self.out, "--set", f"train.epochs={3 + rank}"), text=True,
                                  stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                  env=environment(RANK=str(rank), WORLD_SIZE="2",
                                                  MASTER_ADDR="127.0.0.1", MASTER_PORT=port))
                 for rank in range(2)]
        outputs = finish(ranks)
        self.assertEqual([rank.returncode for rank in ranks], [1, 2], outputs)
        self.assertIn("process 1 of 2 was given another configuration", outputs[1][1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--layerwise", required=True, type=Path)
    args, names = parser.parse_known_args()
    LAYERWISE = args.layerwise.resolve()
    unittest.main(argv=[sys.argv[0], *names])
