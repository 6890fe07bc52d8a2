"""The figure of the degree of equivariance: one column per task; what each layer keeps of its group's symmetry,
how that moved, and what it brought.
"""

import re
import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import PercentFormatter

from layerwise_plots import (STYLE, member_color, pathway_color, plot_bars, plot_shares,
                             say_empty)
from layerwise_runs import by_task

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "python"))


def layers_of(run, member):
    """The list `layer` of the network of a training."""
    own = run.config.get("variant", {}).get(member, {}).get("network", {})
    return own.get("layer", run.config["network"]["layer"])


def group_of(run, member):
    """The group of the first steerable layer."""
    return re.search(r"'group': '([^']+)'", str(layers_of(run, member)))[1]


def degrees(run, member):
    """{layer: (epochs, coefficients [epoch, K], divergence [epoch])} of the layers with a density."""
    out = {}
    for name in run.symmetries:
        if not name.endswith(".degree.divergence"):
            continue
        layer = name.removesuffix(".degree.divergence")
        epochs, divergence = run.symmetry(member, name)
        columns = []
        while f"{layer}.degree.{len(columns)}" in run.symmetries:
            columns.append(run.symmetry(member, f"{layer}.degree.{len(columns)}")[1])
        if epochs.size:
            out[layer] = (epochs, np.stack(columns, axis=1), divergence)
    return out


