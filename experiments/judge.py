"""Every evidence of trained networks, beside their test likelihood: does it rank them?

    python experiments/judge.py --evidence build/bin/evidence --out OUT RUNFOLDER...

Takes every training of runs of `layerwise --export-data` that has no augmentation, at its weights
and final precisions, and asks `evidence` for its log evidence by several curvatures and bounds. Writes
OUT/evidences.json, and prints two tables: for each kind its rank correlation with the test
log-likelihood over the networks, with a 95 % bootstrap interval over them, for all and for those whose
checks pass; and how far each kind is from the exact GGN's where both were asked for, with its seconds.
What OUT/evidences.json has is not asked for again.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import h5py
import numpy as np

# name -> arguments of evidence
KINDS = {
    "KFAC, trace-corrected": ["--structure", "kron"],
    "KFAC, plain": ["--structure", "kron", "--correction", "none"],
    "KFAC, reduce, plain": ["--structure", "kron", "--correction", "none", "--sharing", "reduce"],
    "EKFAC": ["--structure", "ekfac"],
    "diagonal": ["--structure", "diag"],
    "NTK, M = 10": ["--bound", "ntk", "--bound-samples", "10"],
    "NTK, M = 30": ["--bound", "ntk", "--bound-samples", "30"],
    "NTK, M = 100": ["--bound", "ntk", "--bound-samples", "100"],
    "NTK, M = 100, by class": ["--bound", "ntk", "--bound-samples", "100", "--bound-parts", "class"],
    "NTK, M = 100, 2 parts": ["--bound", "ntk", "--bound-samples", "100", "--bound-draws", "2"],
    "NTK independent, M = 100": ["--bound", "ntk-independent", "--bound-samples", "100"],
    "NTK single, M = 100": ["--bound", "ntk-single", "--bound-samples", "100"],
}
EXACT = "exact GGN"


def networks_of(folder):
    """(label, network file, weights, precisions, test NLL, checks pass) of a run's trainings."""
    with h5py.File(folder / "run.h5") as file:
        if "table" not in file:
            raise SystemExit(f"judge: {folder}: expected a finished run, found none (run.h5 has no "
                             "/table): call layerwise again with --resume")
        rows = {key.decode() if isinstance(key, bytes) else key: value for key, value in
                zip(file["table/row"][()], file["table/mean"][()])}
        for member in sorted({row.split("/")[0] for row in rows}):
            prefix = "" if member == "evidence" else f"controls/{member}/"
            if any(row.startswith(f"{member}/symmetry/augmentation") for row in rows):
                continue
            precision = file[f"{prefix}blocks/prior_precision"][()]
            precision = precision[np.isfinite(precision).all(axis=1)][-1]
            suffix = "" if member == "evidence" else f"-{member}"
            yield (f"{folder.parent.name}/{folder.name}/{member}", folder / f"network{suffix}.toml",
                   folder / f"weights{suffix}.safetensors", precision, rows[f"{member}/nll"],
                   rows[f"{member}/believable"] > 0)


def ask(options, folder, network, weights, precision, arguments):
    words = [options.evidence, "--network", network, "--weights", weights, "--data",
             folder / "train.safetensors", "--prior-precision", *precision, "--checks", "off",
             "--json", "--quiet", *arguments]
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"judge: {' '.join(map(str, arguments))}: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    if "--bound" in arguments:
        return found["bound"]["log_evidence"] / found["n"], found["bound"]["seconds"]
    return found["log_evidence"] / found["n"], found["seconds"]["fit"][0] + found["seconds"]["eigen"][0]


def ranks(values):
    values = np.asarray(values)
    return np.array([np.mean(np.flatnonzero(np.sort(values) == v)) for v in values])


def correlation(a, b):
    x, y = ranks(a) - (len(a) - 1) / 2, ranks(b) - (len(b) - 1) / 2
    scale = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / scale) if scale > 0 else float("nan")


def interval(a, b, draws=2000):
    """95 % of the rank correlations of networks drawn with replacement."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(draws):
        rows = generator.integers(len(a), size=len(a))
        found.append(correlation(np.asarray(a)[rows], np.asarray(b)[rows]))
    return np.nanpercentile(found, [2.5, 97.5])


def correlation_text(kind, chosen):
    chosen = [row for row in chosen if kind in row["evidence"]]
    a = [row["evidence"][kind][0] for row in chosen]
    b = [-row["nll"] for row in chosen]
    if len(a) < 4:
        return "–"
    low, high = interval(a, b)
    return f"{correlation(a, b):.2f} [{low:.2f}, {high:.2f}]"


def report(table):
    kinds = [kind for kind in (*KINDS, EXACT) if any(kind in row["evidence"] for row in table)]
    passing = [row for row in table if row["believable"]]
    print(f"| evidence | networks | rank correlation, all {len(table)} | the {len(passing)} whose checks "
          "pass | minus the exact GGN's, nats per datum | seconds |\n|---|---|---|---|---|---|")
    for kind in kinds:
        rows = [row["evidence"] for row in table if kind in row["evidence"]]
        gaps = [row[kind][0] - row[EXACT][0] for row in rows if EXACT in row]
        gap = (f"{np.mean(gaps):+.3f} ({np.min(gaps):+.3f} … {np.max(gaps):+.3f}), {len(gaps)}"
               if gaps else "–")
        print(f"| {kind} | {len(rows)} | {correlation_text(kind, table)} | "
              f"{correlation_text(kind, passing)} | {gap} | "
              f"{np.median([row[kind][1] for row in rows]):.2f} |")
    print("\n| network | test NLL | checks | " + " | ".join(kinds) + " |\n" + "|---" * (3 + len(kinds))
          + "|")
    for row in sorted(table, key=lambda row: row["nll"]):
        values = (row["evidence"].get(kind) for kind in kinds)
        print(f"| {row['network']} | {row['nll']:.3f} | {'pass' if row['believable'] else 'FAIL'} | "
              + " | ".join("–" if value is None else f"{value[0]:.3f}" for value in values) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--evidence", default="build/bin/evidence")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--without", nargs="+", default=[], metavar="KIND",
                        choices=[*KINDS, EXACT], help="kinds left out, as their rows are named; the "
                        f'"{EXACT}" needs (N C)^2 numbers of 8 bytes, and minutes')
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "evidences.json"
    table = json.loads(file.read_text("utf-8")) if file.is_file() else []
    for folder in options.folders:
        for label, network, weights, precision, nll, believable in networks_of(folder):
            row = next((row for row in table if row["network"] == label), None)
            if row is None:
                row = {"network": label, "nll": nll, "believable": bool(believable), "evidence": {}}
                table.append(row)
            with h5py.File(folder / "run.h5") as run:
                config = tomllib.loads(run.attrs["config"])
            count, train = config["data"]["train"], config["train"]
            if config["prior"]["settle"] < train["refresh"]["every"] or train["keep"] == "best":
                raise SystemExit(f"judge: {folder}: its last refresh moved the priors, and run.h5 lacks "
                                 "the last ones; expected prior.settle of train.refresh.every or more, "
                                 "and train.keep = \"last\"")
            kinds = {**KINDS, EXACT: ["--bound", "ntk", "--bound-samples", str(count)]}
            for kind, arguments in kinds.items():
                if kind not in row["evidence"] and kind not in options.without:
                    row["evidence"][kind] = ask(options, folder, network, weights, precision,
                                                arguments)
                    print(f"{label}: {kind} {row['evidence'][kind]}", file=sys.stderr)
                    file.write_text(json.dumps(table, indent=1), "utf-8")
    report(table)


if __name__ == "__main__":
    main()
