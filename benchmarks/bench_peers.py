"""Time the same LoRA training with flowertune and with its alternatives.

    python benchmarks/bench_peers.py --model vit_b32 --batch-size 64 --rounds 3 --json peers.json

Peers: `hf_trainer` (transformers' Trainer, CLIPImageProcessor, peft), `notebook` (a loop with
torchvision, open_clip and peft on Linear layers), `peft_mha` (the same loop, peft's wrapper of
nn.MultiheadAttention). All train a linear head and LoRA of the same rank on q, k, v and out of
every block of one random backbone, on the same images, and validate after each epoch. `peft_mha`
trains one update for q, k and v together, so three quarters of the LoRA parameters. flowertune
standardizes the input of its head with frozen features; `--peers flowertune_plain_head` measures
flowertune without that, like the peers.

Each run is a new process. "training" is decoding and training without validation: for flowertune it
includes building the image cache (train and val, from scratch) and the frozen features of the head;
for the others it includes their DataLoaders. "whole process" is from start to exit: imports, model
and validation, for flowertune also the final evaluation and all files of a run. All processes get
the GOMP_SPINCOUNT that flowertune sets for itself.
"""

import argparse
import importlib
import importlib.util
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peers import child, command, table
from peers.work import Work, cores, link_photos, write_backbone

# packages that each needs in addition to those of flowertune
NEEDS = {
    "flowertune": (),
    "flowertune_plain_head": (),
    "hf_trainer": ("transformers", "accelerate"),
    "notebook": (),
    "peft_mha": (),
}
PACKAGES = ("torch", "torchvision", "open_clip_torch", "peft", "transformers", "accelerate",
            "pillow")  # fmt: skip


def main() -> int:
    return command.run("bench_peers", _parser(), compare, worker)


def compare(options: argparse.Namespace, photos: Path, scratch: Path) -> None:
    """Measure training with each and print the table. Raises ChildError."""
    names = []
    for name in ("flowertune", *options.peers):
        missing = [each for each in NEEDS[name] if importlib.util.find_spec(each) is None]
        if missing:
            print(f"skipped: {name} needs {', '.join(missing)}: pip install '.[bench]'")
        else:
            names.append(name)

    counts = link_photos(photos, scratch / "photos", options.limit)
    write_backbone(scratch / "backbone", options.model, seed=0)
    batches = -(-counts["train"] // options.batch_size)
    work = Work(
        photos=str(scratch / "photos"),
        backbone=str(scratch / "backbone"),
        batch_size=options.batch_size,
        epochs=options.epochs,
        device=options.device,
        precision=options.precision,
        # no more workers than batches: a worker without a batch only costs its start
        workers=min(cores(), batches) if options.workers is None else options.workers,
    )
    print(
        f"{options.model}, random weights; {counts['train']} train and {counts['val']} val"
        f" images from {photos}; batches of {work.batch_size}, {work.epochs} epochs,"
        f" LoRA of rank {work.rank} on q, k, v, out; {cores()} cores"
    )
    runs = measure_all(names, work, options.rounds, scratch)

    print()
    for name in names:
        print(f"{name}: {next(run['settings'] for run in runs if run['name'] == name)}")
    first = runs[0]
    print(
        f"\n{first['device']} {first['precision']}, median (least to most) of {options.rounds};"
        f" ratio: flowertune / peer; memory: {child.MEMORY} of the process and its children\n"
    )
    print("\n".join(table.lines(runs)))
    if options.json:
        facts = {
            "model": options.model,
            "photos": counts,
            "work": asdict(work),
            "memory": child.MEMORY,
            "runs": runs,
            "summary": table.summary(runs),
        }
        command.write_json(options.json, facts, PACKAGES)


def measure_all(names: list[str], work: Work, rounds: int, scratch: Path) -> list[dict[str, Any]]:
    """Run each `rounds` times, in turn; each round starts with another. Raises ChildError."""
    runs = []
    for number, name in child.in_turn(names, rounds):
        run = child.measure(Path(__file__).resolve(), name, asdict(work), scratch)
        runs.append(run)
        print(
            f"round {number} of {rounds}, {name}: {run['seconds']:.1f} s,"
            f" {run['images_per_second']:.1f} images/s, loss {run['loss']:.3f},"
            f" val top-1 {run['val_top1']:.3f}",
            flush=True,
        )
    return sorted(runs, key=lambda run: names.index(run["name"]))


def worker(name: str, work_json: str, folder: str) -> int:
    """Train once in this process and print the result as a last line of JSON."""
    work, scratch = Work(**json.loads(work_json)), Path(folder)
    if name.startswith("flowertune"):
        from peers import ours

        result = ours.run(work, scratch, plain_head=name == "flowertune_plain_head")
    elif name == "hf_trainer":
        from peers import hf_trainer

        result = hf_trainer.run(work, scratch)
    else:
        from peers import notebook

        result = notebook.run(work, scratch, opened=name == "notebook")
    import torch

    used = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0
    print("\n" + json.dumps({**result, "gpu_bytes": used}), flush=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = command.parser(__doc__, model="vit_b32", batch_size=64)
    others = [name for name in NEEDS if name != "flowertune"]
    peers = [name for name in others if not name.startswith("flowertune")]
    parser.add_argument(
        "--peers", nargs="*", default=peers, choices=others, help=f"(default: {' '.join(peers)})"
    )
    parser.add_argument("--limit", type=command.at_least_one, help="maximum of images per split")
    parser.add_argument("--epochs", type=command.at_least_one, default=8)
    parser.add_argument(
        "--precision", default="auto", choices=("auto", "fp32", "bf16", "fp16"),
        help="auto: bf16 if the GPU supports it, otherwise fp32",
    )  # fmt: skip
    parser.add_argument(
        "--workers", type=int,
        help="of the peers' DataLoaders (default: one per core, at most one per batch)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
