"""Train all methods on real images with three seeds, and write the table into RESULTS.md.

    make results-real        # FLOWERTUNE_SHARED names the folder with images and weights

Finished runs are kept, so it can be stopped and restarted; the table is updated after each run.
Failed runs are listed at the end and do not stop the others.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from flowertune.analysis.statistics import t_half_width

METHODS = ("linear_probe", "lora", "mixup", "triplet", "vpt", "vpt_deep", "vpt_shallow", "best")
SEEDS = (42, 43, 44)
ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- results-real: begin -->\n", "<!-- results-real: end -->\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "results-real")
    parser.add_argument("--methods", nargs="+", default=METHODS, choices=METHODS)
    parser.add_argument("--table-only", action="store_true", help="only write the table")
    options = parser.parse_args()
    shared = Path(os.environ.get("FLOWERTUNE_SHARED", ROOT.parent / "shared")).resolve()
    failed = []
    # seed by seed, for an early table of all methods
    for seed in () if options.table_only else SEEDS:
        for method in options.methods:
            words = [
                f"method={method}", f"seed={seed}",
                "data=folder", f"data.root={shared / 'data/flowers17'}",
                "backbone=local", f"backbone.path={shared / 'weights/deit-tiny-imagenet'}",
                "backbone.text=false", f"run.root={options.runs}", f"run.name={method}-seed{seed}",
            ]  # fmt: skip
            process = subprocess.run([sys.executable, "-m", "flowertune", "train", *words])
            if process.returncode >= 128 or process.returncode < 0:  # interrupted
                return process.returncode
            if process.returncode:
                failed.append((method, seed))
            write_table(ROOT / "RESULTS.md", options.runs, failed)
    write_table(ROOT / "RESULTS.md", options.runs, failed)
    for method, seed in failed:
        print(f"failed: {method}, seed {seed}", file=sys.stderr)
    return 1 if failed else 0


def write_table(document: Path, runs: Path, failed: list[tuple[str, int]]) -> None:
    """Write the table of the finished runs between the two marks of the document.

    Omits runs in `failed`: their directories may hold results of an earlier preset.
    """
    text = document.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    lines = [
        "| method | val top-1 of seeds " + ", ".join(map(str, SEEDS))
        + " | mean | std | 95% interval of the mean | mean per class | trainable parameters "
        "| best epoch | minutes per run |",
        "|---|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for method in METHODS:
        found = [
            None if (method, seed) in failed else read(runs / f"{method}-seed{seed}")
            for seed in SEEDS
        ]
        if any(found):
            lines.append(row(method, found))
    document.write_text(before + BEGIN + "\n".join(lines) + "\n" + END + after, encoding="utf-8")


def read(run: Path) -> dict[str, Any] | None:
    """Read the results of a finished run, or None."""
    path = run / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def row(method: str, found: list[dict[str, Any] | None]) -> str:
    """Render a row of the table; marks a method below its probe."""
    done = [results for results in found if results is not None]
    top1 = [100 * results["splits"]["val"]["top1"] for results in done]
    per_class = [100 * results["splits"]["val"]["mean_per_class"] for results in done]
    mean = statistics.mean(top1)
    probe = 100 * done[0]["baselines"]["linear_probe"]["splits"]["val"]["top1"]
    interval = std = "needs 2 runs"
    if len(top1) > 1:
        half = t_half_width(top1)
        interval = f"{max(mean - half, 0):.1f} to {min(mean + half, 100):.1f}"
        std = f"{statistics.stdev(top1):.2f}"
    minutes = statistics.mean(results["seconds"] for results in done) / 60
    cells = [
        method + (" (below its probe)" if mean < probe - 1e-9 else ""),
        ", ".join("–" if r is None else f"{100 * r['splits']['val']['top1']:.2f}" for r in found),
        f"{mean:.2f}" if len(done) == len(SEEDS) else f"{mean:.2f} of {len(done)}",
        std,
        interval,
        f"{statistics.mean(per_class):.2f}",
        f"{done[0]['trainable_parameters']:,}",
        ", ".join(str(results["best_epoch"] or "") for results in done).strip(", "),
        f"{minutes:.1f}",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
