"""Which aims a run of bench/compare.py meets, against the best peer of that run.

    python bench/targets.py build/peers.json

A ratio is peer over ours, the median of the rounds, in CPU time on one thread and by the wall clock
on more. A peer whose value is not ours (relative difference above 0.1 %) computes another thing and
does not count. Where no peer counts, the row is left out.
"""

import json
import statistics
import sys

MLP = ("mlp", "mlp1024")
CONVOLUTIONS = ("lenet", "cnn", "resnet8", "resnet20", "fixup18", "allcnn", "wrn16_4")
ALL = MLP + CONVOLUTIONS
DEFAULT = "laplace curvlinops"  # the backend that laplace-torch takes unless told
# quantity, stage, networks, must, good, the one peer (None: the best)
FASTER = [
    ("exact kron", "kron", MLP, 4, 8, None),
    ("exact kron", "kron", CONVOLUTIONS, 3, 5, None),
    ("exact factors", "factors", MLP, 4, 8, None),
    ("exact factors", "factors", CONVOLUTIONS, 3, 5, None),
    ("Monte Carlo factors", "factors_mc", CONVOLUTIONS, 5, 8, None),
    ("empirical factors", "factors_empirical", CONVOLUTIONS, 5, 8, None),
    ("exact diagonal", "diag", MLP, 1.2, 1.5, None),
    ("exact diagonal", "diag", CONVOLUTIONS, 3, 6, None),
    ("exact diagonal, default backend", "diag", MLP, 100, 200, DEFAULT),
    ("GLM predictive", "predictive_20", MLP, 500, 2000, None),
    ("GLM predictive", "predictive_20", CONVOLUTIONS, 20, 50, None),
    ("hyper-gradient with its fit", "hyper_gradient_total", ALL, 4, 8, None),
    ("eigenvalues", "eigenvalues", ALL, 1.5, 5, None),
]


def over(peer, ours, clock):
    """Ratios of the rounds, their median; of a run that was stopped a lower bound."""
    limit = peer["answers"][-1].get("over")
    if limit:
        return limit / statistics.median(a["seconds"] for a in ours["answers"])
    return statistics.median(p[clock] / o[clock] for p, o in zip(peer["answers"], ours["answers"]))


def peak(row, base=0):
    return row["answers"][-1]["peak_mib"] - base


def is_comparable(row):
    answer, reference = row["answers"][-1], row["reference"]
    if "error" in answer:
        return "over" in answer
    value = answer.get("value")
    return value is None or not reference or abs(value - reference) <= 1e-3 * abs(reference)


def verdict(value, must, good):
    """Larger is better, unless `good` is the smaller one."""
    sign = 1 if good >= must else -1
    return "good" if sign * (value - good) >= 0 else "yes" if sign * (value - must) >= 0 else "no"


def table(rows, threads):
    clock = "cpu" if threads == 1 else "seconds"
    found = {(r["net"], r["stage"], r["code"]): r for r in rows if is_comparable(r)}
    lines = ["| quantity | net | must | good | measured | beside | met |",
             "|---|---|---|---|---|---|---|"]

    def add(quantity, net, must, good, value, beside, mark=""):
        lines.append(f"| {quantity} | {net} | {must:g} | {good:g} | {mark}{value:.3g} | {beside} | "
                     f"{verdict(value, must, good)} |")

    def beside(net, stage):
        """ours, and the peers by code."""
        peers = {code: row for (n, s, code), row in found.items()
                 if (n, s) == (net, stage) and not code.startswith("ours")}
        return found.get((net, stage, "ours")), peers

    for quantity, stage, nets, must, good, only in FASTER:
        for net in nets:
            ours, peers = beside(net, stage)
            ratios = {code: over(row, ours, clock) for code, row in peers.items()
                      if ours and only in (None, code)}
            if ratios:
                best = min(ratios, key=ratios.get)
                mark = "> " if "over" in peers[best]["answers"][-1] else ""
                add(quantity, net, must, good, ratios[best], best, mark)
    for net in ALL:
        values = found.get((net, "kron_values", "ours"))
        epoch = found.get((net, "kron_values", "ours, plain epoch"))
        if values and epoch:
            add("exact kron and eigenvalues, in plain epochs", net, 4.5, 3.5,
                1 / over(epoch, values, clock), "ours")
    for net in ALL:
        ours, peers = beside(net, "kron")
        if ours and peers:
            best = min(peers, key=lambda code: peak(peers[code]))
            add("peak memory, exact kron", net, 2, 4, peak(peers[best]) / peak(ours), best)
            best = min(peers, key=lambda code: peak(peers[code], peers[code]["base_mib"]))
            add("the same above its base", net, 2, 4,
                peak(peers[best], peers[best]["base_mib"]) / peak(ours, ours["base_mib"]), best)
        gradient = found.get((net, "hyper_gradient_total", "ours"))
        if ours and gradient:
            add("peak memory, kron over hyper-gradient", net, 1, 1, peak(ours) / peak(gradient),
                "ours")
    return "\n".join(lines)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        run = json.load(file)
    print(table(run["rows"], run["threads"]))
