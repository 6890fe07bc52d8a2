"""The table of a sweep: every number of every finished run, over its seeds.

    python experiments/sweep/collect.py SWEEP.toml

Writes OUT/table.md and OUT/table.h5, whose group `/table` has one row per number (`row`, "RUN/TASK/
MEMBER/QUANTITY") with `mean`, `std` (of one seed: NaN) and `seeds`. Exit code 1 where a run is not
finished; its name and what it said last go to stderr.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
import sweep

# Columns of the Markdown table, those that some run has; the HDF5 file has all.
SHOWN = ("accuracy", "rmse", "nll", "log_evidence_per_datum", "newton_decrement",
         "linearised_gap", "believable")


def last_line(file):
    try:
        lines = file.read_text("utf-8", "replace").strip().splitlines()
    except OSError:
        return "never started"
    return lines[-1] if lines else "it was killed"


def read_jobs(found):
    """{row: [value per seed]} and [(job, what it said)] of the unfinished."""
    values, unfinished = {}, []
    for job in found["jobs"]:
        stem = found["out"] / job["name"] / f"seed{job['seed']}"
        label = f"{job['name']} seed {job['seed']}"
        try:
            text = stem.with_suffix(".json").read_text("utf-8")
            tables = json.loads(text or "{}")
        except FileNotFoundError:
            text = ""
        if not text:  # a job that is killed leaves its output empty
            unfinished.append((label, last_line(stem.with_suffix(".log"))))
            continue
        for task, rows in tables.items():
            for row, number in rows.items():
                mean = number["mean"]
                values.setdefault(f"{job['name']}/{task}/{row}", []).append(
                    float("nan") if mean is None else mean)
    return values, unfinished


def spread(numbers):
    return float(np.std(numbers, ddof=1)) if len(numbers) > 1 else float("nan")


def write_hdf5(file, values):
    rows = list(values)
    handle, scratch = tempfile.mkstemp(dir=file.parent, suffix=".h5")
    os.close(handle)
    with h5py.File(scratch, "w") as out:
        group = out.create_group("table")
        names = group.create_dataset("row", data=rows, dtype=h5py.string_dtype())
        names.make_scale("row")
        for name, data in (("mean", [np.mean(values[r]) for r in rows]),
                           ("std", [spread(values[r]) for r in rows]),
                           ("seeds", [len(values[r]) for r in rows])):
            group.create_dataset(name, data=np.array(data)).dims[0].attach_scale(names)
    os.replace(scratch, file)


def text(numbers, digits=3):
    mean = np.mean(numbers)
    return f"{mean:.{digits}f}" if len(numbers) == 1 else f"{mean:.{digits}f} ± {spread(numbers):.{digits}f}"


def markdown(title, values, unfinished):
    trainings = {}
    for row in values:
        run, task, member, rest = row.split("/", 3)
        trainings.setdefault((run, task, member), {})[rest] = values[row]
    shown = [q for q in SHOWN if any(q in numbers for numbers in trainings.values())]
    lines = [f"# {title}", "", "| run | task | training | seeds | " + " | ".join(shown) + " |",
             "|" + "---|" * (4 + len(shown))]
    for (run, task, member), numbers in trainings.items():
        cells = [text(numbers[q]) if q in numbers else "–" for q in shown]
        count = len(next(iter(numbers.values())))
        lines.append(f"| {run} | {task} | {member} | {count} | " + " | ".join(cells) + " |")
    learnt = [(key, name[len("symmetry/"):], v) for key, numbers in trainings.items()
              for name, v in numbers.items() if name.startswith("symmetry/")]
    if learnt:
        lines += ["", "| run | task | training | learnt | value |", "|" + "---|" * 5]
        lines += [f"| {' | '.join(key)} | {name} | {text(v)} |" for key, name, v in learnt]
    if unfinished:
        lines += ["", "Not finished:", ""]
        lines += [f"- {label}: {said}" for label, said in unfinished]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sweep")
    try:
        found = sweep.read(parser.parse_args().sweep)
    except sweep.SweepError as error:
        sys.exit(f"collect: {error}")
    values, unfinished = read_jobs(found)
    found["out"].mkdir(parents=True, exist_ok=True)
    if values:
        write_hdf5(found["out"] / "table.h5", values)
    table = markdown(found["title"], values, unfinished)
    (found["out"] / "table.md").write_text(table, "utf-8")
    print(table, end="")
    print(f"table      {found['out'] / 'table.h5'}" if values else "no run is finished")
    for label, said in unfinished:
        print(f"sweep: {label} is not finished: {said}", file=sys.stderr)
    return 1 if unfinished else 0


if __name__ == "__main__":
    sys.exit(main())
