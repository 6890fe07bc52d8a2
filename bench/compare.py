"""Curvature, evidence and predictive beside other codes: the same networks, weights and images.

    ./evariste bench peers [--nets mlp cnn] [--stages kron diag] [--rounds 3] [--threads 1]

Every code runs in a process of its own and waits for its turn; a round asks each of them once, one
after another, so all of them meet the same machine. Ratios are of one round, peer over ours; the
table has their median with the smallest and the largest, in process CPU time with the wall clock's
beside it. `error` is the relative difference of what the code computed from our float64 value.
"""

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"mlp": (2000, 250), "cnn": (1000, 125), "resnet8": (250, 50), "wrn16_4": (32, 8)}
# stage of ours -> (peer, the same stage there)
PEERS = {
    "plain": [("torch", "plain")],
    "kron": [("laplace asdl", "kron"), ("laplace curvlinops", "kron"),
             ("laplace backpack", "kron")],
    "kron_corrected": [], "kron_sketched": [], "kron_mc": [], "hyper_gradient": [],
    "factors": [("curvlinops", "kron"), ("nngeometry", "kron_joint")],  # without eigenvalues
    "factors_mc": [("curvlinops", "kron_mc")],
    "factors_empirical": [("curvlinops", "kron_empirical")],
    "ekfac": [("curvlinops", "ekfac")],
    "diag": [("laplace asdl", "diag"), ("laplace backpack", "diag")],
    "last_layer": [("laplace asdl", "last_layer")],
    "evidence": [("laplace asdl", "evidence")],
    "predictive_20": [("laplace asdl", "predictive_20")],
}
SCRIPTS = {"torch": ("plain_torch.py",), "curvlinops": ("curvlinops_kfac.py",),
           "nngeometry": ("nngeometry_kfac.py",),
           **{f"laplace {b}": ("laplace_torch.py", "--backend", b)
              for b in ("asdl", "curvlinops", "backpack")}}
PREPARE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
import evariste
from safetensors.torch import save_file
torch.manual_seed(0)
network = evariste.load_network(sys.argv[2])
evariste.save_weights(network, sys.argv[3] + "/weights.safetensors")
n = int(sys.argv[4])
save_file({"x": torch.randn(n, *network.input_shape), "y": torch.randint(10, (n,)),
           "points": torch.randn(100, *network.input_shape)}, sys.argv[3] + "/data.safetensors")
"""


class Worker:
    """One code on one case."""

    def __init__(self, command, log):
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=log, text=True)
        self.stages = self.read().get("stages", [])

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return {"error": f"ended with code {self.process.wait()}"}

    def run(self, stage):
        if self.process.poll() is not None:
            return {"error": f"ended with code {self.process.returncode}"}
        self.process.stdin.write(json.dumps({"stage": stage}) + "\n")
        self.process.stdin.flush()
        return self.read()

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()


def spread(values, digits=2):
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def measure(net, options, scratch, log):
    """Rows (stage, code, ours seconds, ratio cpu, ratio wall, error, peak) of one network."""
    count, batch = SIZES[net]
    folder = scratch / net
    folder.mkdir()
    network = ROOT / "bench/nets" / f"{net}.toml"
    subprocess.run([options.python, "-c", PREPARE, str(ROOT / "python"), str(network), str(folder),
                    str(count)], check=True)
    common = ["--network", str(network), "--weights", str(folder / "weights.safetensors"), "--data",
              str(folder / "data.safetensors"), "--batch", str(batch), "--threads",
              str(options.threads)]
    ours = Worker([str(options.worker), *common], log)
    exact = Worker([str(options.worker), *common, "--float64"], log)
    stages = [s for s in PEERS if not options.stages or s in options.stages]
    names = list(dict.fromkeys(code for s in stages for code, _ in PEERS[s]))
    workers = {code: Worker([options.peers, str(ROOT / "bench/peers" / SCRIPTS[code][0]),
                             *SCRIPTS[code][1:], *common], log) for code in names}
    rows = []
    for stage in stages:
        reference = exact.run(stage).get("value") if stage != "plain" else None
        runs = {"ours": [], **{code: [] for code, _ in PEERS[stage]}}
        for turn in range(options.rounds + 1):  # the first warms up
            for code in runs:
                if runs[code] and "error" in runs[code][-1]:
                    continue
                asked = stage if code == "ours" else next(a for c, a in PEERS[stage] if c == code)
                answer = (ours if code == "ours" else workers[code]).run(asked)
                if turn > 0 or "error" in answer:
                    runs[code].append(answer)
                print(f"{net} {stage} {code} {answer}", file=sys.stderr)
        for code, answers in runs.items():
            rows.append((net, stage, code, runs["ours"], answers, reference))
    for worker in (ours, exact, *workers.values()):
        worker.stop()
    return rows


def line(net, stage, code, ours, answers, reference):
    if "error" in answers[-1]:
        return f"| {net} | {stage} | {code} | {answers[-1]['error'][:90]} | | | | |"
    ratio = {clock: spread([a[clock] / o[clock] for a, o in zip(answers, ours)])
             for clock in ("cpu", "seconds")}
    value = answers[-1].get("value")
    error = "" if value is None or not reference else f"{abs(value - reference) / abs(reference):.0e}"
    seconds = statistics.median(a["seconds"] for a in answers)
    if code == "ours":
        ratio = {"cpu": "1", "seconds": "1"}
    return (f"| {net} | {stage} | {code} | {seconds:.3g} | {ratio['cpu']} | {ratio['seconds']} | "
            f"{error} | {answers[-1]['peak_mib']:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nets", nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--stages", nargs="+", choices=list(PEERS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--worker", type=Path, default=ROOT / "build/bin/curvature_worker")
    parser.add_argument("--python", default=sys.executable, help="an environment with torch")
    parser.add_argument("--peers", default=str(ROOT / "build/peers/bin/python"),
                        help="the Python of the environment of bench/requirements.txt")
    parser.add_argument("--log", type=Path, default=ROOT / "build/peers.log")
    options = parser.parse_args()
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {platform.processor() or platform.machine()}, "
          f"{options.threads} thread{'s' * (options.threads > 1)}, {options.rounds} rounds\n")
    print("| net | stage | code | seconds | CPU ratio to ours | wall ratio | error | peak MiB |\n"
          "|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory(prefix="evariste-peers-") as scratch, \
            open(options.log, "w", encoding="utf-8") as log:
        for net in options.nets:
            for row in measure(net, options, Path(scratch), log):
                print(line(*row), flush=True)


if __name__ == "__main__":
    main()
