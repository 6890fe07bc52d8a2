"""The figure of learned augmentation: one column per task; how the ranges move, what they end at, and
what the copies of a training image would look like.
"""

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from layerwise_plots import STYLE, member_color, say_empty
from layerwise_runs import by_task

LABELS = {"augmentation.translation_x": "x", "augmentation.translation_y": "y",
          "augmentation.rotation": "rotation", "augmentation.scale_x": "scale x",
          "augmentation.scale_y": "scale y", "augmentation.shear": "shear"}


def plot_path(ax, runs, name):
    """|range| over the epochs, one line per seed and training."""
    drawn = False
    for member in runs[0].members:
        for s, run in enumerate(runs):
            epochs, values = run.symmetry(member, name)
            if values.size:
                ax.plot(epochs, np.abs(values), color=member_color(runs, member), lw=1.1,
                        label=run.title(member) if s == 0 else None)
                drawn = True
    if not drawn:
        return say_empty(ax, "no range is learnt")
    ax.set_xlabel("epoch"), ax.set_ylim(bottom=0)


def plot_ends(ax, runs):
    """The ranges at the end: bars are means over seeds, dots the seeds."""
    names = [n for n in LABELS if n in runs[0].symmetries]
    members = [m for m in runs[0].members if runs[0].symmetry(m, names[0])[1].size] if names else []
    if not members:
        return say_empty(ax, "no range is learnt")
    width = 0.8 / len(members)
    for k, member in enumerate(members):
        ends = np.array([[abs(run.symmetry(member, n)[1][-1]) for n in names] for run in runs
                         if run.symmetry(member, names[0])[1].size])
        x = np.arange(len(names)) + (k - (len(members) - 1) / 2) * width
        ax.bar(x, ends.mean(axis=0), width, color=member_color(runs, member), alpha=0.75)
        for row in ends:
            ax.plot(x, row, ".", color="black", ms=3)
    ax.set_xticks(range(len(names)), [LABELS[n] for n in names], rotation=30, ha="right")


def plot_likelihood(ax, runs):
    """Test NLL at the end, a dot per seed."""
    for k, member in enumerate(runs[0].members):
        values = [run.final(member, "nll") for run in runs if member in run.members]
        ax.barh(k, np.nanmean(values), color=member_color(runs, member), alpha=0.75)
        ax.plot(values, [k] * len(values), ".", color="black", ms=4)
    titles = [runs[0].title(m).replace(", ", ",\n") for m in runs[0].members]
    ax.set_yticks(range(len(titles)), titles)
    ax.invert_yaxis(), ax.set_xlabel("test NLL, nats")


def draw_figure(runs):
    tasks = by_task(runs)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6 * len(tasks), 8.4), layout="constrained")
        axes = figure.subplots(4, len(tasks), squeeze=False)
        for column, (task, of_task) in enumerate(tasks.items()):
            progress = of_task[0].progress
            axes[0, column].set_title(task + (f" ({progress})" if progress else ""))
            plot_path(axes[0, column], of_task, "augmentation.rotation")
            plot_path(axes[1, column], of_task, "augmentation.translation_x")
            plot_ends(axes[2, column], of_task)
            plot_likelihood(axes[3, column], of_task)
        axes[0, 0].set_ylabel("range of the rotation, rad")
        axes[1, 0].set_ylabel("range of x, half images")
        axes[2, 0].set_ylabel("ranges at the end")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=len(handles))
    return figure
