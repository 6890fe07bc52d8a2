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
    times = {}
    for run in report["benchmarks"]:
        if run["run_type"] == "iteration":
            times.setdefault(run["run_name"].replace("/real_time", ""), []).append(run["real_time"])
    unit = statistics.median(times["plain_epoch"])
    context = report["context"]
    print(f"{context['date']}, {context['num_cpus']} cores at {context['mhz_per_cpu']} MHz, load "
          f"{context.get('load_avg', ['?'])[0]}")
    print(f"\n| what | ms (median of {len(times['plain_epoch'])}) | plain epochs | spread |")
    print("|---|---|---|---|")
    for name, values in times.items():
        ratios = [value / unit for value in values]
        print(f"| {name} | {statistics.median(values):.0f} | {statistics.median(ratios):.2f} "
              f"| {min(ratios):.2f} – {max(ratios):.2f} |")


if __name__ == "__main__":
    main(sys.argv[1])
