"""Steerable networks beside escnn and beside plain convolutions of as many channels.

    ./evariste bench steerable [--nets c8 so2 o2] [--rounds 20] [--threads 1] [--batch 64]

Each code has a process of its own for each network, of random weights; a round asks each of them
once, one after another, so that all meet the same machine. Ratios are of one round, in process CPU
time: the median, and the interval that holds the middle half. `construct` is once for escnn, and
without its imports; `expand`, the kernels of all layers from their weights, is a part of `train`.
`plain` is our own network of the same channels without a group, and torch's. Memory is the most that a process
had until the end, less what it had before the network.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from compare import ROOT, Worker

NETS = {"c8": "c8_plain", "so2": "so2_plain", "o2": "so2_plain"}
FOLDER = ROOT / "bench/nets/steerable"


def quartiles(values, digits=2):
    if len(values) < 4:
        return f"{statistics.median(values):.{digits}f}"
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.{digits}f} ({low:.{digits}f} – {high:.{digits}f})"


class EscnnWorker(Worker):
    """Its first line says what building the network took."""

    def __init__(self, command, log):
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log, text=True)
        self.built = self.read().get("built")
        self.base_mib = self.read().get("base_mib")


def measure(net, options, log):
    common = ["--batch", options.batch, "--threads", options.threads]
    workers = {}
    for code, file in (("ours", net), ("ours, plain", NETS[net])):
        workers[code] = Worker([options.worker, "--network", FOLDER / f"{file}.toml", *common], log)
    for code, file in (("escnn", net), ("torch, plain", NETS[net])):
        workers[code] = EscnnWorker([options.peers, ROOT / "bench/peers/escnn_network.py", "--network",
                                     FOLDER / f"{file}.toml", *common], log)
    answers = {}
    for stage in ("construct", "train", "eval", "expand"):
        asked = {code: worker for code, worker in workers.items()
                 if stage in ("train", "eval") or code == "ours"
                 or code == "escnn" and stage == "expand"}
        runs = {code: [] for code in asked}
        for turn in range(options.rounds + 1):
            for code, worker in asked.items():
                answer = worker.run(stage, options.limit)
                if "error" in answer:
                    raise SystemExit(f"{net} {stage} {code}: {answer['error']}")
                if turn:  # the first warms up
                    runs[code].append(answer)
        if stage == "construct":
            runs["escnn"] = [workers["escnn"].built]
        answers[stage] = runs
    for stage, runs in answers.items():
        for code, own in runs.items():
            ratio = "1" if code == "ours" else quartiles(
                [a["cpu"] / o["cpu"] for a, o in zip(own, runs["ours"])])
            if stage == "construct" and code == "escnn":
                ratio = f"{own[0]['cpu'] / statistics.median(o['cpu'] for o in runs['ours']):.0f}"
            memory = own[-1].get("peak_mib", 0) - (workers[code].base_mib or 0)
            print(f"| {net} | {stage} | {code} | {statistics.median(a['cpu'] for a in own):.3g} | {ratio} | "
                  f"{f'{memory:.0f}' if stage == 'train' else ''} |", flush=True)
    share = [e["cpu"] / t["cpu"] for e, t in zip(answers["expand"]["ours"], answers["train"]["ours"])]
    print(f"| {net} | expand / train | ours | {statistics.median(share):.3f} | | |", flush=True)
    for worker in workers.values():
        worker.stop()
    return answers


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--worker", type=Path, default=ROOT / "build/bin/steerable_worker")
    parser.add_argument("--peers", default=str(ROOT / "build/peers/bin/python"),
                        help="the Python of the environment of bench/requirements.txt")
    parser.add_argument("--log", type=Path, default=ROOT / "build/steerable.log")
    parser.add_argument("--json", type=Path, default=ROOT / "build/steerable.json")
    parser.add_argument("--limit", type=float, default=120, help="seconds for one run of a stage")
    options = parser.parse_args()
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {platform.processor() or platform.machine()}, "
          f"{options.threads} thread{'s' * (options.threads > 1)}, {options.rounds} rounds, batch "
          f"{options.batch}\n\n| net | stage | code | CPU seconds | ratio to ours | MiB more |\n"
          "|---|---|---|---|---|---|")
    found = {}
    with open(options.log, "w", encoding="utf-8") as log:
        for net in options.nets:
            found[net] = measure(net, options, log)
    options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    sys.exit(main())
