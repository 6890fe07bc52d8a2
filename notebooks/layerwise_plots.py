"""The figure of `layerwise`: one column per task, and the panels it is made of.

Each panel function takes axes and the runs (seeds) of one task and draws what they hold: bars are
means over seeds with a dot per seed, curves one line per seed. Nothing is drawn where nothing is.
"""

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, PercentFormatter

from layerwise_runs import by_task

PATHWAY_COLORS = {"conv": "#2f6db5", "fc": "#e2803a"}
MEMBER_COLORS = {"evidence": "#222222", "map": "#8f8f8f", "conv": "#2f6db5", "fc": "#e2803a",
                 "unit": "#7a57a8", "map-unit": "#b9a5d3", "sgd": "#3f9a63", "rpp": "#8a6d3b"}
SPARE_COLORS = ["#7a57a8", "#3f9a63", "#b04a5a", "#c9a227", "#3f93a8"]
PASS, FAIL = "#2e9e4f", "#c8372d"
TITLES = {"digit": "digit-MNIST: the label ignores the position",
          "quadrant": "quadrant-MNIST: the label needs the position"}
STYLE = {"figure.dpi": 130, "font.size": 9, "font.family": "DejaVu Sans",
         "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 9.5,
         "axes.titlelocation": "left", "axes.linewidth": 0.7, "xtick.major.width": 0.7,
         "ytick.major.width": 0.7, "legend.frameon": False, "legend.fontsize": 8}


def pathway_color(pathways, pathway):
    spare = SPARE_COLORS[pathways.index(pathway) % len(SPARE_COLORS)]
    return PATHWAY_COLORS.get(pathway, spare)


def member_color(runs, member):
    """That of the training; those of a file's own take the spare ones in turn."""
    own = [name for name in all_members(runs) if name not in MEMBER_COLORS]
    return MEMBER_COLORS.get(member) or SPARE_COLORS[own.index(member) % len(SPARE_COLORS)]


def all_members(runs):
    """Trainings of any of the runs, in the order of the table."""
    return list(dict.fromkeys(member for run in sorted(runs, key=lambda run: -len(run.members))
                              for member in run.members))


def percent(share):
    return f"{100 * share:.0f} %" if 0.05 < share < 0.95 or share > 0.9995 else f"{100 * share:.1f} %"


def say_empty(ax, what):
    ax.text(0.5, 0.5, what, transform=ax.transAxes, ha="center", va="center", color="0.5")
    ax.set_xticks([]), ax.set_yticks([])


def mean_shares(runs, member):
    """(mean over seeds [layer, pathway], every seed [seed, layer, pathway]), or (None, None)."""
    shares = [s for run in runs if (s := run.shares(member)) is not None]
    return (np.nanmean(shares, axis=0), np.array(shares)) if shares else (None, None)


def plot_shares(ax, runs):
    """Per layer, how the variance of the output splits between the pathways. Filled: learned;
    outlined beside it: the MAP control, whose prior never moves."""
    layers, pathways = runs[0].layers, runs[0].pathways
    learned, seeds = mean_shares(runs, "evidence")
    fixed, _ = mean_shares(runs, "map")
    if learned is None and fixed is None:
        return say_empty(ax, "no sums of pathways recorded")
    width, gap, small = 0.46, 0.27, 0.06
    for l in range(len(layers)):
        bottom = fixed_bottom = 0.0
        x, fixed_x = l - 0.11, l - 0.11 + (width + gap) / 2 + 0.03
        for k, pathway in enumerate(pathways):
            color = pathway_color(pathways, pathway)
            if learned is not None and np.isfinite(share := learned[l, k]):
                ax.bar(x, share, width, bottom, color=color, edgecolor="white", linewidth=0.6)
                inside = share > small
                ax.text(x, bottom + share / 2 if inside else 1.015, percent(share), ha="center",
                        va="center" if inside else "bottom", color="white" if inside else color,
                        fontsize=9, fontweight="bold")
                bottom += share
            if fixed is not None and np.isfinite(share := fixed[l, k]):
                # The outline lies inside its own bar, so that neighbours of two colours both show.
                ax.bar(fixed_x, max(share - 0.016, 0), gap, fixed_bottom + 0.008, fill=False,
                       edgecolor=color, linewidth=1.4)
                inside = share > small
                ax.text(fixed_x, fixed_bottom + share / 2 if inside else 1.015,
                        percent(share).rstrip(" %"), ha="center",
                        va="center" if inside else "bottom", color=color, fontsize=7.5)
                fixed_bottom += share
        if seeds is not None and len(seeds) > 1:
            spread = np.linspace(-0.1, 0.1, len(seeds))
            ax.plot(x + spread, seeds[:, l, 0], "o", ms=3, mfc="white", mec="0.2", mew=0.7)
    ax.set_xticks(range(len(layers)), [f"layer {i + 1}" for i in range(len(layers))])
    ax.set_xlim(-0.55, len(layers) - 0.4)
    ax.set_ylim(0, 1)
    ax.yaxis.set_major_formatter(PercentFormatter(1.0))
    ax.tick_params(axis="x", length=0)
    ax.set_ylabel("share of the variance")


