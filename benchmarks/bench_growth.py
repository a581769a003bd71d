"""Measure how the cost of training grows with the number of images.

    python benchmarks/bench_growth.py --model vit_b32 --factors 1 4 16 --rounds 3 --json growth.json

The larger datasets link to the images of the smallest under other names, so the cost per image can
only change with their number. Each dataset trains LoRA on a random backbone, with
data.residency=device (on the CPU: the memory map itself) and with data.residency=stream (read in
the background). Each measurement is a new process, and the settings alternate.

"step" is a training step with its data, run by the code of the training loop: images sampled from
the whole dataset, augmentation, forward, backward, optimizer. It is timed from the first step to
the last, and waits for a GPU. "validation" is inference on slices of val of one size, spread over
val. Both start after every page of the pixels was read once, as in training from its second epoch
on. Before that, an image costs a few more page faults, and a small dataset soon reuses its pages.
"cache" is decoding train and val from scratch, once per dataset.

Memory is the peak of the training process during steps and validation. "private" is Linux's
RssAnon: memory that the process wrote and the machine must hold, mostly backbone and activations.
"mapped" is RssFile plus RssShmem: pages of files, such as library code and the image cache. The
pages of the cache grow with the images, but they are part of the system's file cache: the kernel
may drop them at any time and read them again. So RSS, the sum of both, does not show how much is
needed. On a GPU, device residency keeps all training pixels in "GPU memory".

The temporary folder (TMPDIR) holds the caches: 1 MB per image, 7 GB by default.
"""

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peers import child, command, ours, table
from peers.work import Work, cores, link_photos, write_backbone

if TYPE_CHECKING:
    from flowertune.config.schema import Config

PACKAGES = ("torch", "torchvision", "open_clip_torch", "numpy", "pillow")
RESIDENCIES = ("device", "stream")
VAL_PHOTOS = 128  # at most, of the smallest dataset and of each timed slice: one batch
FLAT = 0.10
COLUMNS: tuple[table.Column, ...] = (
    ("step_ms", "step, ms/image", "{:.2f}", True),
    ("val_ms", "validation, ms/image", "{:.2f}", False),
    ("cache_seconds", "cache, s per 1,000 images", "{:.1f}", False),
    ("private_gb", "private memory, GB", "{:.3f}", True),
    ("mapped_gb", "mapped, GB", "{:.2f}", False),
    ("gpu_gb", "GPU memory, GB", "{:.2f}", False),
)
# columns that should not depend on the number of images
LEVEL = {"step_ms": "step", "val_ms": "validation", "cache_seconds": "cache",
         "private_gb": "private memory"}  # fmt: skip


def main() -> int:
    return command.run("bench_growth", _parser(), compare, worker)


def compare(options: argparse.Namespace, photos: Path, scratch: Path) -> None:
    """Measure training on each dataset and print the table. Raises ChildError."""
    factors = sorted(set(options.factors))
    write_backbone(scratch / "backbone", options.model, seed=0)
    jobs, counts = {}, {}
    for factor in factors:
        place = scratch / f"{factor}x"
        limit = options.base_photos
        counts[factor] = link_photos(photos, place, limit, ("train",), factor)
        counts[factor] |= link_photos(photos, place, min(limit, VAL_PHOTOS), ("val",), factor)
        work = Work(
            photos=str(place),
            backbone=str(scratch / "backbone"),
            # the same for every dataset
            batch_size=min(options.batch_size, counts[factors[0]]["train"]),
            epochs=1,
            device=options.device,
            precision="auto",
            workers=0,
        )
        val_photos, cache = counts[factor]["val"] // factor, str(scratch / "cache")
        jobs[factor] = {"work": asdict(work), "cache": cache, "steps": options.steps,
                        "val_photos": val_photos}  # fmt: skip
    print(
        f"{options.model}, random weights; images from {photos}; batches of {work.batch_size},"
        f" {options.steps} steps per process; {cores()} cores"
    )
    builds = {factor: _build(factor, jobs[factor], scratch) for factor in factors}
    runs = measure_all(jobs, counts, builds, options.rounds, scratch)

    rows = with_ratios(table.spreads(runs, COLUMNS))
    flat = flatness(rows)
    smallest, ratio_heading = list(rows)[: len(RESIDENCIES)], f"ratio to {factors[0]}x"
    print(
        f"\n{runs[0]['device']} {runs[0]['precision']}, median (least to most) of {options.rounds},"
        " cache: built once\n"
    )
    print("\n".join(table.markdown(rows, COLUMNS, "train images", ratio_heading, smallest)))
    print(f"\n{flat}")
    if options.json:
        facts = {
            "model": options.model,
            "photos": {f"{factor}x": each for factor, each in counts.items()},
            "steps": options.steps,
            "batch_size": work.batch_size,
            "cache": {f"{factor}x": each for factor, each in builds.items()},
            "runs": runs,
            "summary": rows,
            "flatness": flat,
        }
        command.write_json(options.json, facts, PACKAGES)


