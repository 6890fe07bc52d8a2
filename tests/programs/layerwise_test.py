"""The experiment `layerwise` as its users meet it: what a run leaves, resuming bit for bit after kills
and signals, refusing wrong configurations in one sentence, full disks, damaged data.

    python tests/programs/layerwise_test.py --layerwise build/bin/layerwise [--kills 4] [names...]

A run here is 300 images, a network with widths below 300, both tasks and the control map: about a
second of one core. Random instants come from --random-seed, which every failure prints.
"""

import argparse
import gzip
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import unittest
from pathlib import Path

import h5py
import numpy as np
import xarray as xr

USAGE, IO = 2, 4
INTERNALS = ("c10", "at::", "Exception raised", "terminate called", "Traceback", "internal error", "toml::")
DATA = Path(__file__).resolve().parents[2] / "data"
FOLDERS = ("digit-quick-seed1", "quadrant-quick-seed1")
NOBODY = 65534

CONFIG = """report = false
controls = ["map"]
[data]
train = 300
test = 200
[train]
epochs = 5
batch = 25
burn_in = 1
test_samples = 200
evaluation_batch = 100
[train.refresh]
samples = 300
check_samples = 100
check_draws = 2
checks_every = 2
final_fisher = "sketch"
[train.kfac]
damping = 20
[prior]
hold = 0
settle = 1
ramp = 1.0
[network]
input = [1, 32, 32]
layer = [
  { type = "avgpool", kernel = 2 },
  { type = "sum", of = [
    { type = "conv", out = 4, kernel = 3, stride = 4, padding = 1, padding_mode = "circular" },
    { type = "fc", out = 4, stride = 4 } ] },
  { type = "relu" },
  { type = "sum", of = [
    { type = "conv", out = 8, kernel = 3, stride = 2, padding = 1, padding_mode = "circular" },
    { type = "fc", out = 8, stride = 2 } ] },
  { type = "relu" },
  { type = "flatten" },
  { type = "linear", out = "classes" },
]
"""

args = argparse.Namespace()
scratch = reference = Path()
reference_seconds = 0.0


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def words(*flags, out, config=None):
    return [str(args.layerwise), "--config", str(config or scratch / "small.toml"), "--out", str(out),
            "--threads", "1", *map(str, flags)]


def run(*flags, out, config=None, prefix=(), timeout=900):
    return subprocess.run([*prefix, *words(*flags, out=out, config=config)], capture_output=True,
                          text=True, env=environment(), cwd=scratch, check=False, timeout=timeout)


def program(name, *flags):
    """Another program of the same build, with these flags alone."""
    return subprocess.run([str(args.layerwise.with_name(name)), *map(str, flags)], capture_output=True,
                          text=True, env=environment(), cwd=scratch, check=False, timeout=900)


def start(*flags, out):
    return subprocess.Popen(words(*flags, out=out), stdout=subprocess.DEVNULL,
                            stderr=subprocess.PIPE, text=True, env=environment(), cwd=scratch)


def inode(path):
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None


def wait_for_new(path, process, deadline=900):
    """Until `path` is replaced (every write is a new file) or the process ends."""
    before, end = inode(path), time.monotonic() + deadline
    while inode(path) == before and process.poll() is None:
        assert time.monotonic() < end, f"{path} is not replaced"
        time.sleep(0.001)


def record(folder):
    """Every dataset of run.h5 but the clock's, as bytes with its type."""
    content = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset) and not name.endswith("wall_seconds"):
            value = item[()]
            content[name] = (item.shape, value.tolist() if value.dtype == object else
                             (str(value.dtype), value.tobytes()))

    with h5py.File(folder / "run.h5") as file:
        file.visititems(visit)
    return content


def status(folder):
    with h5py.File(folder / "run.h5") as file:
        value = file.attrs["status"]
        return value.decode() if isinstance(value, bytes) else str(value)


def setUpModule():
    global scratch, reference, reference_seconds  # pylint: disable=global-statement
    scratch = Path(tempfile.mkdtemp(prefix="evariste-layerwise-"))
    scratch.chmod(0o755)  # for the tests that run as nobody
    (scratch / "small.toml").write_text(CONFIG, encoding="utf-8")
    reference = scratch / "reference"
    begin = time.monotonic()
    done = run("--json", out=reference)
    reference_seconds = time.monotonic() - begin
    assert done.returncode == 0, done.stderr
    (scratch / "reference.json").write_text(done.stdout, encoding="utf-8")


def tearDownModule():
    shutil.rmtree(scratch)


