"""Ratios to one epoch of plain training from a Google Benchmark JSON file with repetitions.

    build/bin/refresh_bench --benchmark_repetitions=5 --benchmark_enable_random_interleaving=true \
        --benchmark_out=bench.json --benchmark_out_format=json
    python bench/table.py bench.json
"""

import json
import statistics
import sys


def main(path):
    with open(path) as file:
        report = json.load(file)
    times, eigen, log_dets = {}, {}, {}
    for run in report["benchmarks"]:
        if run["run_type"] == "iteration":
            name = run["run_name"].replace("/real_time", "")
            times.setdefault(name, []).append(run["real_time"])
            eigen.setdefault(name, []).append(1e3 * run.get("eigen_seconds", 0))
            log_dets[name] = run.get("log_det_per_image")
    units = {name.removeprefix("plain_epoch"): statistics.median(values)
             for name, values in times.items() if name.startswith("plain_epoch")}
    context = report["context"]
    print(f"{context['date']}, {context['num_cpus']} cores at {context['mhz_per_cpu']} MHz, load "
          f"{context.get('load_avg', ['?'])[0]}")
    repeats = max(map(len, times.values()))
    print(f"\n| what | ms (median of {repeats}) | plain epochs | spread | with it every epoch | without "
          "decompositions: plain epochs | every five epochs | log det, nats per image |")
    print("|---|---|---|---|---|---|---|---|")
    for name, values in times.items():
        # "" ends every name: the longest ending that has a plain epoch of its own is the network
        network = max((end for end in units if name.endswith(end)), key=len)
        ratios = [value / units[network] for value in values]
        ends = " | | | "
        if name.startswith("refresh/"):
            passes = statistics.median((v - e) / units[network] for v, e in zip(values, eigen[name]))
            ends = (f"{1 + statistics.median(ratios):.2f} | {passes:.2f} | {1 + passes / 5:.2f} | "
                    f"{log_dets[name]:.4f}")
        print(f"| {name} | {statistics.median(values):.0f} | {statistics.median(ratios):.2f} "
              f"| {min(ratios):.2f} – {max(ratios):.2f} | {ends} |")


if __name__ == "__main__":
    main(sys.argv[1])
