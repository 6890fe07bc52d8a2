"""A tiny run of `layerwise`, and what its notebook makes of it: figure and report of the run and of
both tasks, run files that xarray opens as promised, and errors of one sentence.

    python tests/programs/notebook_test.py --layerwise build/bin/layerwise
"""

import argparse
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import xarray

ROOT = Path(__file__).resolve().parents[2]
RENDER = ROOT / "notebooks/render.py"
EPOCHS, CONTROLS = 5, ("map", "conv")

# 8 x 8 inputs: a K-FAC step needs at least as many images as the widest layer has inputs. Every
# second epoch refreshes, so that the evidence columns have gaps.
CONFIG = """
tasks = ["digit", "quadrant"]
controls = ["map", "conv"]
report = false
[train.refresh]
every = 2
samples = 0
check_samples = 0
final_fisher = "sketch"
[network]
input = [1, 32, 32]
layer = [
  { type = "avgpool", kernel = 4 },
  { type = "sum", of = [
    { type = "conv", out = 2, kernel = 3, stride = 2, padding = 1, padding_mode = "circular" },
    { type = "fc", out = 2, stride = 2 } ] },
  { type = "relu" },
  { type = "sum", of = [
    { type = "conv", out = 4, kernel = 3, stride = 2, padding = 1, padding_mode = "circular" },
    { type = "fc", out = 4, stride = 2 } ] },
  { type = "relu" },
  { type = "global_avgpool" },
  { type = "linear", out = "classes" },
]
"""
DEGREE = """
tasks = ["turned"]
controls = ["density"]
report = false
[train]
burn_in_lr = 0.01
[train.refresh]
samples = 0
check_samples = 0
[variant.density]
title = "a density"
network.input = [1, 12, 12]
network.layer = [
  { type = "steerable_conv", group = "C4", out = "2 regular", padding = 1, degree = 2, degree_start = 1 },
  { type = "relu" }, { type = "avgpool", kernel = 6 },
  { type = "steerable_conv", out = "4 trivial", kernel = 1, degree = 2 }, { type = "flatten" },
  { type = "linear", out = "classes" },
]
[network]
input = [1, 12, 12]
layer = [
  { type = "sum", of = [
    { type = "steerable_conv", group = "C4", out = "2 regular", padding = 1, isotypic = "(0)" },
    { type = "steerable_conv", group = "C4", out = "2 regular", padding = 1, isotypic = "(1)" } ] },
  { type = "relu" }, { type = "avgpool", kernel = 6 }, { type = "flatten" },
  { type = "linear", out = "classes" },
]
"""
TRACE = {"train_loss", "train_accuracy", "test_accuracy", "test_nll", "log_evidence",
         "log_likelihood", "log_det_ratio", "scatter", "newton_decrement", "linearised_gap",
         "believable", "learning_rate", "wall_seconds"}
BLOCKS = {"prior_precision", "effective_dimension", "parameters", "squared_norm"}
PATHWAYS = {"share_effective", "share_variance", "share_variance_map"}


def call(command, environment=None):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})})


def expect(condition, claim):
    if not condition:
        sys.exit(f"notebook_test: not so: {claim}")
    print(f"ok: {claim}")


def run_layerwise(program, scratch, out, *settings, config=CONFIG):
    file = scratch / "tiny.toml"
    file.write_text(config)
    values = ("data.train=300", "data.test=200", "train.batch=50", f"train.epochs={EPOCHS}",
              *settings)
    words = [word for value in values for word in ("--set", value)]
    done = call([program, "--config", file, "--out", out, "--threads", "1", "--quiet", *words])
    expect(done.returncode == 0, f"{program.name} runs into {out.name} {done.stderr[-500:]}")


def open_group(folder, group):
    return xarray.open_dataset(folder / "run.h5", group=group, engine="h5netcdf").load()


