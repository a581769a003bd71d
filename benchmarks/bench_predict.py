"""Times the answers of a trained model to a folder of JPEGs, by flowertune and by open_clip alone.

    python benchmarks/bench_predict.py --rounds 3 --json predict.json

`flowertune` is `flowertune.load(RUN).stream(photos)`, what `flowertune predict` prints. `open_clip`
is the same model without it: open_clip's own preprocessing in a DataLoader with `--workers`
processes, its image tower with the run's LoRA in the weights, and the run's head, in batches of the
same size. Each measurement is a fresh process, and they alternate. "photos/s" is from the first
photo to the last answer, with the model loaded and warm; "whole process" is from start to exit.
Both get GOMP_SPINCOUNT, which flowertune else would have alone. The run is trained first, on two
photos a class, with DeiT-Tiny (--backbone names another open_clip directory).

`--copies N` answers the photos N times over, by links: what grows with their number shows beside
what does not. "private memory" is what the measuring process wrote itself (RssAnon), at its peak
between the first photo and the last; a DataLoader's processes come on top of it.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peers import child, command, table
from peers.work import cores, link_photos

PACKAGES = ("torch", "torchvision", "open_clip_torch", "peft", "pillow")
WARM_UP = 2  # batches
COLUMNS: tuple[table.Column, ...] = (
    ("photos_per_second", "photos/s", "{:.1f}", True),
    ("process_seconds", "whole process, s", "{:.1f}", True),
    ("private_gb", "private memory, GB", "{:.3f}", True),
)


def main() -> int:
    return command.run("bench_predict", _parser(), compare, worker)


def compare(options: argparse.Namespace, photos: Path, scratch: Path) -> None:
    """Trains the run, measures who answers, and prints the table. Raises ChildError."""
    run = _trained(options, photos, scratch)
    runs = []
    for number, (name, copies) in child.in_turn(_settings(options), options.rounds):
        place = scratch / f"{copies}x"
        if not place.exists():
            link_photos(photos, place, options.limit, ("train", "val"), copies)
        job = {"run": str(run), "photos": str(place), "batch_size": options.batch_size,
               "workers": options.workers}  # fmt: skip
        measured = child.measure(Path(__file__).resolve(), name, job, scratch, look=False)
        measured["name"] = f"{name}, {measured['photos']:,} photos"
        runs.append(measured)
        print(
            f"round {number} of {options.rounds}, {measured['name']}:"
            f" {measured['photos_per_second']:.1f} photos/s",
            flush=True,
        )
    runs.sort(key=lambda each: (each["photos"], each["name"]))
    rows = with_ratios(table.spreads(runs, COLUMNS), runs)
    without = [name for name, row in rows.items() if "ratio" not in row["photos_per_second"]]
    print(f"\n{runs[0]['device']}, {cores()} cores, median (least to most) of {options.rounds}\n")
    print("\n".join(table.markdown(rows, COLUMNS, "who", "flowertune / it", without)))
    print(f"\n{agreement(runs)}")
    if options.json:
        for each in runs:
            del each["answers"]
        facts = {"batch_size": options.batch_size, "workers": options.workers,
                 "runs": runs, "summary": rows}  # fmt: skip
        command.write_json(options.json, facts, PACKAGES)


def _settings(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Who answers how many times over: open_clip alone the smallest number."""
    ours = [("flowertune", copies) for copies in sorted(set(options.copies))]
    return [*ours, ("open_clip", ours[0][1])]


def _trained(options: argparse.Namespace, photos: Path, scratch: Path) -> Path:
    words = [
        "train", "method=lora", "data=folder", f"data.root={photos}", "data.shots=2",
        "backbone=local", f"backbone.path={options.backbone}", "backbone.text=false",
        f"trainer.device={options.device}", "trainer.epochs=1", "baselines=false",
        "run.report=false", f"run.root={scratch}", "run.name=trained",
    ]  # fmt: skip
    environment = {**os.environ, "FLOWERTUNE_CACHE": str(scratch / "cache")}
    program = [sys.executable, "-m", "flowertune", *words]
    process = subprocess.run(program, env=environment, capture_output=True, text=True)
    if process.returncode:
        raise child.ChildError(process.stderr.strip())
    return scratch / "trained"


def with_ratios(rows: dict[str, table.Row], runs: list[dict[str, Any]]) -> dict[str, table.Row]:
    """Adds to open_clip's medians flowertune's over them, for as many photos."""
    ours = {run["photos"]: run["name"] for run in runs if run["name"].startswith("flowertune")}
    for run in runs:
        if run["name"] != ours[run["photos"]]:
            for key, *_ in COLUMNS:
                theirs = rows[run["name"]][key]
                if theirs["median"]:
                    theirs["ratio"] = rows[ours[run["photos"]]][key]["median"] / theirs["median"]
    return rows


def agreement(runs: list[dict[str, Any]]) -> str:
    """One line: on how many photos both gave the same answer."""
    theirs = next(run for run in runs if run["name"].startswith("open_clip"))
    ours = next(run for run in runs if run["photos"] == theirs["photos"] and run is not theirs)
    pairs = list(zip(ours["answers"], theirs["answers"], strict=True))
    same = sum(first == second for first, second in pairs)
    return f"the same answer on {same:,} of {len(pairs):,} photos"


def worker(name: str, job_json: str, folder: str) -> int:
    """One measurement in this process; the last line that it prints is its result in JSON."""
    job = json.loads(job_json)
    from peers.memory import MemoryWatch

    import flowertune
    from flowertune.runtime import memory

    model = flowertune.load(job["run"])
    paths = sorted(path for path in Path(job["photos"]).rglob("*") if path.is_file())
    if name == "flowertune":
        memory.keep_freed()  # as the command does
        answers = _by_flowertune
    else:
        from peers import plain_clip

        answers = plain_clip.answers
    few = paths[: WARM_UP * job["batch_size"]]
    list(answers(model, few, job))
    watch, began = MemoryWatch(), time.perf_counter()
    said = list(answers(model, paths, job))
    seconds = time.perf_counter() - began
    found = {
        "photos": len(said),
        "seconds": seconds,
        "photos_per_second": len(said) / seconds,
        **watch.peaks(),
        "device": f"{model.compute.device_name} {model.compute.precision}",
        "answers": said,
    }
    print("\n" + json.dumps(found), flush=True)
    return 0


def _by_flowertune(model: Any, paths: list[Path], job: dict[str, Any]) -> Iterator[str]:
    for answer in model.stream(paths, batch_size=job["batch_size"]):
        yield answer.label


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(__doc__, model="vit_tiny", batch_size=32)
    shared = parser.get_default("photos").parents[1]
    parser.add_argument("--backbone", type=Path, default=shared / "weights/deit-tiny-imagenet",
                        help="an open_clip directory")  # fmt: skip
    parser.add_argument("--workers", type=int, default=cores(),
                        help="processes of the DataLoader; default: the cores")  # fmt: skip
    parser.add_argument("--limit", type=command.at_least_one, help="photos of a split, at most")
    parser.add_argument("--copies", type=command.at_least_one, nargs="+", default=[1],
                        help="how many times the photos; default: 1")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