def _build(factor: int, job: dict[str, Any], scratch: Path) -> dict[str, Any]:
    built = child.measure(Path(__file__).resolve(), "cache", job, scratch, look=False)
    print(f"cache of {factor}x: {built['photos']:,} images in {built['seconds']:.1f} s", flush=True)
    return built


def measure_all(
    jobs: dict[int, dict[str, Any]],
    counts: dict[int, dict[str, int]],
    builds: dict[int, dict[str, Any]],
    rounds: int,
    scratch: Path,
) -> list[dict[str, Any]]:
    """Run each dataset and residency `rounds` times, in turn. Raises ChildError."""
    settings = [(factor, residency) for factor in jobs for residency in RESIDENCIES]
    runs = []
    for number, setting in child.in_turn(settings, rounds):
        factor, residency = setting
        job, built = jobs[factor] | {"residency": residency}, builds[factor]
        run = child.measure(Path(__file__).resolve(), "steps", job, scratch, look=False)
        run |= {
            "name": f"{counts[factor]['train']:,} {residency}",
            "factor": factor,
            "residency": residency,
            "cache_seconds": 1000 * built["seconds"] / built["photos"],
        }
        runs.append((settings.index(setting), run))
        print(
            f"round {number} of {rounds}, {run['name']}: step {run['step_ms']:.2f} and validation"
            f" {run['val_ms']:.2f} ms/image, private memory {run['private_bytes'] / 1e9:.3f} GB",
            flush=True,
        )
    return [run for _, run in sorted(runs, key=lambda each: each[0])]


def with_ratios(rows: dict[str, table.Row]) -> dict[str, table.Row]:
    """Add the ratio of each median to that of the smallest dataset with the same residency."""
    smallest: dict[str, table.Row] = {}
    for name, row in rows.items():
        reference = smallest.setdefault(name.split()[-1], row)
        for key in LEVEL:
            if reference[key]["median"]:
                row[key]["ratio"] = row[key]["median"] / reference[key]["median"]
    return rows


def flatness(rows: dict[str, table.Row]) -> str:
    """Describe in one line if all ratios of each column are within FLAT of 1."""
    said = []
    for key, name in LEVEL.items():
        ratios = [row[key]["ratio"] for row in rows.values() if "ratio" in row[key]]
        if ratios:  # none if the system does not report the memory
            far = max(ratios, key=lambda ratio: abs(ratio - 1))
            said.append(f"{name} {'yes' if abs(far - 1) <= FLAT else 'no'} ({far:.2f})")
    return f"flat within {100 * FLAT:.0f}% (ratio farthest from 1): " + ", ".join(said)


def worker(task: str, job_json: str, folder: str) -> int:
    """Measure in this process and print the result as a last line of JSON."""
    job = json.loads(job_json)
    os.environ["FLOWERTUNE_CACHE"] = job["cache"]
    from peers import growth

    from flowertune.commands import compose
    from flowertune.errors import FlowertuneError

    def execute(config: "Config") -> int:
        if task == "cache":
            found = growth.cache_building(config)
        else:
            found = growth.steps_and_validation(config, job["steps"], job["val_photos"])
        print("\n" + json.dumps(found), flush=True)
        return 0

    words = [*ours.settings(Work(**job["work"])), f"data.residency={job.get('residency', 'auto')}"]
    try:
        return compose.run(words, execute)
    except FlowertuneError as error:
        print(error)
        return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(__doc__, model="vit_tiny", batch_size=16)
    number = command.at_least_one
    parser.add_argument("--factors", type=number, nargs="+", default=[1, 4, 16],
                        help="multiples of the images (default: 1 4 16)")  # fmt: skip
    parser.add_argument("--base-photos", type=number, default=340,
                        help="maximum of train images at factor 1 (default: 340)")  # fmt: skip
    parser.add_argument("--steps", type=number, default=40, help="timed steps (default: 40)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
