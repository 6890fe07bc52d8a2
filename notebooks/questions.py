"""Numbers of run files that no table has: the first pathway's share of the variance in each layer at
the last epoch, training by training; when K-FAC reached the best evidence of SGD; how far each block
was from delta |theta|^2 = gamma at the last epoch; and for all runs of a task how the pathways share
effective parameters (gamma/P, the relative effective dimensions of van der Ouderaa et al. 2023) and
variance, as means over layers and seeds.

    python notebooks/questions.py results/layerwise/*-reduced-seed*
"""

import sys
from pathlib import Path

import numpy as np
import xarray


def group(folder, name):
    return xarray.load_dataset(Path(folder) / "run.h5", group=name, engine="h5netcdf")


shares = {}  # (task, training, kind) -> of each run [layer, pathway]
for run in sys.argv[1:]:
    print(Path(run).name)
    try:
        evidence = group(run, "trace").log_evidence
        blocks = group(run, "blocks").isel(epoch=-1)
    except (OSError, KeyError):
        print("  not finished")
        continue
    for member in ("", "map", "unit", "sgd"):
        try:
            pathways = group(run, f"controls/{member}/pathways" if member else "pathways")
        except (OSError, KeyError):
            continue
        of_first = pathways.share_variance.isel(epoch=-1, pathway=0).values
        print(f"  {member or 'evidence':<9}", " ".join(f"{share:.3f}" for share in of_first))
        for kind in ("effective", "variance"):
            last = pathways[f"share_{kind}"].dropna("epoch").isel(epoch=-1)
            key = (Path(run).name.split("-")[0], member or "evidence")
            shares.setdefault(key, {}).setdefault(kind, []).append(last)
    try:
        sgd = group(run, "controls/sgd/trace").log_evidence
        best = sgd.idxmax("epoch").item()
        reached = evidence.epoch.where(evidence >= sgd.max(), drop=True)
        first = int(reached[0]) if reached.size else "no"
        print(f"  best evidence of SGD at epoch {int(best)}, reached by K-FAC at epoch {first}")
    except (OSError, KeyError):
        pass
    ratio = blocks.prior_precision * blocks.squared_norm / blocks.effective_dimension
    for name, value, gamma in zip(blocks.block.values, ratio.values, blocks.effective_dimension.values):
        if np.isfinite(value):
            print(f"  {name:<14} delta |theta|^2 / gamma = {value:6.2f}   gamma = {gamma:8.2f}")

print("""
Per cent of a layer: mean over layers with its standard deviation over seeds, least and greatest layer

| task | training | seeds | pathway | effective parameters | variance |
|---|---|---|---|---|---|""")
for (task, member), kinds in shares.items():
    for pathway in kinds["variance"][0].pathway.values:
        texts = []
        for kind in ("effective", "variance"):
            runs = 100 * np.array([one.sel(pathway=pathway).values for one in kinds[kind]])  # [seed, layer]
            layers = runs.mean(0)
            spread = f" ± {runs.mean(1).std(ddof=1):.1f}" if len(runs) > 1 else ""
            texts.append(f"{layers.mean():.1f}{spread} ({layers.min():.1f} – {layers.max():.1f})")
        print(f"| {task} | {member} | {len(runs)} | {pathway} | {texts[0]} | {texts[1]} |")
