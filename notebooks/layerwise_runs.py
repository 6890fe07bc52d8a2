"""Run folders of `layerwise` as the notebook sees them: what run.h5 holds, and nothing else.

A run is one task and one seed. Its members are trainings: "evidence", whose groups lie at the top
of the file, and the controls under /controls. A run that is still going has fewer groups, fewer
epochs and no table; everything here then answers with what there is, or NaN.
"""

import io
import os
import tomllib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas
import xarray

MEMBERS = {  # in the order of the printed table; {} is the network
    "evidence": "{}, evidence",
    "map": "{}, MAP (fixed prior)",
    "conv": "strict CONV, evidence",
    "fc": "strict FC, evidence",
    "unit": "{}, evidence, unit start",
    "map-unit": "{}, MAP, unit start",
    "rpp": "{}, penalties of residual pathway priors",
    "sgd": "{}, evidence, SGD",
}
PATHWAY_TITLES = {"fc": "FC", "conv": "CONV", "factored_fc": "F-FC", "sparse_fc": "S-FC",
                  "sparse_conv": "S-CONV", "group_conv": "GCONV"}
TRACE_OF = {  # number of the table -> column of the trace that shows it during training
    "accuracy": "test_accuracy",
    "rmse": "test_rmse",
    "nll": "test_nll",
    "log_evidence_per_datum": "log_evidence",
    "newton_decrement": "newton_decrement",
    "linearised_gap": "linearised_gap",
    "believable": "believable",
}


class RunError(Exception):
    """One sentence that names the file, what was found and what was expected."""


def last_finite(values):
    """The last number of [epoch] that is one, or NaN."""
    values = np.asarray(values, float)
    values = values[np.isfinite(values)]
    return float(values[-1]) if values.size else np.nan