class Case(unittest.TestCase):
    def setUp(self):
        self.out = scratch / self.id().rsplit(".", maxsplit=1)[-1]

    def refused(self, done, code, *expected):
        """One sentence on stderr with the expected words, nothing on stdout."""
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertEqual(done.stdout, "")
        lines = done.stderr.strip().splitlines()
        self.assertTrue(lines and lines[-1].startswith("error: "), done.stderr)
        for word in expected:
            self.assertIn(word, lines[-1])
        for word in INTERNALS:
            self.assertNotIn(word, done.stderr)
        return lines

    def same_as_reference(self, out, folders=FOLDERS):
        for name in folders:
            expected, found = record(reference / name), record(out / name)
            self.assertEqual(set(found), set(expected))
            for path, value in expected.items():
                self.assertEqual(found[path], value,
                                 f"{name}:{path} differs, --random-seed {args.random_seed}")
            for weights in ("weights.safetensors", "weights-map.safetensors"):
                self.assertEqual((out / name / weights).read_bytes(),
                                 (reference / name / weights).read_bytes(), f"{name}/{weights}")


class Finished(Case):
    def test_leaves_the_record_the_state_the_log_and_the_configuration(self):
        for name in FOLDERS:
            for file in ("run.h5", "state.pt", "config.toml", "run.log", "weights.safetensors"):
                self.assertTrue((reference / name / file).is_file(), file)
            self.assertEqual(status(reference / name), "finished")
            with h5py.File(reference / name / "run.h5") as file:
                self.assertEqual(list(file["trace/epoch"][()]), [1, 2, 3, 4, 5])
                np.testing.assert_allclose(file["pathways/share_variance"][()].sum(axis=2), 1)
                evidence = file["trace/log_evidence"][()]
                self.assertTrue(np.isnan(evidence[0]) and np.isfinite(evidence[1:]).all())
                precision = file["blocks/prior_precision"][()]
                self.assertTrue((precision[-1] != precision[1]).any(), "the evidence moves priors")
                fixed = file["controls/map/blocks/prior_precision"][()]
                self.assertTrue((fixed[-1] == fixed[1]).all(), "map holds them")
                self.assertTrue((file["pathways/share_variance_map"][()] ==
                                 file["controls/map/pathways/share_variance"][()]).all())
        self.assertTrue((reference / "summary-quick.md").is_file())

    def test_json_prints_exactly_one_object(self):
        table = json.loads((scratch / "reference.json").read_text(encoding="utf-8"))
        self.assertEqual(set(table), {"digit", "quadrant"})
        self.assertIn("evidence/accuracy", table["digit"])
        self.assertIn("map/nll", table["quadrant"])
        for what in ("log_precision", "effective_dimension", "share_variance"):
            self.assertIn(f"evidence/{what}/1/fc", table["digit"])
        self.assertIsNone(table["digit"]["evidence/nll"]["std"], "one seed has no spread")

    def test_network_files_fit_the_weights(self):
        for name, labels in zip(FOLDERS, (10, 40)):
            network = tomllib.loads((reference / name / "network.toml").read_text("utf-8"))
            self.assertEqual(network["layer"][-1]["out"], labels)
            self.assertTrue((reference / name / "network-map.toml").is_file())

    def test_is_not_overwritten_but_by_force(self):
        before = {p: p.read_bytes() for p in reference.rglob("*") if p.is_file()}
        runs = [p for p in before if p.parent.name in FOLDERS]
        written = [inode(p) for p in runs]
        self.refused(run(out=reference), USAGE, FOLDERS[0], "--force", "--resume", "--out")
        done = run("--resume", out=reference)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in ("digit-MNIST", "quadrant-MNIST", "FC+CONV", "run.h5"):
            self.assertIn(word, done.stdout)
        self.assertEqual(written, [inode(p) for p in runs],
                         "a finished run is read, not trained again")
        self.assertEqual(before, {p: p.read_bytes() for p in reference.rglob("*") if p.is_file()})
        shutil.copytree(reference, self.out)
        old = inode(self.out / FOLDERS[0] / "run.h5")
        self.assertEqual(run("--force", out=self.out).returncode, 0)
        self.assertNotEqual(old, inode(self.out / FOLDERS[0] / "run.h5"))
        self.same_as_reference(self.out)

    def test_its_configuration_repeats_it(self):
        for name in FOLDERS:
            config = reference / name / "config.toml"
            done = run(out=self.out, config=config)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual((self.out / name / "config.toml").read_bytes(), config.read_bytes())
        self.same_as_reference(self.out)

    def test_pruned_networks_have_the_same_outputs(self):
        # FC pathways held at a millionth of the convolutions' variance have no effective dimension.
        config = scratch / "lean.toml"
        config.write_text(CONFIG.replace('type = "fc",', 'type = "fc", bias = false,'), "utf-8")
        done = run("--prune", "--set", "tasks=['digit']", "--set", "controls=[]", "--set",
                   "prior.update=none", "--set", "prior.lean=1e8", out=self.out, config=config)
        self.assertEqual(done.returncode, 0, done.stderr)
        line = next(line for line in done.stdout.splitlines() if line.startswith("pruned"))
        self.assertIn("without 1.1, 3.1, outputs change by", line)
        self.assertLess(float(line.split("change by ")[1].split()[0]), 1e-3, line)
        folder = self.out / FOLDERS[0]
        network = tomllib.loads((folder / "network-pruned.toml").read_text("utf-8"))
        sums = [layer for layer in network["layer"] if layer["type"] == "sum"]
        self.assertEqual([(len(layer["of"]), layer["of"][0]["type"], layer["scale"])
                          for layer in sums], [(1, "conv", 0.5)] * 2)
        self.assertLess((folder / "weights-pruned.safetensors").stat().st_size,
                        (folder / "weights.safetensors").stat().st_size)

    def test_pathways_of_an_inner_sum_are_pathways(self):
        file = scratch / "groups.toml"
        fc, conv = '{ type = "factored_fc", out = 8, stride = 2 }', "padding = 1, padding_mode = 'circular'"
        file.write_text(CONFIG.split("[network]")[0] + f"""[network]
input = [1, 16, 16]
layer = [ {{ type = "group_lift" }}, {{ type = "sum", of = [ {fc}, [ {{ type = "sum", of = [
  {{ type = "conv", out = 8, kernel = 3, bias = false, {conv} }},
  {{ type = "group_conv", out = 2, mix = false, bias = false, {conv} }} ] }}, {{ type = "polyphase" }} ] ] }},
  {{ type = "relu" }}, {{ type = "group_pool" }}, {{ type = "flatten" }}, {{ type = "linear", out = "classes" }} ]
""", "utf-8")
        done = run("--prune", "--set", "tasks=['upright']", "--set", "controls=['map']", "--set",
                   "pathways=['conv','group_conv']", "--set", "prior.update=none", "--set", "prior.lean=1e8",
                   out=self.out / "two", config=file)
        self.assertEqual(done.returncode, 0, done.stderr)
        line = next(line for line in done.stdout.splitlines() if line.startswith("pruned"))
        self.assertIn("without 1.0.0.1, outputs change by", line)
        self.assertLess(float(line.split("change by ")[1].split()[0]), 1e-3, line)
        done = run("--prune", "--set", "tasks=['upright']", "--set", "controls=[]", out=self.out / "three",
                   config=file)
        self.assertEqual(done.returncode, 0, done.stderr)
        for folder, names in (("two", ["conv", "group_conv"]), ("three", ["factored_fc", "conv", "group_conv"])):
            folder = self.out / folder / "upright-quick-seed1"
            with h5py.File(folder / "run.h5") as file_of_run:
                self.assertEqual([name.decode() for name in file_of_run["pathways/pathway"][()]], names)
                shares = file_of_run["pathways/share_variance"][-1]
            self.assertEqual(shares.shape, (1, len(names)))
            self.assertAlmostEqual(shares.sum(), 1, 6)
            self.assertGreater(shares.min(), 0)
            self.assertTrue((folder / "network-pruned.toml").is_file())

    def test_every_folder_is_looked_at_before_the_first_training(self):
        shutil.copytree(reference / FOLDERS[1], self.out / FOLDERS[1])
        self.refused(run(out=self.out), USAGE, FOLDERS[1], "finished")
        self.assertFalse((self.out / FOLDERS[0]).exists())

    def test_a_finished_record_without_its_state_stays(self):
        shutil.copytree(reference, self.out)
        (self.out / FOLDERS[0] / "state.pt").unlink()
        before = (self.out / FOLDERS[0] / "run.h5").read_bytes()
        self.refused(run("--resume", out=self.out), USAGE, FOLDERS[0], "state.pt", "--force")
        self.assertEqual((self.out / FOLDERS[0] / "run.h5").read_bytes(), before)

    def test_a_part_does_not_replace_the_summary_of_all(self):
        shutil.copytree(reference, self.out)
        before = (self.out / "summary-quick.md").read_bytes()
        done = run("--resume", "--set", "tasks=['quadrant']", out=self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual((self.out / "summary-quick.md").read_bytes(), before)
        self.assertIn("quadrant-MNIST", (self.out / "summary-quick-quadrant.md").read_text("utf-8"))

    def test_every_control_runs(self):
        controls = ["map", "conv", "fc", "unit", "map-unit", "sgd"]
        done = run("--json", "--set", f"controls={controls}", "--set", "tasks=['digit']", "--set",
                   "train.epochs=3", out=self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        table = json.loads(done.stdout)["digit"]
        for control in controls:
            self.assertTrue(math.isfinite(table[f"{control}/nll"]["mean"]), control)
        self.assertIn("unit/log_precision/1/fc", table)
        self.assertNotIn("conv/log_precision/1/conv", table)
        folder = self.out / FOLDERS[0]
        self.assertTrue((folder / "weights-conv.safetensors").stat().st_size <
                        (folder / "weights-fc.safetensors").stat().st_size)
        with h5py.File(folder / "run.h5") as file:  # a unit start, moved by the evidence or held
            first = {name: file[f"controls/{name}/blocks/prior_precision"][1]
                     for name in ("unit", "map-unit")}
            self.assertTrue((first["map-unit"] == 1).all())
            self.assertTrue((file["controls/map-unit/blocks/prior_precision"][1:] == 1).all())

    def test_what_fails_is_marked(self):
        self.refused(run("--set", "train.burn_in_lr=1e30", out=self.out), 3, "train.burn_in_lr")
        self.assertEqual(status(self.out / FOLDERS[0]), "failed")

    def test_another_configuration_is_not_resumed(self):
        self.refused(run("--resume", "--set", "train.epochs=6", out=reference), USAGE, FOLDERS[0],
                     "another configuration", "--force")
        done = run("--resume", "--set", "report=false", out=reference)  # changes no number
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_dry_run_prints_the_configuration_and_writes_nothing(self):
        done = run("--dry-run", "--set", "train.epochs=7", out=self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        config = tomllib.loads(done.stdout)
        self.assertEqual((config["train"]["epochs"], config["train"]["kfac"]["momentum"]), (7, 0.9))
        self.assertEqual((config["prior"]["update"], config["prior"]["type"], config["prior"]["settle"]),
                         ("profile", "isotropic-gaussian", 1))
        self.assertRegex(done.stdout, r"predicted memory .* GB, time")
        done = run("--dry-run", "--json", "--set", "prior.type='gamma-gaussian'", out=self.out)
        plan = json.loads(done.stdout)
        self.assertEqual(plan["config"]["prior"]["shape"], 1.0)
        self.assertGreater(plan["plan"]["seconds"], 0)
        self.assertFalse(self.out.exists())

    def test_help_names_every_key(self):
        done = run("--help", out=self.out)
        for key in ("train.kfac.damping_every = 5", "prior.update = 'profile'", "prior.rate = 0.001",
                    "data.train = 5000"):
            self.assertIn(key, done.stdout)


class Interrupted(Case):
    def test_killed_at_any_instant_goes_on_bit_for_bit(self):
        draw = random.Random(args.random_seed)
        interrupted = 0
        for kill in range(args.kills):
            process = start("--resume", out=self.out)
            if kill % 2:  # between the record and the state, which follows it
                epochs = draw.randrange(1, 6)
                for _ in range(epochs):
                    wait_for_new(self.out / FOLDERS[kill // 2 % 2] / "run.h5", process)
            else:
                try:
                    process.wait(draw.uniform(0.1, 0.6) * reference_seconds)
                except subprocess.TimeoutExpired:
                    pass
            process.kill()
            interrupted += process.wait() == -signal.SIGKILL
            process.stderr.close()
        self.assertGreater(interrupted, 0)
        done = run("--resume", out=self.out)
        self.assertEqual(done.returncode, 0, f"{done.stderr} --random-seed {args.random_seed}")
        self.same_as_reference(self.out)
        self.assertEqual([p for p in self.out.rglob("*.tmp")], [], "temporary files stay behind")

    def signalled(self, number, code):
        process = start(out=self.out)
        wait_for_new(self.out / FOLDERS[0] / "state.pt", process)
        process.send_signal(number)
        error = process.communicate(timeout=900)[1]
        self.assertEqual(process.returncode, code, error)
        self.assertEqual(status(self.out / FOLDERS[0]), "interrupted")
        self.refused(run(out=self.out), USAGE, "unfinished", "--resume")
        done = run("--resume", out=self.out)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("resumed after epoch", (self.out / FOLDERS[0] / "run.log").read_text())
        self.assertEqual(status(self.out / FOLDERS[0]), "finished")
        self.same_as_reference(self.out)

    def test_ctrl_c_saves_and_ends_with_130(self):
        self.signalled(signal.SIGINT, 130)

    def test_terminated_saves_and_ends_with_143(self):
        self.signalled(signal.SIGTERM, 143)

    def test_a_reader_that_keeps_the_record_open_disturbs_nothing(self):
        process = start(out=self.out)
        wait_for_new(self.out / FOLDERS[0] / "run.h5", process)
        with h5py.File(self.out / FOLDERS[0] / "run.h5") as file:
            self.assertEqual(file.attrs["status"], "running")
            seen = file["controls/map/trace/train_loss"][()]
            groups = {name: xr.open_dataset(self.out / FOLDERS[0] / "run.h5", engine="h5netcdf",
                                            group=f"controls/map/{name}")
                      for name in ("trace", "blocks", "pathways")}
            self.assertEqual(groups["blocks"].prior_precision.dims, ("epoch", "block"))
            self.assertEqual(groups["pathways"].share_variance.dims, ("epoch", "layer", "pathway"))
            self.assertEqual(list(groups["pathways"].pathway.values), ["conv", "fc"])
            self.assertEqual(groups["trace"].train_loss.units, "nats")
            error = process.communicate(timeout=900)[1]
            np.testing.assert_array_equal(groups["trace"].train_loss.values, seen)
            for group in groups.values():
                group.close()
            self.assertEqual(process.returncode, 0, error)
            np.testing.assert_array_equal(file["controls/map/trace/train_loss"][()], seen)
        self.same_as_reference(self.out)

    def test_damaged_state_is_an_io_error_that_names_it(self):
        shutil.copytree(reference, self.out)
        state = self.out / FOLDERS[1] / "state.pt"
        state.write_bytes(state.read_bytes()[:-100])
        self.refused(run("--resume", out=self.out), IO, "state.pt", "damaged")


class Surroundings(Case):
    def test_full_disk_is_an_io_error_and_the_run_can_go_on(self):
        self.out.mkdir()
        # While a file is replaced its old and new versions both lie there.
        needed = 2 * sum(p.stat().st_size for p in reference.rglob("*") if p.is_file())
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={needed}", "none",
                                  str(self.out)], capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest("mounting a small disk takes root")
        try:
            ballast = self.out / "ballast"
            ballast.write_bytes(b"x" * (needed - 150_000))
            lines = self.refused(run(out=self.out), IO, str(self.out), "No space left")
            self.assertEqual(len([line for line in lines if line.startswith("error")]), 1)
            ballast.unlink()
            done = run("--resume", out=self.out)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.same_as_reference(self.out)
        finally:
            subprocess.run(["umount", str(self.out)], check=True)

    def test_folder_that_may_not_be_written_is_an_io_error(self):
        prefix = ()
        if os.geteuid() == 0:
            prefix = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
            if shutil.which("setpriv") is None or subprocess.run(
                    [*prefix, str(args.layerwise), "--version"], capture_output=True,
                    check=False).returncode != 0:
                self.skipTest("nobody cannot run the program here")
        self.out.mkdir(mode=0o555)
        self.refused(run(out=self.out, prefix=prefix), IO, str(self.out), "ermission")
        if os.geteuid() == 0:  # a finished run of somebody else
            self.refused(run("--force", out=reference, prefix=prefix), IO, FOLDERS[0], "ermission")

    def test_damaged_images_are_an_io_error_that_names_the_file(self):
        name = "t10k-labels-idx1-ubyte.gz"
        content = (DATA / "mnist" / name).read_bytes()
        labels = bytearray(gzip.decompress(content))
        labels[100] ^= 1  # a whole archive, of other labels
        for what, damaged in (("truncated", content[:-1000]), ("checksum", gzip.compress(labels))):
            with self.subTest(what):
                root = scratch / what
                shutil.copytree(DATA / "mnist", root / "mnist")
                (root / "mnist" / name).write_bytes(damaged)
                self.refused(run("--data-root", root, out=self.out), IO, name)
                self.assertFalse(self.out.exists())

    def test_missing_images_say_how_to_get_them(self):
        self.refused(run("--data-root", scratch / "nowhere", out=self.out), USAGE, "nowhere/mnist",
                     "fetch", "--data-root")


WRONG = [  # --set, words of the message
    ("sede=3", "sede", '"seed"'), ("train.epoch=3", "train.epoch", '"train.epochs"'),
    ("train.kfac.dampin=3", '"train.kfac.damping"'), ("data.trian=3", '"data.train"'),
    ("train.refresh.evry=3", '"train.refresh.every"'), ("prior.hld=3", '"prior.hold"'),
    ("prior.type='isotropic-gausian'", "prior.type", '"isotropic-gaussian"'),
    ("prior.init=macthed", "prior.init", '"matched"'), ("prior.rate=1", "prior.rate"),
    ("prior.update=newtn", "prior.update", '"newton"'), ("prior.share=blok", '"block"'),
    ("train.optimiser=kfacc", "train.optimiser", '"kfac"'),
    ("train.refresh.fisher=exactt", "train.refresh.fisher", '"exact"'),
    ("train.epochs=many", "train.epochs", "an integer", '"many"'), ("train.lr=nan", "train.lr"),
    ("report=no", "report", "true or false"), ("tasks=digit", "tasks", "an array"),
    ("tasks=['digits']", "tasks", '"digits"', '"digit"'), ("tasks=[]", "tasks"),
    ("tasks=['digit', 'digit']", "tasks", "twice"), ("seeds=0", "seeds", "at least 1"),
    ("controls=['mapp']", "controls", '"mapp"', '"map"'), ("control_seeds=-1", "control_seeds"),
    ("data.train=0", "data.train", "60000"), ("data.train=60001", "data.train", "60000"),
    ("data.test=0", "data.test"), ("data.set=mnis", "mnis", '"mnist"'),
    ("train.epochs=0", "train.epochs", "at least 1"), ("train.burn_in=6", "train.burn_in", "5"),
    ("train.batch=0", "train.batch", "at least 1"), ("train.batch=301", "train.batch", "300"),
    ("train.evaluation_batch=0", "train.evaluation_batch"), ("train.lr=-1", "train.lr", "-1"),
    ("train.test_samples=0", "train.test_samples"), ("train.refresh.every=0", "train.refresh.every"),
    ("train.refresh.checks_every=0", "checks_every"), ("train.refresh.draws=0", "refresh.draws"),
    ("train.refresh.final_draws=0", "final_draws"), ("train.refresh.samples=-1", "refresh.samples"),
    ("train.refresh.samples=2", "train.refresh.samples", "inputs"),
    ("train.kfac.lr=0", "kfac.lr"), ("train.kfac.momentum=1.5", "kfac.momentum", "1.5"),
    ("train.kfac.clip=-1", "kfac.clip"), ("train.kfac.average=2", "kfac.average"),
    ("train.kfac.damping=-5", "kfac.damping"), ("train.kfac.damping_factor=0", "damping_factor"),
    ("prior.lean=0", "prior.lean", "positive"), ("prior.trust=-1", "prior.trust"),
    ("prior.ramp=2", "prior.ramp"), ("prior.hold=-1", "prior.hold"),
    ("prior.settle=4", "prior.settle", "4", "none"), ("seeds=20000", "seeds", "10000", "20000"),
    ("controls=['map', 'map']", "controls", "map", "twice"),
    ("prior.type='diagonal-gaussian'", "diagonal-gaussian", "one precision per block"),
    ("prior.update=mackay", "--set prior.update=mackay"),
    ("network.input=[3, 32, 32]", "network.input", "[1, 32, 32]", "[3, 32, 32]"),
    ("network.inputs=[1]", "inputs", '"input"'), ("network.layer=[]", "layer", "at least one"),
    ("network.layer=[{type='lineer', out='classes'}]", "layer[0]", "lineer", '"linear"'),
    ("network.layer=[{type='flatten'}, {type='linear', out=10, bais=true}]", "layer[1]", '"bias"'),
    ("network.layer=[{type='flatten'}, {type='linear', out='clases'}]", "layer[1]", '"classes"'),
    ("network.layer=[{type='flatten'}, {type='linear', out=3}]", "label", "3"),
    ("train.epochs.x=1", "train.epochs"), ("train", "KEY=VALUE"),
]


LILA = """report = false
tasks = ["rotated"]
controls = ["none", "augerino"]
[data]
train = 100
test = 100
scaling = "pixel"
[train]
epochs = 5
batch = 25
burn_in = 1
test_samples = 100
evaluation_batch = 50
[train.refresh]
samples = 100
check_samples = 50
check_draws = 2
final_fisher = "sketch"
[train.hyper]
samples = 40
[prior]
hold = 0
settle = 1
ramp = 1.0
[augmentation]
copies = 2
rotation = 0.2
learn = ["rotation"]
[network]
input = [1, 8, 8]
layer = [{ type = "flatten" }, { type = "linear", out = 8 }, { type = "tanh" },
         { type = "linear", out = "classes" }]
[variant.none]
title = "none of it"
augmentation = { copies = 0 }
[variant.augerino]
prior = { update = "none" }
train = { hyper = { score = "loss", penalty = 0.01 } }
"""


class Augmentation(Case):
    def test_ranges_are_learnt_recorded_and_resumed(self):
        (scratch / "lila.toml").write_text(LILA, encoding="utf-8")
        folder = self.out / "rotated-quick-seed1"
        done = run("--json", out=self.out, config=scratch / "lila.toml")
        self.assertEqual(done.returncode, 0, done.stderr)
        table = json.loads(done.stdout)["rotated"]
        learnt = table["evidence/symmetry/augmentation.rotation"]["mean"]
        self.assertNotEqual(learnt, 0.2)
        self.assertEqual(table["evidence/symmetry/augmentation.shear"]["mean"], 0)
        self.assertNotIn("none/symmetry/augmentation.rotation", table)
        with h5py.File(folder / "run.h5") as file:
            self.assertEqual(abs(file["blocks/augmentation.rotation"][-1]), learnt)
            self.assertEqual(file["blocks/augmentation.rotation"][0], 0.2)
            self.assertNotEqual(file["controls/augerino/blocks/augmentation.rotation"][-1], 0.2)
            self.assertNotIn("controls/none/blocks/augmentation.rotation", file)
        with xr.open_dataset(folder / "run.h5", group="blocks", engine="h5netcdf") as blocks:
            self.assertEqual(blocks["augmentation.rotation"].dims, ("epoch",))
        expected = record(folder)
        shutil.rmtree(self.out)
        process = subprocess.Popen(words(out=self.out, config=scratch / "lila.toml"),
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                   env=environment(), cwd=scratch)
        for _ in range(2):
            wait_for_new(folder / "state.pt", process)
        process.kill()
        process.wait()
        done = run("--resume", out=self.out, config=scratch / "lila.toml")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("none of it", done.stdout)
        self.assertIn("augmentation.rotation", done.stdout)
        self.assertEqual(record(folder), expected)

    def test_what_cannot_be_is_refused(self):
        (scratch / "lila.toml").write_text(LILA, encoding="utf-8")
        for setting, *expected in (
                ("augmentation.learn=['rotatoin']", "augmentation.learn", "rotation"),
                ("augmentation.copies=-1", "augmentation.copies"),
                ("train.flip_crop=true", "train.flip_crop", "augmentation.copies"),
                ("variant.none.prio={lean=1.0}", "variant.none", "prior"),
                ("variant.none.prior.lena=1", "variant.none", "lean"),
                ("controls=['augernio']", "augernio", "augerino"),
                ("tasks=['rotatd']", "rotatd", "rotated"),
                ("pathways=['conv']", "pathways", "no sum"),
                ("data.set='cifar10'", "cifar10") if not (DATA / "cifar10").exists() else
                ("train.hyper.lr=0", "train.hyper.lr")):
            with self.subTest(setting):
                self.refused(run("--set", setting, "--quiet", out=self.out,
                                 config=scratch / "lila.toml"), USAGE, *expected)


class Configurations(Case):
    def test_every_preset_of_every_file_is_one_that_runs(self):
        files = [file for file in sorted((DATA.parent / "experiments").glob("*/*.toml"))
                 if (file.parent / f"{file.parent.name}.cpp").is_file()]  # of a program
        self.assertEqual({file.parent.name for file in files}, {"layerwise", "steerable"})
        for file in files:
            for preset in ("quick", "reduced", "paper"):
                with self.subTest(f"{file.name} {preset}"):
                    done = program(file.parent.name, "--dry-run", "--preset", preset, "--config", file)
                    self.assertEqual(done.returncode, 0, done.stderr)

    def test_a_regression_has_its_error_and_its_noise_in_every_file(self):
        vectors = DATA.parent / "experiments" / "steerable" / "vectors.toml"
        flags = ("--config", vectors, "--set", "data.train=200", "--set", "data.test=100", "--set",
                 "train.epochs=6", "--set", "train.noise.start=0.25", "--set", "prior.hold=0", "--set",
                 "prior.settle=0", "--set", "prior.ramp=1", "--set", "report=false", "--threads", "1", "--out", self.out)
        done = program("steerable", *flags, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        table = json.loads(done.stdout)["cosine"]
        self.assertNotIn("evidence/accuracy", table)
        for training in ("evidence", "strict"):
            self.assertGreater(table[f"{training}/rmse"]["mean"], 0)
            self.assertNotEqual(table[f"{training}/noise"]["mean"], 0.25)
        self.assertIn("test RMSE", (self.out / "summary-quick.md").read_text("utf-8"))
        with h5py.File(self.out / "cosine-quick-seed1" / "run.h5") as file:
            self.assertEqual(file["trace/noise"][0], 0.25)
            self.assertEqual(file["trace/noise"][-1], table["evidence/noise"]["mean"])
            self.assertTrue(np.isfinite(file["trace/test_rmse"][()]).all())
            self.assertNotIn("test_accuracy", file["trace"])
        done = program("steerable", *flags, "--resume")
        self.assertIn(f"RMSE {table['evidence/rmse']['mean']:.4f}", done.stdout)
        self.refused(program("steerable", *flags[:-1], self.out / "other", "--set",
                             "data.set=mnist"), USAGE, "norm", "mnist", "vectors")
        self.refused(program("steerable", *flags[:-1], self.out / "other", "--set",
                             "train.noise.start=0"), USAGE, "train.noise.start")

    def test_volumes_of_medmnist_are_asked_for_by_name(self):
        solids = DATA.parent / "experiments" / "steerable" / "solids.toml"
        flags = ("--config", solids, "--set", "data.set=organmnist3d", "--set", "data.train=971",
                 "--set", "data.test=610", "--data-root", scratch, "--out", self.out)
        upright = ("--set", "tasks=['upright']")
        self.assertEqual(program("steerable", *flags, *upright, "--dry-run").returncode, 0)
        self.refused(program("steerable", *flags, *upright), USAGE, "medmnist/organmnist3d.npz",
                     "data/fetch organmnist3d", "--data-root")
        self.refused(program("steerable", *flags), USAGE, "rotated", "organmnist3d", "upright")
        (scratch / "medmnist").mkdir()
        (scratch / "medmnist" / "organmnist3d.npz").write_bytes(b"PK\3\4")
        self.refused(program("steerable", *flags, *upright), IO, "organmnist3d.npz", "truncated")

    def test_each_program_has_a_file_of_its_own_to_begin_with(self):
        for name, first in (("layerwise", "layerwise"), ("steerable", "degree")):
            done = program(name, "--dry-run", "--json")
            self.assertEqual(done.returncode, 0, done.stderr)
            file = DATA.parent / "experiments" / name / f"{first}.toml"
            config = json.loads(done.stdout)["config"]
            self.assertEqual(config["network"]["layer"], tomllib.loads(file.read_text("utf-8"))["network"]["layer"])
            self.assertIn(f"experiments/{name}/{first}.toml", program(name, "--help").stdout)
            self.assertTrue(program(name, "--version").stdout.startswith(f"{name} "))


SWEEP = """title = "Two and a wrong one"
out = "{out}"
seeds = [1, 2]
[[run]]
name = "lila"
config = "{config}"
[[run]]
name = "wrong"
config = "{config}"
seeds = [1]
set = ["train.epochs=0"]
"""


class Sweep(Case):
    def test_the_table_has_means_over_seeds_and_names_what_is_not_finished(self):
        scripts = DATA.parent / "experiments" / "sweep"
        (scratch / "lila.toml").write_text(LILA, encoding="utf-8")
        file = scratch / "two.toml"
        file.write_text(SWEEP.format(out=self.out, config=scratch / "lila.toml"), encoding="utf-8")
        sys.path.insert(0, str(scripts))
        import sweep
        jobs = sweep.read(file)["jobs"]
        self.assertEqual([(job["name"], job["seed"]) for job in jobs],
                         [("lila", 1), ("lila", 2), ("wrong", 1)])
        values = []
        for job in jobs:
            folder = self.out / job["name"]
            folder.mkdir(parents=True, exist_ok=True)
            done = subprocess.run([str(args.layerwise), *job["words"], "--out", str(folder),
                                   "--json", "--resume"], capture_output=True, text=True,
                                  env=environment(), cwd=scratch, check=False)
            stem = folder / f"seed{job['seed']}"
            stem.with_suffix(".log").write_text(done.stderr, encoding="utf-8")
            if done.returncode == 0:
                stem.with_suffix(".json").write_text(done.stdout, encoding="utf-8")
                values.append(json.loads(done.stdout)["rotated"]["evidence/nll"]["mean"])
        done = subprocess.run([sys.executable, str(scripts / "collect.py"), str(file)],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 1, done.stderr)
        self.assertIn("wrong seed 1 is not finished: error: ", done.stderr)
        self.assertIn("train.epochs", (self.out / "table.md").read_text("utf-8"))
        with xr.open_dataset(self.out / "table.h5", group="table", engine="h5netcdf") as table:
            row = table.sel(row="lila/rotated/evidence/nll")
            self.assertAlmostEqual(float(row["mean"]), np.mean(values), 12)
            self.assertAlmostEqual(float(row["std"]), np.std(values, ddof=1), 12)
            self.assertEqual(int(row["seeds"]), 2)
        for old, new, expected in (("seeds = [1]", "sed = 1", "sed"), ("seeds = [1]", "seeds = 1", "list"),
                                   ("seeds = [1]", "seeds = [2, 2]", "different"),
                                   ('"wrong"', '"../wrong"', "name"), ('"wrong"', '"lila"', "twice"),
                                   ('set = ["', 'set = "', None), ("{config}", "none.toml", "no such")):
            with self.subTest(new):
                text = SWEEP.replace(old, new)
                if expected is None:
                    text, expected = text.replace('epochs=0"]', 'epochs=0"'), "KEY=VALUE"
                file.write_text(text.format(out=self.out, config=scratch / "lila.toml"), "utf-8")
                with self.assertRaisesRegex(sweep.SweepError, expected):
                    sweep.read(file)


ONLY_FC = ("network.layer=[{type='sum', of=[{type='fc', out=1, stride=4}]}, {type='flatten'}, "
           "{type='linear', out='classes'}]")


class Wrong(Case):
    def test_keys_and_values_are_refused_with_the_nearest_name(self):
        for setting, *expected in WRONG:
            with self.subTest(setting):
                lines = self.refused(run("--set", setting, "--quiet", out=self.out), USAGE, *expected)
                self.assertEqual(len(lines), 1)

    def test_flags_and_files_are_refused(self):
        (scratch / "bad.toml").write_text("seed = 1\n[train\nepochs = 3\n", encoding="utf-8")
        for flags, *expected in ((["--preset", "quik"], '"quick"'), (["--resum"], "--resume"),
                                 (["--set", "controls=['conv']", "--set", ONLY_FC], "conv", "pathway"),
                                 (["--device", "cuda:99"], "--device cuda:99"),
                                 (["--resume", "--force"], "--resume", "--force"),
                                 (["--config", "none.toml"], "none.toml"),
                                 (["--config", "bad.toml"], "bad.toml:2"),
                                 (["--seed", "one"], "--seed", "one")):
            with self.subTest(" ".join(flags)):
                lines = self.refused(run(*flags, "--quiet", out=self.out), USAGE, *expected)
                self.assertEqual(len(lines), 1)
        self.assertFalse(self.out.exists())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--layerwise", required=True, type=Path, help="build/bin/layerwise")
    parser.add_argument("--kills", type=int, default=4)
    parser.add_argument("--random-seed", type=int, default=random.SystemRandom().randrange(10**6))
    args, names = parser.parse_known_args()
    args.layerwise = args.layerwise.resolve()
    unittest.main(argv=[sys.argv[0], *names])