def plot_precisions(axes, runs):
    """Per layer, the log prior precision of each pathway over epochs; dotted in the MAP control."""
    drawn = False
    for i, (ax, layer) in enumerate(zip(axes, runs[0].layers)):
        for run in runs:
            for pathway in run.pathways:
                color = pathway_color(run.pathways, pathway)
                for member, line in (("map", ":"), ("evidence", "-")):
                    epochs, values = run.log_precisions(member, layer, pathway)
                    ax.plot(epochs, values, line, color=color, lw=1.8 if line == "-" else 1.2,
                            alpha=1 if len(runs) == 1 or line == ":" else 0.6,
                            marker="o" if len(epochs) == 1 else "")
                    drawn = drawn or len(epochs) > 0
        ax.set_title(f"layer {i + 1}")
        ax.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        ax.grid(axis="y", color="0.92", lw=0.7)
        if i > 0:
            ax.tick_params(labelleft=False)
    axes[0].set_ylabel("log prior precision")
    axes[0].text(0, 1.2, "The prior precision of a pathway rises where the data can do without it"
                 " (dotted: held fixed).", transform=axes[0].transAxes, color="0.35")
    if not drawn:
        for ax in axes:
            say_empty(ax, "no refresh yet")


def plot_evidence(ax, runs):
    """log q / N over epochs on a logarithmic axis that points up: the less is missing, the higher.
    A full dot where the checks of the evidence pass, a cross where they do not."""
    drawn = False
    for run in runs:
        for member in reversed(run.members):
            epochs, values = run.trace(member, "log_evidence")
            kept = values < 0  # a log density of labels; zero and above cannot be drawn
            epochs, values = epochs[kept], -values[kept]
            if not len(epochs):
                continue
            drawn = True
            own = member == "evidence"
            color = member_color(runs, member)
            ax.plot(epochs, values, color=color, lw=2 if own else 1.1,
                    alpha=1 if len(runs) == 1 else 0.6, zorder=3 if own else 2)
            checked, passes = run.trace(member, "believable")
            for epoch, passed in zip(checked, passes):
                at = values[epochs == epoch]
                if len(at):
                    mark_check(ax, epoch, at[0], passed, size=6 if own else 4)
            end = run.config["train"]["epochs"]
            value = -run.final(member, "log_evidence_per_datum")
            if f"{member}/believable" in run.table and value > 0:  # of the finished network
                ax.plot([epochs[-1], end + 1], [values[-1], value], ":", color=color, lw=1)
                mark_check(ax, end + 1, value, run.table[f"{member}/believable"], 7 if own else 5)
    if not drawn:
        return say_empty(ax, "no evidence yet")
    set_log_axis(ax, "−{:g}")
    ax.invert_yaxis()
    ax.set_title("evidence (last mark: the finished network)")
    ax.set_ylabel("log q / N  (nats per image)")


def set_log_axis(ax, text):
    """A logarithmic y axis with three labels in a decade while the range is short."""
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    subs = (1.0,) if high > 100 * low else (1.0, 2.0, 5.0)
    ax.yaxis.set_major_locator(LogLocator(subs=subs))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text.format(value)))
    ax.yaxis.set_minor_formatter(FuncFormatter(lambda *_: ""))
    ax.grid(axis="y", color="0.92", lw=0.7)


def mark_check(ax, x, y, passed, size):
    if passed:
        ax.plot(x, y, "o", ms=size, color=PASS, mec="white", mew=0.6, zorder=5)
    else:
        ax.plot(x, y, "x", ms=size, color=FAIL, mew=1.6, zorder=5)


def plot_curves(ax, runs):
    """Mean −log p over epochs: training (thin, dashed) and test (full)."""
    for run in runs:
        for member in reversed(run.members):
            own = member == "evidence"
            for column, line in (("train_loss", "--"), ("test_nll", "-")):
                epochs, values = run.trace(member, column)
                ax.plot(epochs, values, line, color=member_color(runs, member),
                        lw=(1.8 if own else 1.0) * (0.75 if line == "--" else 1),
                        alpha=1 if len(runs) == 1 else 0.6, zorder=3 if own else 2)
    set_log_axis(ax, "{:g}")
    ax.set_title("training (dashed) and test")
    ax.set_ylabel("−log p per image (nats)")