def check_run_file(folder):
    """Section 6 of the interface."""
    for prefix in ("", *(f"controls/{name}/" for name in CONTROLS)):
        trace, blocks = open_group(folder, prefix + "trace"), open_group(folder, prefix + "blocks")
        expect(TRACE <= set(trace.data_vars) and dict(trace.sizes) == {"epoch": EPOCHS},
               f"/{prefix}trace holds its columns over {EPOCHS} epochs")
        expect(BLOCKS <= set(blocks.data_vars) and set(blocks.sizes) == {"epoch", "block"}
               and "1.0.weight" in blocks["block"].values, f"/{prefix}blocks names the tensors")
    missing = np.isnan(open_group(folder, "trace")["log_evidence"].values)
    expect(missing.any() and not missing.all(), "evidence is NaN in epochs without a refresh only")
    pathways = open_group(folder, "pathways")
    expect(PATHWAYS == set(pathways.data_vars)
           and list(pathways["pathway"].values) == ["conv", "fc"], "/pathways names conv and fc")
    for name in PATHWAYS:
        sums = pathways[name].sum("pathway", skipna=False).values
        sums = sums[np.isfinite(sums)]
        expect(sums.size > 0 and np.allclose(sums, 1), f"{name} sums to 1 in each layer")
    table = open_group(folder, "table")
    expect({"mean", "std", "seeds"} <= set(table.data_vars)
           and {f"{name}/accuracy" for name in ("evidence", *CONTROLS)} <= set(table["row"].values),
           "/table has the accuracy of every training")


def check_made(folder):
    """The size in pixels of a PNG stands in bytes 16 to 24."""
    picture = (folder / "figure.png").read_bytes()
    expect(picture.startswith(b"\x89PNG"), f"{folder.name}/figure.png is a picture")
    page = (folder / "report.html").read_text()
    expect("data:image/png;base64" in page and "evidence/accuracy" in page
           and "xarray.open_dataset" in page.replace("</span>", "").replace('<span class="n">', "")
           .replace('<span class="o">', ""), f"{folder.name}/report.html shows figure, table, code")
    return struct.unpack(">II", picture[16:24])


def check_error(folders, code, words):
    done = call([sys.executable, RENDER, "--out", folders[0].parent / "none", *folders])
    line = done.stderr.strip()
    expect(done.returncode == code and line.count("\n") == 0 and all(w in line for w in words),
           f"exit code {code} and one line with {words}: {done.returncode} {line[-300:]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layerwise", type=Path, required=True)
    program = parser.parse_args().layerwise.resolve()
    with tempfile.TemporaryDirectory(prefix="evariste-notebook-") as folder:
        scratch = Path(folder)
        out, alone = scratch / "out", scratch / "alone"
        run_layerwise(program, scratch, out)
        run_layerwise(program, scratch, alone, 'tasks=["digit"]', "controls=[]")
        runs = [out / "digit-quick-seed1", out / "quadrant-quick-seed1"]
        for run in runs:
            check_run_file(run)

        degree = scratch / "degree"
        run_layerwise(program.with_name("steerable"), scratch, degree, config=DEGREE)
        done = call([sys.executable, RENDER, "--notebook", "degree", degree / "turned-quick-seed1"])
        expect(done.returncode == 0, f"the report of degrees is made {done.stderr[-1000:]}")
        made = degree / "turned-quick-seed1"
        page = (made / "report.html").read_text()
        expect((made / "figure.png").read_bytes().startswith(b"\x89PNG")
               and page.count('src="data:image/png;base64') == 2
               and "without learning" in page, "it shows figure, filters and what layers learned")

        bare = alone / "digit-quick-seed1"
        done = call([sys.executable, RENDER, "--out", out, *runs])
        expect(done.returncode == 0, f"the reports of both tasks are made {done.stderr[-1000:]}")
        sizes = [check_made(place) for place in (*runs, out)]
        expect(sizes[2][0] > 1.7 * sizes[0][0], "the common figure has the two tasks side by side")

        begun = scratch / "begun"
        begin(runs[0] / "run.h5", begun)
        done = call([sys.executable, RENDER, "--out", alone, bare, begun])
        expect(done.returncode == 0, "runs without controls or unfinished have reports too "
               + done.stderr[-1000:])
        check_made(bare)
        expect((begun / "figure.png").stat().st_size > 0, "also before the evidence run began")

        (begun / "run.h5").write_bytes((bare / "run.h5").read_bytes()[:1000])
        check_error([begun], 4, [str(begun / "run.h5"), "damaged"])
        check_error([scratch / "nothing"], 2, [str(scratch / "nothing/run.h5")])


def begin(finished, folder):
    """The file a run would have left while its MAP control was training."""
    import h5py
    folder.mkdir()
    shutil.copy(finished, folder / "run.h5")
    with h5py.File(folder / "run.h5", "r+") as file:
        for group in ("trace", "blocks", "pathways", "table", "controls/conv"):
            del file[group]
        file.attrs["status"] = "running"


if __name__ == "__main__":
    main()
