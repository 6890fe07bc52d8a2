"""Wrong use of `evidence`: every case ends with the exit code of the contract and one sentence on
stderr that says what was found; nothing on stdout, no stack trace, no word of torch's inside.

    python tests/programs/evidence_failures.py --evidence build/bin/evidence
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

USAGE, NUMERICAL, IO = 2, 3, 4
INTERNALS = ("c10", "at::", "Exception raised", "terminate", "Traceback", "internal error")

NETWORK = """input = [2, 4, 4]
layer = [
  { type = "conv", out = 4, kernel = 3, groups = 2 },
  { type = "relu" },
  { type = "flatten" },
  { type = "linear", out = 3 },
]
"""
CONV = '{ type = "conv", out = 4, kernel = 3, groups = 2 }'


def weights():
    draw = np.random.default_rng(0)
    return {"0.weight": draw.normal(size=(4, 1, 3, 3)).astype(np.float32),
            "0.bias": np.zeros(4, np.float32),
            "3.weight": draw.normal(size=(3, 16)).astype(np.float32),
            "3.bias": np.zeros(3, np.float32)}


def data():
    draw = np.random.default_rng(1)
    return {"x": draw.normal(size=(6, 2, 4, 4)).astype(np.float32), "y": np.arange(6) % 3}


def targets():
    return {"x": data()["x"], "y": np.full((6, 3), 0.5, np.float32)}


# Cases by what they change; each ends with words that the message must say.

NETWORK_FILES = {  # text of the network file -> words
    "does not parse": ("input = [2, 4, 4\nlayer = 3", ["net.toml:2"]),
    "no input": (NETWORK.replace("input", "inputs"), ["input"]),
    "size 0": (NETWORK.replace("[2, 4, 4]", "[2, 0, 4]"), ["net.toml", "input"]),
    "4-D input": (NETWORK.replace("[2, 4, 4]", "[2, 4, 4, 4]"), ["net.toml", "input"]),
    "no layers": ("input = [2, 4, 4]\nlayer = []", ["layer"]),
    "layer no list": ('input = [2]\nlayer = "linear"', ["layer", "a list", "a string"]),
    "layer no table": ("input = [2]\nlayer = [3]", ["layer[0]", "a table", "an integer"]),
    "unknown key at the top": (NETWORK + "output = 3\n", ["output"]),
    "unknown type": (NETWORK.replace('"relu"', '"rellu"'), ["layer[1]", "rellu", '"relu"']),
    "no type": (NETWORK.replace('type = "relu"', ""), ["layer[1]", "type"]),
    "unknown key": (NETWORK.replace("kernel", "kernal"), ["layer[0]", "kernel"]),
    "no width": (NETWORK.replace(", out = 3", ""), ["layer[3]", "out"]),
    "width a string": (NETWORK.replace("out = 3", 'out = "three"'), ["layer[3]", "out", "a string"]),
    "width too large": (NETWORK.replace("out = 3", "out = 99999999999"), ["layer[3]", "too large"]),
    "width 0": (NETWORK.replace("out = 3", "out = 0"), ["layer[3]", "at least 1"]),
    "kernel a fraction": (NETWORK.replace("kernel = 3", "kernel = 2.5"), ["layer[0]", "kernel"]),
    "kernel of 3 numbers": (NETWORK.replace("kernel = 3", "kernel = [3, 3, 3]"),
                            ["layer[0]", "kernel"]),
    "kernel too large": (NETWORK.replace("kernel = 3", "kernel = 5"), ["layer[0]", "[2, 4, 4]"]),
    "stride 0": (NETWORK.replace("kernel = 3", "kernel = 3, stride = 0"), ["layer[0]", "stride"]),
    "bias a number": (NETWORK.replace("kernel = 3", "kernel = 3, bias = 1"), ["layer[0]", "bias"]),
    "padding mode": (NETWORK.replace("kernel = 3", 'kernel = 3, padding_mode = "circulr"'),
                     ["layer[0]", '"circular"']),
    "groups do not divide": (NETWORK.replace("groups = 2", "groups = 3"), ["layer[0]", "groups"]),
    "linear on an image": (NETWORK.replace('  { type = "flatten" },\n', ""), ["layer[2]", "flatten"]),
    "conv on a vector": (NETWORK.replace('"relu"', '"flatten"').replace(
        '{ type = "linear", out = 3 }', CONV), ["layer[3]", "[C, H, W]"]),
    "image at the end": ("input = [2, 4, 4]\nlayer = [" + CONV + "]", ["[4, 2, 2]", "flatten"]),
    "residual of other shape": (NETWORK.replace(
        '{ type = "relu" }', '{ type = "residual", layer = [ { type = "maxpool", kernel = 2 } ] }'),
        ["layer[1]", "[4, 2, 2]", "[4, 1, 1]"]),
    "pathways of other shapes": (NETWORK.replace(
        '{ type = "relu" }', '{ type = "sum", of = [ { type = "relu" }, '
        '{ type = "fc", out = 5 } ] }'), ["layer[1]", "[5, 2, 2]", "[4, 2, 2]"]),
    "wrong inside a pathway": (NETWORK.replace(
        '{ type = "relu" }', '{ type = "sum", of = [ { type = "relu" }, { type = "fk" } ] }'),
        ["layer[1].of[1]", "fk"]),
    "nothing to learn": ('input = [3]\nlayer = [ { type = "relu" } ]', ["net.toml", "parameters"]),
}

WEIGHTS = {  # changes of the weights -> words
    "missing": ({"3.bias": None}, ["w.safetensors", '"3.bias"', "[3]"]),
    "extra": ({"3.weigth": np.zeros(2, np.float32)}, ["w.safetensors", "3.weigth", '"3.weight"']),
    "shape": ({"3.weight": np.zeros((3, 15), np.float32)}, ["[3, 16]", "[3, 15]"]),
    "NaN": ({"0.bias": np.full(4, np.nan, np.float32)}, ["w.safetensors", '"0.bias"', "NaN"]),
}

DATA = {  # changes of the data -> words
    "no x": ({"x": None}, ["d.safetensors", '"x"']),
    "no y": ({"y": None}, ["d.safetensors", '"y"']),
    "extra": ({"z": np.zeros(2, np.float32)}, ["d.safetensors", '"z"']),
    "x of another shape": ({"x": np.zeros((6, 1, 4, 4), np.float32)},
                           ["d.safetensors", "[N, 2, 4, 4]", "[6, 1, 4, 4]"]),
    "x flat": ({"x": np.zeros((6, 32), np.float32)}, ["[N, 2, 4, 4]", "[6, 32]"]),
    "x a scalar": ({"x": np.array(1, np.float32)}, ["[N, 2, 4, 4]", "[]"]),
    "x integers": ({"x": np.zeros((6, 2, 4, 4), np.int64)}, ["d.safetensors", '"x"', "floating"]),
    "x NaN": ({"x": np.full((6, 2, 4, 4), np.nan, np.float32)}, ['"x"', "NaN", "192"]),
    "x infinite": ({"x": np.full((6, 2, 4, 4), np.inf, np.float32)}, ['"x"', "infinite"]),
    "no samples": ({"x": np.zeros((0, 2, 4, 4), np.float32), "y": np.zeros(0, np.int64)},
                   ["d.safetensors", "no samples"]),
    "fewer labels": ({"y": np.zeros(5, np.int64)}, ['"y"', "6", "[5]"]),
    "label too large": ({"y": np.full(6, 3)}, ["d.safetensors", "0..2", "3"]),
    "label negative": ({"y": np.full(6, -1)}, ["0..2", "-1"]),
    "labels in columns": ({"y": np.zeros((6, 1), np.int64)}, ["int64 [N]", "[6, 1]"]),
    "labels float": ({"y": np.zeros(6, np.float32)}, ["d.safetensors", "int64"]),
    "unknown dtype": ({"y": np.zeros(6, np.int16)}, ["d.safetensors", "I16", "I64"]),
}

TARGETS = {  # (likelihood, y) -> words
    "regression with classes": ("regression", data()["y"], ["d.safetensors", "[N, 3]"]),
    "regression, width": ("regression", np.zeros((6, 2), np.float32), ["[N, 3]", "[6, 2]"]),
    "regression, NaN": ("regression", np.full((6, 3), np.nan, np.float32), ['"y"', "NaN"]),
    "bernoulli above 1": ("bernoulli", np.full((6, 3), 1.5, np.float32), ["[0, 1]"]),
}

FLAGS = {  # flags after the good ones -> words
    "unknown flag": (["--structur", "kron"], ["--structur", "--structure"]),
    "stray word": (["kron"], ["kron"]),
    "value missing": (["--structure"], ["--structure"]),
    "unknown structure": (["--structure", "kronn"], ["--structure", '"kron"']),
    "ekfac reduce": (["--structure", "ekfac", "--sharing", "reduce"], ["--sharing", "ekfac", "kron"]),
    "ekfac plain": (["--structure", "ekfac", "--correction", "none"], ["--correction", "ekfac"]),
    "ekfac diagonal": (["--structure", "ekfac", "--prior", "diagonal"], ["diagonal", "ekfac"]),
    "lowrank drawn": (["--structure", "lowrank", "--fisher", "mc"], ["--fisher", "lowrank"]),
    "lowrank polished": (["--structure", "lowrank", "--polish", "2"], ["--polish", "lowrank"]),
    "lowrank without rank": (["--structure", "lowrank", "--rank", "0"], ["--rank", "at least 1"]),
    "rank of another": (["--rank", "5"], ["--rank", "lowrank"]),
    "unknown likelihood": (["--likelihood", "regresion"], ['"regression"']),
    "kron with a diagonal prior": (["--prior", "diagonal"], ["diagonal", "kron", "--structure diag"]),
    "precision 0": (["--prior-precision", "0"], ["--prior-precision", "positive", "0"]),
    "precision no number": (["--prior-precision", "one"], ["--prior-precision", "one"]),
    "too few precisions": (["--prior-precision", "1", "2"], ["4 blocks", "0.weight", "found 2"]),
    "a scalar prior of two": (["--prior", "scalar", "--prior-precision", "1", "2"],
                              ["scalar", "found 2"]),
    "temperature 0": (["--temperature", "0"], ["--temperature", "positive"]),
    "noise NaN": (["--noise", "nan"], ["--noise", "nan"]),
    "noise negative": (["--noise", "-1"], ["--noise", "-1"]),
    "batch 0": (["--batch", "0"], ["--batch", "at least 1"]),
    "batch a fraction": (["--batch", "2.5"], ["--batch", "2.5"]),
    "repeat 0": (["--repeat", "0"], ["--repeat"]),
    "polish negative": (["--polish", "-1"], ["--polish"]),
    "no draws": (["--mc-samples", "0"], ["--mc-samples"]),
    "reduce with expand": (["--sharing", "reduce", "--bias", "expand"], ["reduce", "expand"]),
    "sharing of no factors": (["--structure", "diag", "--sharing", "reduce"],
                              ["--sharing reduce", "--structure diag", "--structure kron"]),
    "positions of no factors": (["--structure", "full", "--positions", "all"],
                                ["--positions all", "--structure full"]),
    "correction of no factors": (["--structure", "lastlayer", "--correction", "none"],
                                 ["--correction none", "--structure lastlayer"]),
    "bias of no factors": (["--structure", "diag", "--bias", "expand"],
                           ["--bias expand", "--structure diag"]),
    "norm of no factors": (["--structure", "full", "--norm", "joint"],
                           ["--norm joint", "--structure full"]),
    "grouped with expand": (["--bias", "expand"], ["0.", "grouped", "expand"]),
    "noise of classes": (["--fit-noise", "on"], ["--fit-noise", "regression"]),
    "device": (["--device", "cuda:99"], ["--device cuda:99"]),
    "device unknown": (["--device", "gpu"], ["--device", "gpu"]),
    "threads": (["--threads", "many"], ["--threads", "many"]),
    "config missing": (["--config", "none.toml"], ["none.toml"]),
    "set without config": (["--set", "batch=3"], ["--set", "--config"]),
    "save into no folder": (["--save", "nowhere/p.h5"], ["nowhere"]),
    "save on a folder": (["--save", "."], ["folder"]),
    "resume and force": (["--resume", "--force"], ["--resume", "--force"]),
    "test missing": (["--test", "t.safetensors"], ["t.safetensors", "no such file"]),
    "weights missing": (["--weights", "none.safetensors"], ["none.safetensors", "no such file"]),
    "network missing": (["--network", "none.toml"], ["none.toml", "no such"]),
    "network a folder": (["--network", "."], ["."]),
}


class Bench:
    """A folder with good files; each case changes one thing, runs, and puts it back."""

    def __init__(self, program, folder):
        self.program, self.folder = program, folder
        self.count, self.failed = 0, []
        self.write()

    def write(self, network=NETWORK, weight_changes=None, data_changes=None, base=None):
        (self.folder / "net.toml").write_text(network, encoding="utf-8")
        for name, tensors, changes in (("w", weights(), weight_changes),
                                       ("d", base or data(), data_changes)):
            tensors.update(changes or {})
            save_file({k: v for k, v in tensors.items() if v is not None},
                      str(self.folder / f"{name}.safetensors"))

    def expect(self, name, code, words, flags=(), stdout=subprocess.PIPE, good_flags=True):
        command = [self.program, "--json", "--threads", "1"]
        if good_flags:
            command += ["--network", "net.toml", "--weights", "w.safetensors", "--data",
                        "d.safetensors"]
        try:
            done = subprocess.run([*command, *flags], stdout=stdout, stderr=subprocess.PIPE,
                                  text=True, cwd=self.folder, check=False, timeout=60)
        except subprocess.TimeoutExpired:
            self.failed.append(f"{name}: did not end")
            return
        self.count += 1
        lines = done.stderr.strip().splitlines()
        wrong = []
        if done.returncode != code:
            wrong.append(f"exit {done.returncode}, expected {code}")
        if done.stdout:
            wrong.append("something on stdout")
        if code != 0 and len(lines) != 1:
            wrong.append(f"{len(lines)} lines on stderr, expected 1")
        wrong += [f'"{word}" is not said' for word in words if word not in done.stderr]
        wrong += [f'"{word}" is said' for word in INTERNALS if word in done.stderr]
        if wrong:
            self.failed.append(f"{name}: {'; '.join(wrong)}\n      {done.stderr.strip()[:400]}")


def damage(path, what):
    """A valid file made invalid."""
    content = path.read_bytes()
    path.write_bytes({"truncated": content[:-8], "empty": b"", "short": content[:5],
                      "no JSON": content[:8] + b"x" * 20 + content[28:],
                      "long header": b"\xff" * 7 + b"\x00" + content[8:],
                      "longer": content + b"1234"}[what])


def run_all(bench):
    for name, (text, words) in NETWORK_FILES.items():
        bench.write(network=text)
        bench.expect(f"network: {name}", USAGE, words)
    for name, (changes, words) in WEIGHTS.items():
        bench.write(weight_changes=changes)
        bench.expect(f"weights: {name}", USAGE, words)
    for name, (changes, words) in DATA.items():
        bench.write(data_changes=changes)
        bench.expect(f"data: {name}", USAGE, words)
    for name, (likelihood, y, words) in TARGETS.items():
        bench.write(base=targets(), data_changes={"y": y})
        bench.expect(f"data: {name}", USAGE, words, ["--likelihood", likelihood])
    for file in ("w", "d"):
        for what in ("truncated", "empty", "short", "no JSON", "long header", "longer"):
            bench.write()
            damage(bench.folder / f"{file}.safetensors", what)
            bench.expect(f"{file}.safetensors {what}", IO, [f"{file}.safetensors"])
    bench.write()
    for name, (flags, words) in FLAGS.items():
        bench.expect(f"flags: {name}", USAGE, words, flags)
    bench.expect("flags: none at all", USAGE, ["--network"], good_flags=False)
    for predictive in ("mc", "bridge"):
        bench.expect(f"flags: regression with {predictive}", USAGE, [predictive, "probit"],
                     ["--likelihood", "regression", "--predictive", predictive])
    bench.expect("flags: bernoulli with bridge", USAGE, ["bridge", "probit"],
                 ["--likelihood", "bernoulli", "--predictive", "bridge"])

    (bench.folder / "c.toml").write_text("bach = 3\n", encoding="utf-8")
    bench.expect("config: unknown key", USAGE, ["c.toml:1", "batch"], ["--config", "c.toml"])
    (bench.folder / "c.toml").write_text('structure = "kronn"\n', encoding="utf-8")
    bench.expect("config: unknown value", USAGE, ["c.toml:1", "kron"], ["--config", "c.toml"])
    (bench.folder / "p.h5").write_text("mine", encoding="utf-8")
    bench.expect("save: a file that is there", USAGE, ["p.h5", "--force"], ["--save", "p.h5"])
    if (bench.folder / "p.h5").read_text(encoding="utf-8") != "mine":
        bench.failed.append("save: the file that was there has changed")
    bench.write(weight_changes={"3.weight": np.full((3, 16), 3e38, np.float32)})
    bench.expect("weights that overflow", NUMERICAL, ["network outputs"])
    bench.write()
    with open("/dev/full", "w", encoding="utf-8") as full:
        bench.expect("a full disk on stdout", IO, ["standard output"], ["--quiet"], stdout=full)
    bench.expect("the good files", 0, [], ["--quiet", "--dry-run"], stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--evidence", required=True, type=Path, help="build/bin/evidence")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        bench = Bench(str(args.evidence.resolve()), Path(scratch))
        run_all(bench)
    for line in bench.failed:
        print("FAIL", line)
    print(f"{bench.count} cases, {len(bench.failed)} wrong")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main())