def plot_bars(ax, runs, number, title, text, limit=None):
    """A number of every member (of a logarithm, its negative: what is missing to certainty), mean
    over seeds with a dot per seed; hollow while training."""
    members = all_members(runs)
    for i, member in enumerate(members):
        values = np.array([run.final(member, number) for run in runs if member in run.members])
        values = (-1 if number.startswith("log") else 1) * values[np.isfinite(values)]
        if not len(values):
            ax.text(0, i, "  no number yet", va="center", color="0.5", fontsize=8)
            continue
        done = all(f"{member}/{number}" in run.table for run in runs if member in run.members)
        color = member_color(runs, member)
        ax.barh(i, values.mean(), 0.62, color=color if done else "white", edgecolor=color, lw=1.2)
        label = text(values.mean()) + (f" ± {text(values.std(ddof=1))}" if len(values) > 1 else "")
        passed = [run.final(member, "believable") for run in runs if member in run.members]
        if number == "log_evidence_per_datum" and np.isfinite(passed).any():
            mark = ("✓", PASS) if np.nanmin(passed) > 0 else ("✗", FAIL)
            ax.annotate(mark[0], (max(0, values.max()), i), (4, 0), textcoords="offset points",
                        va="center", color=mark[1], fontweight="bold")
            label = "    " + label
        ax.annotate(label, (max(0, values.max()), i), (4, 0), textcoords="offset points", va="center",
                    fontsize=8.5)
        if len(values) > 1:
            ax.plot(values, np.full(len(values), i), "o", ms=3, mfc="white", mec="0.2", mew=0.7)
    ax.set_yticks(range(len(members)),
                  [runs[0].title(name).replace(", ", ",\n", 1) for name in members], fontsize=8)
    ax.set_ylim(len(members) - 0.45, -0.55)
    ax.tick_params(axis="y", length=0)
    ax.set_title(title)
    low, high = ax.get_xlim()
    ax.set_xlim(min(0, low), limit if limit else high * 1.45 if low >= 0 else high + 0.45 * (high - low))


def draw_task(figure, spec, runs):
    """The column of one task."""
    layers = max(1, len(runs[0].layers))
    rows = spec.subgridspec(4, 1, height_ratios=[1.15, 0.9, 1.1, 1.0], hspace=0.5)
    top = figure.add_subplot(rows[0])
    plot_shares(top, runs)
    task = runs[0].task
    parts = [f"{len(runs)} seeds" if len(runs) > 1 else "", *(run.progress for run in runs)]
    note = "; ".join(part for part in parts if part)
    top.set_title(TITLES.get(task, task), fontsize=13, fontweight="bold", pad=34)
    says = "Filled: learned by evidence."
    if mean_shares(runs, "map")[0] is not None:
        says += " Outlined: the prior held fixed (MAP)."
    top.text(0, 1.1, says + (f"   [{note}]" if note else ""), transform=top.transAxes,
             color="0.35", fontsize=9)

    cells = rows[1].subgridspec(1, layers, wspace=0.12)
    axes = [figure.add_subplot(cells[0])]
    axes += [figure.add_subplot(cells[i], sharey=axes[0], sharex=axes[0]) for i in range(1, layers)]
    plot_precisions(axes, runs)

    cells = rows[2].subgridspec(1, 2, wspace=0.3)
    evidence, curves = (figure.add_subplot(cell) for cell in cells)
    plot_evidence(evidence, runs)
    plot_curves(curves, runs)
    for ax in [*axes, evidence, curves]:
        ax.set_xlabel("epoch")

    cells = rows[3].subgridspec(1, 3, wspace=0.1)
    quality, nll, evidence = (figure.add_subplot(cell) for cell in cells)
    if runs[0].is_regression:
        plot_bars(quality, runs, "rmse", "test RMSE", lambda v: f"{v:.3g}")
        quality.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))
    else:
        plot_bars(quality, runs, "accuracy", "test accuracy", lambda v: f"{100 * v:.1f} %", 1.4)
        quality.xaxis.set_major_formatter(PercentFormatter(1.0))
        quality.set_xticks([0, 0.5, 1])
    plot_bars(nll, runs, "nll", "test NLL (nats)", lambda v: f"{v:.3f}")
    plot_bars(evidence, runs, "log_evidence_per_datum", "−log q / N (nats)", lambda v: f"{v:.3f}")
    for ax in (nll, evidence):
        ax.tick_params(labelleft=False)
        ax.xaxis.set_major_locator(MaxNLocator(4, prune="upper"))


def draw_legend(figure, runs):
    pathways = next((run.pathways for run in runs if run.pathways), [])
    members = all_members(runs)
    handles = [Patch(color=pathway_color(pathways, p), label=f"{p.upper()} pathway")
               for p in pathways]
    handles += [Line2D([], [], color=member_color(runs, m), lw=2.2 if m == "evidence" else 1.4,
                       label=runs[0].title(m)) for m in members]
    handles += [Line2D([], [], ls="", marker="o", color=PASS, label="evidence believable"),
                Line2D([], [], ls="", marker="x", mew=1.6, color=FAIL, label="not believable")]
    figure.legend(handles=handles, loc="lower center", ncols=min(len(handles), 5))


def draw_figure(runs):
    """One column per task, digit left and quadrant right; any number of seeds each."""
    tasks = by_task(runs)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.2 * len(tasks), 13))
        grid = figure.add_gridspec(1, len(tasks), wspace=0.27, left=1.15 / (8.2 * len(tasks)),
                                   right=1 - 0.2 / (8.2 * len(tasks)), top=0.945, bottom=0.085)
        for cell, of_task in zip(grid, tasks.values()):
            draw_task(figure, cell, of_task)
        draw_legend(figure, runs)
        figure.draw_without_rendering()  # labels are made under this style
    return figure
