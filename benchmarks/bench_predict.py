"""Time predictions of a trained model on a folder of JPEGs, with flowertune and with open_clip.

    python benchmarks/bench_predict.py --rounds 3 --json predict.json

`flowertune` is `flowertune.load(RUN).stream(images)`, the predictions of `flowertune predict`.
`open_clip` is the same model without flowertune: open_clip's preprocessing in a DataLoader with
`--workers` processes, its image tower with the run's LoRA merged, and the run's head, in batches of
the same size. Each measurement is a new process, and they alternate. "images/s" is from the first
image to the last prediction, with the model loaded and warm; "whole process" is from start to exit.
Both get the GOMP_SPINCOUNT that flowertune sets for itself. The run is trained first, on two images
per class, with DeiT-Tiny (--backbone names another open_clip directory).

`--copies N` predicts the images N times, as links, to show what grows with their number. "private
memory" is memory that the measuring process wrote itself (RssAnon), at its peak between the first
image and the last; it excludes the processes of the DataLoader.
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
    ("photos_per_second", "images/s", "{:.1f}", True),
    ("process_seconds", "whole process, s", "{:.1f}", True),
    ("private_gb", "private memory, GB", "{:.3f}", True),
)


def main() -> int:
    return command.run("bench_predict", _parser(), compare, worker)


def compare(options: argparse.Namespace, photos: Path, scratch: Path) -> None:
    """Train the run, measure predictions and print the table. Raises ChildError."""
    run = _trained(options, photos, scratch)
    runs = []
    for number, (name, copies) in child.in_turn(_settings(options), options.rounds):
        place = scratch / f"{copies}x"
        if not place.exists():
            link_photos(photos, place, options.limit, ("train", "val"), copies)
        job = {"run": str(run), "photos": str(place), "batch_size": options.batch_size,
               "workers": options.workers}  # fmt: skip
        measured = child.measure(Path(__file__).resolve(), name, job, scratch, look=False)
        measured["name"] = f"{name}, {measured['photos']:,} images"
        runs.append(measured)
        print(
            f"round {number} of {options.rounds}, {measured['name']}:"
            f" {measured['photos_per_second']:.1f} images/s",
            flush=True,
        )
    runs.sort(key=lambda each: (each["photos"], each["name"]))
    rows = with_ratios(table.spreads(runs, COLUMNS), runs)
    without = [name for name, row in rows.items() if "ratio" not in row["photos_per_second"]]
    print(f"\n{runs[0]['device']}, {cores()} cores, median (least to most) of {options.rounds}\n")
    print("\n".join(table.markdown(rows, COLUMNS, "library", "flowertune / it", without)))
    print(f"\n{agreement(runs)}")
    if options.json:
        for each in runs:
            del each["answers"]
        facts = {"batch_size": options.batch_size, "workers": options.workers,
                 "runs": runs, "summary": rows}  # fmt: skip
        command.write_json(options.json, facts, PACKAGES)


def _settings(options: argparse.Namespace) -> list[tuple[str, int]]:
    """Names and copies; open_clip only with the fewest copies."""
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
    """Add the ratio of flowertune's medians to open_clip's for the same number of images."""
    ours = {run["photos"]: run["name"] for run in runs if run["name"].startswith("flowertune")}
    for run in runs:
        if run["name"] != ours[run["photos"]]:
            for key, *_ in COLUMNS:
                theirs = rows[run["name"]][key]
                if theirs["median"]:
                    theirs["ratio"] = rows[ours[run["photos"]]][key]["median"] / theirs["median"]
    return rows


def agreement(runs: list[dict[str, Any]]) -> str:
    """Describe in one line on how many images both predict the same class."""
    theirs = next(run for run in runs if run["name"].startswith("open_clip"))
    ours = next(run for run in runs if run["photos"] == theirs["photos"] and run is not theirs)
    pairs = list(zip(ours["answers"], theirs["answers"], strict=True))
    same = sum(first == second for first, second in pairs)
    return f"same prediction on {same:,} of {len(pairs):,} images"


def worker(name: str, job_json: str, folder: str) -> int:
    """Measure in this process and print the result as a last line of JSON."""
    job = json.loads(job_json)
    from peers.memory import MemoryWatch

    import flowertune
    from flowertune.runtime import memory

    model = flowertune.load(job["run"])
    paths = sorted(path for path in Path(job["photos"]).rglob("*") if path.is_file())
    if name == "flowertune":
        memory.keep_freed()  # like flowertune predict
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
                        help="processes of the DataLoader (default: one per core)")  # fmt: skip
    parser.add_argument("--limit", type=command.at_least_one, help="maximum of images per split")
    parser.add_argument("--copies", type=command.at_least_one, nargs="+", default=[1],
                        help="multiples of the images (default: 1)")  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
