"""Comparison of runs, in the console and on a page."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from flowertune import cli
from flowertune.commands import compose

Done = Callable[..., str]


@pytest.fixture
def done(tmp_path: Path, finish: Callable[..., int], monkeypatch: pytest.MonkeyPatch) -> Done:
    """`done(*words, **accuracies)`: the directory of a finished run with these arguments."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")

    def done(*words: str, **accuracies: float | None) -> str:
        name = f"run{len(list(Path('runs').glob('run*')))}"
        compose.run([*words, f"run.name={name}"], lambda config: finish(config, **accuracies))
        return f"runs/{name}"

    return done


def rows(text: str) -> list[list[str]]:
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()]


def test_two_methods_with_their_seeds_in_the_console_and_on_a_page(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [done("method=lora", f"seed={s}", val=0.6, test=t) for s, t in ((1, 0.5), (2, 0.6))]
    runs += [done("method=mixup", f"seed={seed}", val=0.5, test=0.3, probe=0.4) for seed in (1, 2)]
    assert cli.main(["report", *runs, "--output", "ab.html"]) == 0
    text = capsys.readouterr().out
    # by hand: std 7.07, t = 12.71
    lora = ["lora", "55.00 ± 7.07 [0.00, 100.00]", "27.50", "2", "1,234", "0.0"]
    mixup = ["mixup *", "30.00 ± 0.00 [30.00, 30.00]", "15.00", "2", "1,234", "0.0"]
    probe = ["linear probe", "40.00 [30.00, 50.00]", "20.00", "1", "12"]
    found = rows(text)
    assert found.index(probe) < found.index(lora) < found.index(mixup)
    assert "* below the linear probe of the same backbone on test" in text
    assert (
        "lora (best on val) is 25.00 points above mixup on test "
        "(McNemar's p per seed: < 0.0001, < 0.0001)" in text
    )
    page = Path("ab.html").read_text()
    for said in ("55.00", "0.00 to 100.00", "mixup *", "All pairs", "25.00 points above"):
        assert said in page
    assert page.count("<svg") == 2
    assert "augmentation.name" in page  # among the settings that differ


@pytest.mark.parametrize(("zero_shot", "is_far"), [(0.1, True), (0.75, False)])
def test_a_zero_shot_far_below_is_noted_and_does_not_squeeze_the_methods(
    zero_shot: float, is_far: bool, done: Done
) -> None:
    reached = {"lora": 0.8, "vpt": 0.9, "zeroshot": zero_shot}
    runs = [done(f"method={each}", test=top1, probe=0.7) for each, top1 in reached.items()]
    assert cli.main(["report", *runs]) == 0
    page = Path("report.html").read_text()
    said = re.findall(r"<text[^>]*>zeroshot 10\.00 is below this axis</text>", page)
    assert len(said) == (2 if is_far else 0)
    texts = re.findall(r"<text[^>]*>([\d.]+)</text>", page)
    on_axis = {float(text) for text in texts if 10 < float(text) <= 100}  # of accuracies alone
    assert min(on_axis) >= 60
    assert max(on_axis) >= 95


def test_the_directory_of_a_sweep_stands_for_its_runs_and_gives_a_curve(
    done: Done, finish: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    def execute(config: object) -> int:
        return finish(config, val=config.augmentation.alpha)  # type: ignore[attr-defined]

    words = ["-m", "method=mixup", "augmentation.alpha=0.1,0.2,0.4", "run.root=mine"]
    compose.run(words, execute)
    (sweep,) = (path for path in Path("mine/sweeps").iterdir() if path.name[0] != ".")
    assert cli.main(["report", str(sweep)]) == 0
    order = [row[0] for row in rows(capsys.readouterr().out) if row[0].startswith("mixup aug")]
    assert order[0] == "mixup augmentation.alpha=0.4"  # best on val first
    page = Path("report.html").read_text()
    assert "Top-1 against augmentation.alpha" in page
    assert page.count("<svg") == 3


def test_a_sweep_of_two_keys_is_a_map(done: Done) -> None:
    runs = [
        done(f"model.rank={rank}", f"optimizer.lr={lr}", val=rank * lr * 100)
        for rank in (2, 4)
        for lr in (1e-3, 2e-3)
    ]
    assert cli.main(["report", *runs]) == 0
    page = Path("report.html").read_text()
    assert "Mean top-1 on val for each pair of values" in page
    assert re.search(r"<text[^>]*>80\.00</text>", page)


def test_runs_that_are_not_comparable_have_separate_tables(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [done("seed=1"), done("seed=1", "data.seed=5")]
    assert cli.main(["report", *runs]) == 0
    text = capsys.readouterr().out
    assert "the runs differ in backbone, images or protocol" in text
    assert len([row for row in rows(text) if row[0] == "lora"]) == 4  # val and test of each
    page = Path("report.html").read_text()
    assert "Result 1" in page
    assert "Result 2" in page


def test_what_cannot_be_compared_is_refused_in_one_line(
    done: Done, capsys: pytest.CaptureFixture[str]
) -> None:
    run = done("seed=1")
    Path("runs/sweeps/begun/jobs").mkdir(parents=True)
    for words, said in (
        (["runs/sweeps/begun"], "contains no finished runs yet"),
        ([run, run], "same training"),
        ([run, "runs"], "runs: is not a finished run"),
        ([run, done("seed=2"), "--output", "no/such/a.html"], "cannot be written"),
        ([], "RUN"),
        (["--what", run, run], "--what"),
    ):
        assert cli.main(["report", *words]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert not Path("report.html").exists()