def plot_densities(figure, cell, runs):
    """Density of every layer around the circle, at the end, relative to uniform: of finite groups a stem for each
    element, of others a line; one per seed and training. Dashed and hollow: rotations behind the reflection."""
    from evariste import degree_density

    layers = list(dict.fromkeys(layer for run in runs for m in run.members for layer in degrees(run, m)))
    columns = min(3, len(layers))
    grid = cell.subgridspec(-(-len(layers) // columns), columns, wspace=0.35, hspace=0.45)
    for place, layer in enumerate(layers):
        ax = figure.add_subplot(grid[place // columns, place % columns], projection="polar")
        largest = 1
        for run in runs:
            for member in run.members:
                if layer not in (found := degrees(run, member)):
                    continue
                group = group_of(run, member)
                theta, values = degree_density(group, band_of(run, member, layer), found[layer][1][-1])
                largest = max(largest, values.max().item())
                draw_density(ax, group, theta, values.numpy(), member_color(runs, member))
        ax.plot(np.linspace(0, 2 * np.pi, 100), np.ones(100), color="0.8", lw=0.7, zorder=0)
        ax.set_title(f"layer {place + 1}", fontsize=8, loc="center")
        ax.set_rlim(0, 1.08 * largest), ax.set_xticks(np.arange(4) * np.pi / 2, ["0°", "", "180°", ""], fontsize=6)
        ax.set_yticks([]), ax.spines["polar"].set_visible(False), ax.grid(False)
        ax.tick_params(pad=-4)


def draw_density(ax, group, theta, copies, color):
    for copy, density in enumerate(copies):
        style = "-" if copy == 0 else "--"
        if re.match(r"[CD]\d", group):
            ax.vlines(theta, 0, density, color=color, ls=style, lw=1)
            ax.plot(theta, density, "o", color=color, ms=4, mfc=color if copy == 0 else "white")
        else:
            ax.plot(np.append(theta, 2 * np.pi), np.append(density, density[0]), style, color=color, lw=1.1)


def band_of(run, member, layer):
    """`degree` of the layer "N", or "N.K" in a sum."""
    at = layers_of(run, member)
    for index in layer.split("."):
        found = at[int(index)] if isinstance(at, list) else at["of"][int(index)]
        at = found[0] if isinstance(found, list) else found
    return at["degree"]


def plot_kept(ax, runs):
    """Over the epochs, the share of each layer's first pathway, the part that the group keeps; dark is deep.
    Dotted: the prior held fixed."""
    layers = runs[0].layers
    shades = matplotlib.colormaps["viridis"](np.linspace(0.1, 0.85, max(2, len(layers))))
    for run in runs:
        for column, style in (("share_variance", "-"), ("share_variance_map", ":")):
            group = run.group("evidence", "pathways")
            if group is None:
                continue
            for l, layer in enumerate(layers):
                values = group[column].values[:, l, 0]
                kept = np.isfinite(values)
                ax.plot(group["epoch"].values[kept], values[kept], style, color=shades[l], lw=1.1)
    ax.set_ylim(-0.03, 1.03), ax.set_xlabel("epoch")
    handles = [Line2D([], [], color=shades[l], label=f"layer {l + 1}") for l in range(len(layers))]
    ax.legend(handles=handles, ncols=2, fontsize=7)
    ax.set_title(f"share of {runs[0].pathways[0]}, which the group keeps")


def plot_divergence(ax, runs):
    """Over the epochs, how far each density is from uniform."""
    drawn = False
    for run in runs:
        for member in run.members:
            for epochs, _, divergence in degrees(run, member).values():
                ax.plot(epochs, divergence, color=member_color(runs, member), lw=1)
                drawn = True
    if not drawn:
        return say_empty(ax, "no density is learnt")
    ax.set_xlabel("epoch"), ax.set_title("KL to the uniform density, nats, one line a layer")


def draw_figure(runs):
    tasks = by_task(runs)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.2 * len(tasks), 9.5))
        spec = figure.add_gridspec(1, len(tasks), wspace=0.28, left=0.05, right=0.98, top=0.93, bottom=0.05)
        for column, (task, of_task) in enumerate(tasks.items()):
            rows = spec[column].subgridspec(3, 1, height_ratios=[1.4, 1, 1], hspace=0.42)
            densities = any(degrees(run, m) for run in of_task for m in run.members)
            if densities:
                plot_densities(figure, rows[0], of_task)
                plot_divergence(figure.add_subplot(rows[1]), of_task)
            else:
                top = figure.add_subplot(rows[0])
                if of_task[0].layers:
                    plot_shares(top, of_task), plot_kept(figure.add_subplot(rows[1]), of_task)
                    parts = of_task[0].pathways
                    top.legend(handles=[Patch(color=pathway_color(parts, p), label=f"part {p}") for p in parts],
                               ncols=len(parts), loc="upper center", bbox_to_anchor=(0.5, -0.07))
                else:
                    say_empty(top, "no layer has parts")
            if densities:
                heading_members = dict.fromkeys(m for run in of_task for m in run.members if degrees(run, m))
                figure.axes[-1].legend(handles=[Line2D([], [], color=member_color(of_task, m),
                                                       label=of_task[0].title(m)) for m in heading_members],
                                       fontsize=7)
            notes = [f"{len(of_task)} seed{'s' * (len(of_task) > 1)}", *(run.progress for run in of_task if run.progress)]
            heading = figure.add_subplot(spec[column], frameon=False)
            heading.set_xticks([]), heading.set_yticks([])
            heading.set_title(f"{task} ({'; '.join(notes)})", pad=26, fontsize=12, fontweight="bold")
            cells = rows[2].subgridspec(1, 3, wspace=0.12)
            first, nll, evidence = (figure.add_subplot(cell) for cell in cells)
            if of_task[0].is_regression:
                plot_bars(first, of_task, "rmse", "test RMSE", lambda v: f"{v:.3g}")
            else:
                plot_bars(first, of_task, "accuracy", "test accuracy", lambda v: f"{100 * v:.1f} %", 1.5)
                first.xaxis.set_major_formatter(PercentFormatter(1.0)), first.set_xticks([0, 0.5, 1])
            plot_bars(nll, of_task, "nll", "test NLL (nats)", lambda v: f"{v:.3f}")
            plot_bars(evidence, of_task, "log_evidence_per_datum", "−log q / N (nats)", lambda v: f"{v:.3f}")
            for ax in (nll, evidence):
                ax.tick_params(labelleft=False)
    return figure


def draw_kernels(run, member="evidence", count=6):
    """Filters of the first steerable layer, a row for each of its parts; None where the run left no network."""
    import torch
    from evariste import SteerableConv, load_network, load_weights

    suffix = "" if member == "evidence" else f"-{member}"
    file = run.folder / f"network{suffix}.toml"
    if not file.is_file():
        return None
    network = load_network(file)
    load_weights(network, run.folder / f"weights{suffix}.safetensors")
    first = next(m for m in network.modules() if hasattr(m, "pathways") or isinstance(m, SteerableConv))
    parts = [first] if isinstance(first, SteerableConv) else list(first.pathways)
    filters = []
    for part in parts:
        part = part[0] if isinstance(part, torch.nn.Sequential) else part
        with torch.no_grad():
            filters.append(part.plain()[0][:count, 0].float().numpy())
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(1.1 * count, 1.25 * len(filters)), layout="constrained")
        axes = figure.subplots(len(filters), count, squeeze=False)
        limit = max(np.abs(f).max() for f in filters) or 1
        for row, part in enumerate(filters):
            for place, ax in enumerate(axes[row]):
                ax.set_xticks([]), ax.set_yticks([])
                if place < len(part):
                    ax.imshow(part[place], cmap="RdBu", vmin=-limit, vmax=limit)
                else:
                    ax.axis("off")
            name = run.pathways[row] if row < len(run.pathways) else "kernels"
            axes[row, 0].set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