@dataclass
class Run:
    folder: Path
    attributes: dict  # provenance: command, seed, status, ...
    config: dict  # config.toml as the program resolved it
    groups: dict  # "/trace" -> xarray.Dataset

    @property
    def task(self):
        return self.config["tasks"][0]

    @property
    def seed(self):
        return int(self.attributes["seed"])

    @property
    def is_finished(self):
        return self.attributes["status"] == "finished"

    @property
    def is_regression(self):
        trace = self.groups.get("/trace")
        return trace is not None and "test_rmse" in trace

    @property
    def table(self):
        """The group /table as {row: mean}; empty before the end."""
        found = self.groups.get("/table")
        return {} if found is None else dict(zip(found["row"].values, found["mean"].values))

    @property
    def progress(self):
        """What the run still lacks, for titles; empty when it is finished."""
        if self.is_finished:
            return ""
        epochs = self.config["train"]["epochs"]
        done = {name: int(self.group(name, "trace")["epoch"][-1]) for name in self.members}
        member = next((name for name in done if done[name] < epochs), self.members[-1])
        return f"{self.attributes['status']}: {member} epoch {done[member]} of {epochs}"

    @property
    def members(self):
        """Names of the trainings with at least one epoch."""
        own = sorted(self.config.get("variant", {}))
        return [name for name in [*MEMBERS, *(n for n in own if n not in MEMBERS)]
                if self.group(name, "trace") is not None]

    def title(self, member):
        """What the tables call a training."""
        own = self.config.get("variant", {}).get(member, {}).get("title")
        return (own or MEMBERS.get(member, member)).replace("{}", self.network_title)

    @property
    def network_title(self):
        """What the tables call the network: its title, or its pathways, the most flexible first."""
        if self.config.get("title"):
            return self.config["title"]
        sums = [layer for layer in self.config["network"]["layer"] if layer.get("type") == "sum"]
        paths = [path[0] if isinstance(path, list) else path for path in sums[0]["of"]] if sums else []
        kinds = [path.get("isotypic", path["type"]) for path in paths]  # as the tables call them
        kept = self.config.get("pathways") or kinds
        names = [PATHWAY_TITLES.get(kind, kind) for kind in kinds if kind in kept]
        return "+".join(reversed(names)) or "network"

    @property
    def symmetries(self):
        """Names of the bandwidths and augmentation ranges that some training learnt."""
        known = {"prior_precision", "effective_dimension", "parameters", "squared_norm",
                 "trace_ratio"}
        found = {}
        for member in self.members:
            group = self.group(member, "blocks")
            for name in [] if group is None else group.data_vars:
                if name not in known:
                    found[str(name)] = None
        return list(found)

    def symmetry(self, member, name):
        """(epochs, values) of a bandwidth or range; empty where the training has none."""
        group = self.group(member, "blocks")
        if group is None or name not in group:
            return np.empty(0), np.empty(0)
        return group["epoch"].values, group[name].values.astype(float)

    @property
    def first_trace(self):
        """Name of the group with the trace of the evidence run, or of a control before that."""
        member = self.members[0]
        return "trace" if member == "evidence" else f"controls/{member}/trace"

    @property
    def layers(self):
        """Names of the sums of pathways, in order."""
        return self._labels("layer")

    @property
    def pathways(self):
        """Kinds of pathway: "conv", "fc"."""
        return self._labels("pathway")

    def group(self, member, name):
        """A group of a member as a Dataset, or None where the file has none or no epoch in it."""
        path = f"/{name}" if member == "evidence" else f"/controls/{member}/{name}"
        found = self.groups.get(path)
        return found if found is not None and found.sizes.get("epoch", 0) else None

    def trace(self, member, column):
        """(epochs, values) of a column of the trace, without NaN; evidence per datum."""
        group = self.group(member, "trace")
        if group is None:
            return np.empty(0), np.empty(0)
        values = group[column].values.astype(float)
        if column in ("log_evidence", "log_likelihood"):
            values = values / self.config["data"]["train"]
        kept = np.isfinite(values)
        return group["epoch"].values[kept], values[kept]

    def final(self, member, number):
        """A number of the finished network (all test images), from the table; while there is none,
        the last one of the trace."""
        row = f"{member}/{number}"
        return float(self.table[row]) if row in self.table else last_finite(
            self.trace(member, TRACE_OF[number])[1])

    def shares(self, member):
        """Share of each pathway in the variance of its layer [layer, pathway], or None."""
        if not self.layers:
            return None
        rows = [[f"{member}/share_variance/{l}/{p}" for p in self.pathways] for l in self.layers]
        if rows[0][0] in self.table:
            return np.array([[self.table.get(row, np.nan) for row in layer] for layer in rows])
        group = self.group(member, "pathways")
        if group is not None:
            return self._last_row(group["share_variance"].values)
        group = self.group("evidence", "pathways")
        if member == "map" and group is not None:
            return self._last_row(group["share_variance_map"].values)
        return None

    def log_precisions(self, member, layer, pathway):
        """(epochs, log prior precision) of the weights of a pathway."""
        epochs, values = self.block_column(member, layer, pathway, "prior_precision")
        return epochs, np.log(values)

    def block_column(self, member, layer, pathway, column):
        """(epochs, values) of a column of /blocks for the weights of a pathway, without its NaN."""
        group = self.group(member, "blocks")
        prefix = f"{layer}.{self.pathways.index(pathway)}."  # its first block, as in the table
        names = [] if group is None else [n for n in group["block"].values if n.startswith(prefix)]
        if not names:
            return np.empty(0), np.empty(0)
        values = group[column].sel(block=names[0]).values
        kept = np.isfinite(values)
        return group["epoch"].values[kept], values[kept]

    def layer_table(self):
        """What the evidence run says of each pathway, as a DataFrame."""
        learned, fixed = self.shares("evidence"), self.shares("map")
        rows = []
        for l, layer in enumerate(self.layers):
            for k, pathway in enumerate(self.pathways):
                block = ("evidence", layer, pathway)
                last = {column: last_finite(self.block_column(*block, column)[1])
                        for column in ("prior_precision", "effective_dimension")}
                rows.append({
                    "layer": layer,
                    "pathway": pathway,
                    "log precision": np.log(last["prior_precision"]),
                    "effective dimension": last["effective_dimension"],
                    "variance share": np.nan if learned is None else learned[l, k],
                    "without learning (MAP)": np.nan if fixed is None else fixed[l, k]})
        return pandas.DataFrame(rows)

    def _labels(self, name):
        for member in self.members:
            if (group := self.group(member, "pathways")) is not None:
                return [str(value) for value in group[name].values]
        return []

    @staticmethod
    def _last_row(values):
        """Of [epoch, layer, pathway], the last epoch that has numbers."""
        finite = np.isfinite(values).any(axis=(1, 2))
        return values[finite][-1] if finite.any() else None


def read_run(folder):
    """The run of a folder, read at once: a program that replaces the file disturbs nothing."""
    folder = Path(folder)
    file = folder / "run.h5"
    if not file.is_file():
        raise RunError(f"{file}: no run file there; expected a folder made by layerwise")
    try:
        groups = xarray.open_groups(io.BytesIO(file.read_bytes()), engine="h5netcdf")
        attributes = dict(groups["/"].attrs)
        config = tomllib.loads(attributes["config"])
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).splitlines()[0]
        raise RunError(f"{file}: not a run file of layerwise, or damaged ({reason})") from error
    run = Run(folder, attributes, config, groups)
    if not run.members:
        raise RunError(f"{file}: no epoch is recorded yet")
    return run


def named_runs(experiment="layerwise"):
    """The runs that the environment names: EVARISTE_RUN, several folders separated like a PATH.
    Without it, those of the experiment's last run in results/."""
    named = os.environ.get("EVARISTE_RUN", "")
    if named:
        folders = [Path(part) for part in named.split(os.pathsep) if part]
    else:
        results = Path(__file__).resolve().parent.parent / "results" / experiment
        files = sorted(results.glob("*-*-seed*/run.h5"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise RunError(f"{results}: no run there; run layerwise or name one in EVARISTE_RUN")
        preset = files[-1].parent.name.rsplit("-", 2)[1]
        folders = [f.parent for f in files if f"-{preset}-seed" in f.parent.name]
    return sorted((read_run(f) for f in folders), key=lambda run: (run.task, run.seed))


def by_task(runs):
    """{task: its runs}, tasks in alphabetical order: digit left, quadrant right."""
    return {task: [run for run in runs if run.task == task]
            for task in sorted({run.task for run in runs})}
