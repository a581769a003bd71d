"""Tabulate a comparison of runs for the console, Markdown and HTML; accuracies in %."""

from collections.abc import Sequence

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flowertune.analysis.compare import Comparison, PairComparison
from flowertune.analysis.results_table import Row
from flowertune.analysis.settings import METRICS, TOP1, best_first, protocol_text
from flowertune.report.console.run import ConsoleReporter
from flowertune.report.console.table import accuracy_titles, new_table
from flowertune.report.results_table import (
    BELOW_PROBE,
    MARK,
    NOT_COMPARABLE,
    TextTable,
    format_estimate,
    format_interval,
    percent,
    probability,
    sampling_error,
    signed,
)


def notes(group: Comparison) -> list[str]:
    """Write the notes that explain the tables of a group."""
    result = [
        "accuracy: mean ± std over seeds [95% interval of the mean, Student's t]; for a single "
        "run: value [95% Wilson interval]",
    ]
    if any(len(setting.seed_runs) > 1 for setting in group.settings):
        result.append(
            "the intervals over seeds exclude the sampling error of the images, about ± "
            f"{sampling_error(group.settings[0])} (95%)"
        )
    if any(setting.is_below_probe for setting in group.settings):
        result.append(BELOW_PROBE.format(group.reported_split))
    devices = {run.results["device"] for run in group.runs}
    result.append("runs: one per seed, or a single one if the seed has no effect")
    result.append(f"minutes: training and validation per run, on {', '.join(sorted(devices))}")
    return result


def split_table(group: Comparison, split: str) -> TextTable:
    """Header and rows of one split, accuracies with std and interval."""
    header = ["method", "runs"]
    for title in METRICS.values():
        header += [title, "std", "95% interval"]
    rows = []
    for row in group.rows(split):
        *cells, parameters, minutes = _facts(row)
        for each in map(row.estimate, METRICS):
            std = "" if each.std is None else percent(each.std)
            cells += [percent(each.mean), std, format_interval(each)]
        rows.append([*cells, parameters, minutes])
    return [*header, "trainable parameters", "minutes"], rows


def _facts(row: Row) -> tuple[str, str, str, str]:
    """Name, marked if below its linear probe; runs; trainable parameters; minutes."""
    parameters = f"{row.trainable_parameters:,}"
    if row.setting is None:
        return row.name, "1", parameters, ""
    name = row.name + (MARK if row.setting.is_below_probe else "")
    return name, str(len(row.setting.seed_runs)), parameters, f"{row.setting.minutes:.1f}"


def pair_table(pairs: Sequence[PairComparison]) -> TextTable:
    """Header and rows of the pairwise tests."""
    header = [
        "A", "B", "B minus A", "95% interval per seed", "correct only by A", "correct only by B",
        "McNemar's p per seed",
    ]  # fmt: skip
    rows = []
    for pair in pairs:
        tests = pair.tests.values()
        intervals = [f"{signed(t.difference.low)} to {signed(t.difference.high)}" for t in tests]
        rows.append([
            pair.first.label, pair.second.label, signed(pair.difference), ", ".join(intervals),
            ", ".join(str(test.only_first) for test in tests),
            ", ".join(str(test.only_second) for test in tests),
            ", ".join(probability(test.p) for test in tests),
        ])  # fmt: skip
    return header, rows


def pairs_of_best(group: Comparison) -> list[PairComparison]:
    """Pairs of the best setting on val with every other; empty without a val split."""
    if "val" not in group.splits:
        return []
    best = best_first(group.settings)[0]
    return [pair for pair in group.pairs if best in (pair.first, pair.second)]


def pairs_note(group: Comparison) -> str:
    """Explain how to read the p values of all pairs."""
    n_tests, split = sum(len(pair.tests) for pair in group.pairs), group.reported_split
    return (
        f"McNemar's exact test on the {group.n_images(split):,} images of {split} (number of "
        f"tests: {n_tests}). At p < 0.05, expect {n_tests / 20:.2g} false alarms; for 5% over all "
        f"tests, require p < {0.05 / max(n_tests, 1):.2g} (Bonferroni)."
    )


def show(console: ConsoleReporter, groups: Sequence[Comparison]) -> None:
    """Print the tables of each group, and compare its best setting with the others."""
    if len(groups) > 1:
        console.say(NOT_COMPARABLE)
    for group in groups:
        console.say(protocol_text(group.settings[0].results[0]))
        for split in group.splits:
            console.console.print(_console_table(group, split))
            console.say("")
        for line in (*notes(group), *pair_lines(group)):
            console.say(line)


def pair_lines(group: Comparison) -> list[str]:
    """Compare the best setting on val with every other, one line each."""
    result, best = [], best_first(group.settings)[0]
    for pair in pairs_of_best(group):
        other, sign = (pair.second, -1) if pair.first is best else (pair.first, 1)
        side = "above" if sign * pair.difference > 0 else "below"
        points = f"{percent(abs(pair.difference))} points {side}"
        p_values = ", ".join(probability(test.p) for test in pair.tests.values())
        relation = points if pair.difference else "level with"
        result.append(
            f"{best.label} (best on val) is {relation} {other.label} on {group.reported_split} "
            f"(McNemar's p{' per seed' if len(pair.tests) > 1 else ''}: {p_values})"
        )
    return result


def _console_table(group: Comparison, split: str) -> Table:
    titles = [*accuracy_titles(), "runs", "trainable\nparameters", "minutes"]
    table = new_table(f"{split}\n{group.n_images(split):,} images", numbers=titles)
    for row in group.rows(split):
        name, *facts = _facts(row)
        accuracies = {metric: percent(row.estimate(metric).mean) for metric in METRICS}
        accuracies[TOP1] = escape(format_estimate(row.estimate(TOP1)))
        table.add_row(Text(name, "bold" if row.setting else ""), *accuracies.values(), *facts)
    return table
