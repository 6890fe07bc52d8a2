"""Curvature, evidence and predictive beside other codes: the same networks, weights and images.

    ./evariste bench peers [--nets mlp cnn] [--stages kron diag] [--rounds 3] [--threads 1]

Every code runs each stage in a process of its own and waits for its turn; a round asks each of them
once, one after another, so all of them meet the same machine. Ratios are of one round, peer over
ours; the table has their median with the smallest and the largest, in process CPU time with the
wall clock's beside it. `error` is the relative difference of what the code computed from our
float64 value. `base` is the memory of the process once it has read network and data, `peak` the
most it had until the end of its stage.

A second table says what bounds ours: flops of a pass over the data by plan_curvature against those
of a 2048^3 sgemm in the same run; bytes as if every activation and cotangent were written once and
read once, against a copy; and the part of the time in eigenvalues, outside the pass. A third has
the aims (bench/targets.py). All answers go to --json.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import targets

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"mlp": (2000, 250), "mlp1024": (1000, 250), "lenet": (1000, 250), "cnn": (1000, 125),
         "resnet8": (250, 50), "resnet20": (100, 50), "fixup18": (60, 20), "allcnn": (40, 20),
         "wrn16_4": (32, 8)}  # samples, in chunks of
# stage of ours -> (peer, the same stage there)
PEERS = {
    "plain": [("torch", "plain")],
    "kron": [("laplace asdl", "kron"), ("laplace curvlinops", "kron"),
             ("laplace backpack", "kron")],
    "kron_values": [("ours, plain epoch", "plain")],  # the unit, in the same rounds
    "kron_corrected": [], "kron_sketched": [], "kron_mc": [], "hyper_gradient": [],
    "hyper_gradient_total": [("ntk-marglik direct", "hyper_gradient"),
                             ("ntk-marglik jvp", "hyper_gradient")],
    "factors": [("curvlinops", "kron"), ("nngeometry", "kron_joint")],  # without eigenvalues
    "factors_mc": [("curvlinops", "kron_mc")],
    "factors_empirical": [("curvlinops", "kron_empirical")],
    "ekfac": [("curvlinops", "ekfac")],
    "diag": [("laplace asdl", "diag"), ("laplace backpack", "diag"),
             ("laplace curvlinops", "diag")],
    "last_layer": [("laplace asdl", "last_layer")],
    "eigenvalues": [("laplace asdl", "eigenvalues")],
    "evidence": [("laplace asdl", "evidence")],
    "predictive_20": [("laplace asdl", "predictive_20"), ("laplace curvlinops", "predictive_20"),
                      ("laplace backpack", "predictive_20"), ("ntk-marglik jvp", "predictive_20")],
}
SCRIPTS = {"torch": ("plain_torch.py",), "curvlinops": ("curvlinops_kfac.py",),
           "nngeometry": ("nngeometry_kfac.py",),
           **{f"laplace {b}": ("laplace_torch.py", "--backend", b)
              for b in ("asdl", "curvlinops", "backpack")},
           **{f"ntk-marglik {b}": ("ntk_marglik.py", "--backend", b) for b in ("direct", "jvp")}}
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
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=log, text=True)
        self.base_mib = self.read().get("base_mib")

    def read(self):
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        return {"error": f"ended with code {self.process.wait()}"}

    def run(self, stage, limit):
        """Its answer, or {"error"}; after `limit` seconds it is stopped, and "over" says so."""
        if self.process.poll() is not None:
            return {"error": f"ended with code {self.process.returncode}"}
        stopped = threading.Event()
        timer = threading.Timer(limit, lambda: (stopped.set(), self.process.kill()))
        timer.start()
        self.process.stdin.write(json.dumps({"stage": stage}) + "\n")
        self.process.stdin.flush()
        answer = self.read()
        timer.cancel()
        return {"error": f"more than {limit:g} s", "over": limit} if stopped.is_set() else answer

    def stop(self):
        self.process.stdin.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def spread(values, digits=2):
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"


def measure(net, options, scratch, log):
    """One dict per stage and code: net, stage, code, base_mib, answers of the rounds and the
    reference's value; and the machine's rates."""
    count, batch = SIZES[net]
    folder = scratch / net
    folder.mkdir()
    network = ROOT / "bench/nets" / f"{net}.toml"
    subprocess.run([options.python, "-c", PREPARE, str(ROOT / "python"), str(network), str(folder),
                    str(count)], check=True)
    common = ["--network", network, "--weights", folder / "weights.safetensors", "--data",
              folder / "data.safetensors", "--batch", batch, "--threads", options.threads]
    exact = Worker([options.worker, *common, "--float64"], log)
    rates = exact.run("machine", options.limit)
    rows = []
    for stage in options.stages or PEERS:
        asked = {"ours": stage} | {code: at for code, at in PEERS[stage]
                                   if code not in options.absent}
        workers = {code: Worker([options.worker, *common] if code.startswith("ours") else
                                [options.peers, ROOT / "bench/peers" / SCRIPTS[code][0],
                                 *SCRIPTS[code][1:], *common], log) for code in asked}
        reference = None if stage == "plain" else exact.run(stage, options.limit).get("value")
        runs = {code: [] for code in asked}
        for turn in range(options.rounds + 1):  # the first warms up
            for code, answers in runs.items():
                if answers and "error" in answers[-1]:
                    continue
                answer = workers[code].run(asked[code], options.limit)
                if turn > 0 or "error" in answer:
                    answers.append(answer)
                print(f"{net} {stage} {code} {answer}", file=sys.stderr)
        for code, answers in runs.items():
            rows.append({"net": net, "stage": stage, "code": code, "answers": answers,
                         "base_mib": workers[code].base_mib,
                         "reference": reference if code != "ours, plain epoch" else None})
            workers[code].stop()
            print(line(rows[-1], runs["ours"]), flush=True)
    exact.stop()
    return rows, rates


def line(row, ours):
    start = f"| {row['net']} | {row['stage']} | {row['code']} |"
    answers, reference = row["answers"], row["reference"]
    if "error" in answers[-1]:
        return f"{start} {answers[-1]['error'][:90]} | | | | | |"
    ratio = {clock: spread([a[clock] / o[clock] for a, o in zip(answers, ours) if clock in o])
             for clock in ("cpu", "seconds")}
    value = answers[-1].get("value")
    error = ""
    if value is not None and reference:
        error = f"{abs(value - reference) / abs(reference):.0e}"
    if row["code"] == "ours":
        ratio = {"cpu": "1", "seconds": "1"}
    return (f"{start} {median(answers, 'seconds'):.3g} | {ratio['cpu']} | {ratio['seconds']} | "
            f"{error} | {row['base_mib']:.0f} | {answers[-1]['peak_mib']:.0f} |")


def median(answers, key):
    return statistics.median(a[key] for a in answers)


def bounds(row, rates):
    """What one of our rows reaches of the machine's rates."""
    answers = row["answers"]
    seconds = median(answers, "seconds")
    eigen = median(answers, "eigen_seconds") if "eigen_seconds" in answers[-1] else 0
    flops, moved = (answers[-1][key] / (seconds - eigen) for key in ("gflop", "gbyte"))
    return (f"| {row['net']} | {row['stage']} | {answers[-1]['gflop']:.3g} | {flops:.0f} | "
            f"{flops / rates['gflops']:.0%} | {moved:.2g} | {moved / rates['gbytes']:.0%} | "
            f"{eigen / seconds:.0%} |")


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
    parser.add_argument("--json", type=Path, default=ROOT / "build/peers.json")
    parser.add_argument("--limit", type=float, default=300, help="seconds for one run of a stage")
    options = parser.parse_args()
    checkout = os.environ.get("EVARISTE_NTK_MARGLIK", "")
    options.absent = set()
    if not (Path(checkout) / "dependencies/laplace").is_dir() or not checkout:
        options.absent = {code for code in SCRIPTS if code.startswith("ntk-marglik")}
        print("ntk-marglik is left out: EVARISTE_NTK_MARGLIK does not name a checkout of it\n")
    now = datetime.datetime.now(datetime.timezone.utc)
    print(f"{now:%Y-%m-%d %H:%M} UTC, {platform.processor() or platform.machine()}, "
          f"{options.threads} thread{'s' * (options.threads > 1)}, {options.rounds} rounds\n")
    print("| net | stage | code | seconds | CPU ratio to ours | wall ratio | error | base MiB | "
          "peak MiB |\n|---|---|---|---|---|---|---|---|---|")
    rows, rates = [], {"gflops": 0, "gbytes": 0}
    with tempfile.TemporaryDirectory(prefix="evariste-peers-") as scratch, \
            open(options.log, "w", encoding="utf-8") as log:
        for net in options.nets:
            more, of_machine = measure(net, options, Path(scratch), log)
            rows += more
            rates = {key: max(value, of_machine[key]) for key, value in rates.items()}
    options.json.write_text(json.dumps({"threads": options.threads, "rates": rates, "rows": rows}))
    print(f"\nsgemm {rates['gflops']:.0f} GFLOP/s, copy {rates['gbytes']:.1f} GB/s\n\n"
          "| net | stage | GFLOP | GFLOP/s | of sgemm | GB/s | of copy | eigenvalues, of time |\n"
          "|---|---|---|---|---|---|---|---|")
    for row in rows:
        if row["code"] == "ours" and "gflop" in row["answers"][-1]:
            print(bounds(row, rates))
    print("\n" + targets.table(rows, options.threads))


if __name__ == "__main__":
    main()
