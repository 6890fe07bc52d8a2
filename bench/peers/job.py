"""What every worker of the comparison shares: the job's network, weights and data, and the loop
that answers the driver.

A worker reads one line of JSON per run from standard input, {"stage": "kron"}, runs that stage once
and answers with one line, {"seconds", "cpu", "value", "peak_mib"} or {"error"}. Its first line is
{"stages", "base_mib"}, the memory with packages, network and data. Workers that wait for a line use
no processor time, so the driver may interleave them at will (bench/compare.py).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "python"))
import evariste  # noqa: E402


class Job:
    """network, x [N, ...] and y [N] of one case; batch is the chunk everyone works in."""

    def __init__(self):
        parser = argparse.ArgumentParser()
        parser.add_argument("--network", required=True)
        parser.add_argument("--weights", required=True)
        parser.add_argument("--data", required=True)
        parser.add_argument("--batch", type=int, required=True)
        parser.add_argument("--threads", type=int, required=True)
        parser.add_argument("--backend", default="")
        self.arguments = parser.parse_args()
        torch.set_num_threads(self.arguments.threads)
        torch.manual_seed(0)
        self.network = evariste.load_network(self.arguments.network)
        evariste.load_weights(self.network, self.arguments.weights)
        data = load_file(self.arguments.data)
        self.x, self.y, self.points = data["x"], data["y"], data["points"]
        self.batch = self.arguments.batch

    def batches(self):
        """(x, y) chunks in order."""
        return [(self.x[i:i + self.batch], self.y[i:i + self.batch])
                for i in range(0, len(self.x), self.batch)]

    def loader(self):
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(self.x, self.y),
                                           batch_size=self.batch)


def resident_mib(key):
    """"VmRSS": memory now; "VmHWM": the most since the start."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024


def serve(stages):
    """stages: name -> callable that runs the stage once and returns a float to compare, or None."""
    print(json.dumps({"stages": sorted(stages), "base_mib": resident_mib("VmRSS")}), flush=True)
    for line in sys.stdin:
        stage = json.loads(line)["stage"]
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            value = stages[stage]()
        except Exception as error:  # the driver's table says so
            print(json.dumps({"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}),
                  flush=True)
            continue
        answer = {"seconds": time.perf_counter() - wall, "cpu": time.process_time() - cpu,
                  "value": None if value is None else float(value),
                  "peak_mib": resident_mib("VmHWM")}
        print(json.dumps(answer), flush=True)
