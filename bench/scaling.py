"""Time and memory of the evidence against samples, parameters, classes, width, depth and batch.

    ./evariste bench scaling [--structures kron diag lastlayer] [--axes N P C] [--figure FILE]

Runs the program `evidence` on random networks and data, one axis at a time, one thread: N samples,
P parameters, C classes, W the width of hidden layers, L how many there are, B samples in a chunk.
Prints per structure the process's CPU seconds and peak memory, and the slopes of their logarithms
over log size since the size before: 1 is linear. Seconds and memory of the smallest problem there
is, which are torch's, are taken off for time and slopes. Sizes that the program refuses for want of
memory are named so.
"""

import argparse
import datetime
import json
import math
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "python"))
# What the others are while one runs through its sizes; W follows from P where it is not given.
BASE = {"N": {"P": 200_000, "C": 10}, "P": {"N": 4000, "C": 10}, "C": {"N": 250, "P": 50_000},
        "W": {"N": 4000, "C": 10}, "L": {"N": 4000, "C": 10, "W": 128},
        "B": {"N": 4000, "C": 10, "P": 200_000}}
SIZES = {"N": [1000, 4000, 16000, 60000], "P": [10_000, 100_000, 1_000_000, 10_000_000],
         "C": [2, 10, 100, 1000], "W": [64, 256, 1024, 2048], "L": [2, 4, 8, 16],
         "B": [10, 50, 250, 1000]}
NAMES = {"N": "samples N", "P": "parameters P", "C": "classes C", "W": "width W", "L": "depth L",
         "B": "samples in a chunk B"}
INPUTS = 256


def hidden_width(parameters, classes):
    """Two hidden layers of one width w: 256 w + w^2 + C w weights, about."""
    b = INPUTS + classes
    return max(2, round((-b + math.sqrt(b * b + 4 * parameters)) / 2))


def make_case(folder, sizes):
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    width = sizes.get("W") or hidden_width(sizes["P"], sizes["C"])
    layers = [INPUTS] + [width] * sizes.get("L", 2) + [sizes["C"]]
    text, weights = [], {}
    for i, (inputs, outputs) in enumerate(zip(layers, layers[1:])):
        text.append(f'{{ type = "linear", out = {outputs} }}')
        linear = torch.nn.Linear(inputs, outputs)
        weights |= {f"{2 * i}.{name}": value.detach() for name, value in linear.named_parameters()}
        if i < len(layers) - 2:
            text.append('{ type = "relu" }')
    (folder / "net.toml").write_text(f"input = [{INPUTS}]\nlayer = [{', '.join(text)}]\n")
    save_file(weights, folder / "w.safetensors")
    n = sizes["N"]
    save_file({"x": torch.randn(n, INPUTS), "y": torch.randint(sizes["C"], (n,))},
              folder / "d.safetensors")
    return sum(w.numel() for w in weights.values())


def run(program, folder, structure, fisher, batch=250):
    """CPU seconds and peak MiB of one process, or the reason why it did not run."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [program, "--network", folder / "net.toml", "--weights", folder / "w.safetensors", "--data",
         folder / "d.safetensors", "--structure", structure, "--fisher", fisher, "--checks", "off",
         "--batch", str(batch), "--threads", "1", "--json", "--quiet"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != 0:
        return done.stderr.strip().splitlines()[-1]
    used = (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)
    return used, json.loads(done.stdout)["peak_rss_bytes"] / 2**20


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--structures", nargs="+", default=["kron", "diag", "lastlayer"])
    parser.add_argument("--axes", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--largest", type=int, default=4, help="how many sizes of each axis")
    parser.add_argument("--fisher", default="exact")
    parser.add_argument("--figure", type=Path, help="draws time and memory, PNG")
    parser.add_argument("--program", type=Path, default=ROOT / "build/bin/evidence")
    options = parser.parse_args()
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {platform.processor() or platform.machine()}, 1 thread, "
          f"fisher {options.fisher}\n")
    print("| structure | axis | size | others | CPU seconds | peak MiB | slope of time | "
          "of memory |\n|---|---|---|---|---|---|---|---|", flush=True)
    curves = {}
    with tempfile.TemporaryDirectory(prefix="evariste-scaling-") as scratch:
        folder = Path(scratch)
        make_case(folder, {"N": 1, "P": 1000, "C": 2})
        torchs = [min(values) for values in
                  zip(*(run(options.program, folder, "diag", "exact") for _ in range(3)))]
        for axis in options.axes:
            for size in SIZES[axis][:options.largest]:
                sizes = {**BASE[axis], axis: size}
                others = ", ".join(f"{k} = {v}" for k, v in BASE[axis].items())
                parameters = make_case(folder, sizes)
                for structure in options.structures:
                    points = curves.setdefault((structure, axis), [])
                    answer = run(options.program, folder, structure, options.fisher,
                                 sizes.get("B", 250))
                    start = f"| {structure} | {axis} | {size} | {others} |"
                    if isinstance(answer, str):
                        print(f"{start} {answer} | | | |", flush=True)
                        continue
                    point = [parameters if axis == "P" else size,
                             *(max(a - t, 1e-3) for a, t in zip(answer, torchs))]
                    slopes = ["", ""]
                    if points:
                        step = math.log(point[0] / points[-1][0])
                        slopes = [f"{math.log(y / before) / step:.2f}"
                                  for y, before in zip(point[1:], points[-1][1:])]
                    points.append(point)
                    print(f"{start} {point[1]:.3g} | {answer[1]:.0f} | {slopes[0]} | "
                          f"{slopes[1]} |", flush=True)
    if options.figure:
        draw(curves, options.figure)


def draw(curves, path):
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    axes = list(dict.fromkeys(axis for _, axis in curves))
    figure, grid = pyplot.subplots(2, len(axes), figsize=(3.4 * len(axes), 5), squeeze=False)
    for (structure, axis), points in curves.items():
        column = axes.index(axis)
        for row, index in ((0, 1), (1, 2)):
            grid[row][column].loglog([p[0] for p in points], [p[index] for p in points], "o-",
                                     label=structure)
    for column, axis in enumerate(axes):
        grid[1][column].set_xlabel(NAMES[axis])
    grid[0][0].set_ylabel("CPU seconds")
    grid[1][0].set_ylabel("memory above torch's [MiB]")
    grid[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
