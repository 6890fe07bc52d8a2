"""What a sweep file says.

    title = "Learned augmentation"
    program = "layerwise"
    preset = "reduced"              # of every run, unless it has its own
    seeds = [1, 2, 3]               # likewise
    out = "results/lila-sweep"      # from the repository's root, or absolute
    threads = 1                     # of one run
    [[run]]
    name = "mnist"
    config = "experiments/layerwise/lila.toml"
    set = ["data.train=1000"]

One job is one run and one seed. `python sweep.py --out FILE` prints the folder.
"""

import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEYS = {"title", "program", "preset", "seeds", "out", "threads", "run"}
RUN_KEYS = {"name", "config", "preset", "seeds", "set", "threads"}


class SweepError(Exception):
    pass


def expect_known(table, known, where):
    for key in table:
        if key not in known:
            raise SweepError(f"{where}: unknown key \"{key}\"; known: {', '.join(sorted(known))}")


def read(file):
    """Its title, program, folder and jobs: dicts with name, seed, words (of the command), threads."""
    try:
        table = tomllib.loads(Path(file).read_text("utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SweepError(f"{file}: {error}") from error
    expect_known(table, KEYS, file)
    if not table.get("run"):
        raise SweepError(f"{file}: expected one [[run]] or more, found none")
    jobs, names = [], set()
    for place, run in enumerate(table["run"]):
        where = f"{file}: run[{place}]"
        expect_known(run, RUN_KEYS, where)
        name = run.get("name")
        if not isinstance(name, str) or not re.fullmatch(r"\w[\w.-]*", name):
            raise SweepError(f"{where}: expected a name of letters, digits, \".\", \"-\" and \"_\", "
                             f"found {name!r}")
        if name in names:
            raise SweepError(f"{where}: the name \"{name}\" stands there twice")
        names.add(name)
        seeds = run.get("seeds", table.get("seeds", [1]))
        if (not isinstance(seeds, list) or not seeds or len(set(seeds)) < len(seeds)
                or any(type(seed) is not int for seed in seeds)):
            raise SweepError(f"{where}: seeds: expected a list of different integers, found {seeds!r}")
        settings = run.get("set", [])
        if not isinstance(settings, list) or any(not isinstance(s, str) for s in settings):
            raise SweepError(f"{where}: set: expected a list of \"KEY=VALUE\", found {settings!r}")
        config = ROOT / run["config"] if "config" in run else None
        if config and not config.is_file():
            raise SweepError(f"{where}: config: {config}: no such file")
        for seed in seeds:
            words = ["--preset", run.get("preset", table.get("preset", "quick")),
                     "--seed", str(seed)]
            if config:
                words += ["--config", str(config)]
            for setting in ["seeds=1", "report=false", *settings]:
                words += ["--set", setting]
            threads = run.get("threads", table.get("threads", 1))
            jobs.append({"name": name, "seed": seed, "threads": threads, "config": config,
                         "words": words + ["--threads", str(threads)]})
    return {"file": Path(file), "title": table.get("title", Path(file).stem),
            "program": table.get("program", "layerwise"),
            "out": ROOT / table.get("out", f"results/{Path(file).stem}"), "jobs": jobs}


if __name__ == "__main__":
    try:
        print(read(sys.argv[-1])["out"])
    except SweepError as found:
        sys.exit(f"sweep: {found}")
