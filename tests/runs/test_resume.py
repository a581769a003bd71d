"""Resume, replace or refuse an existing run."""

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from flowertune import files
from flowertune.config.schema import Config
from flowertune.errors import UsageError
from flowertune.runs.directory import FORMAT, Run
from flowertune.runs.finished import read_finished_run
from flowertune.runs.provenance import MACHINE, TASK
from flowertune.runs.resume import find_run, lock_run, open_run

ENVIRONMENT = {"format": FORMAT, **dict.fromkeys((*TASK, *MACHINE), "same")}

Compose = Callable[..., Config]
Finished = Callable[..., Run]


def left_over(root: Path, config: Config, state: str) -> Run:
    run, _ = find_run(root, "first", asdict(config))
    run.create(asdict(config), {})
    (run.path / "metrics.jsonl").write_text("old")
    run.write_status(state, "a reason")
    return run


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_an_unfinished_run_is_replaced_only_when_the_next_starts(
    tmp_path: Path, config: Config, state: str
) -> None:
    left_over(tmp_path, config, state)
    run, is_finished = find_run(tmp_path, "first", asdict(config))
    assert not is_finished
    assert (run.path / "metrics.jsonl").read_text() == "old"
    with open_run(run, asdict(config), {"who": "new"}) as before:
        assert before is not None
        assert "(a reason)" in before.description
        assert before.checkpoint is None
        assert not (run.path / "metrics.jsonl").exists()
        assert run.status() == ("running", None)
        run.write_results({})
    assert json.loads((run.path / "environment.json").read_text()) == {"who": "new"}
    assert find_run(tmp_path, "first", asdict(config))[1]
    assert {path.name for path in tmp_path.iterdir()} == {"first", ".locks"}
    assert [path.suffix for path in (tmp_path / ".locks").iterdir()] == [".lock"]


def resumable(root: Path, config: Config, state: str = "interrupted") -> Run:
    """Create a run with a checkpoint and half-written files."""
    run = left_over(root, config, state)
    files.write_json(run.path / "environment.json", ENVIRONMENT)
    run.checkpoint(1, 5).parent.mkdir()
    files.write_folder(run.checkpoint(1, 5), {"state.json": b"{}"})
    (run.path / ".mine").write_text("a person's")
    run.failed_batch_dir.mkdir()
    (run.path / ".metrics.jsonl.a1b2c3_4").write_text("half")
    (run.checkpoint(1, 5).parent / ".epoch-00001-step-000000006.k3_4d5e6").mkdir()
    return run


@pytest.mark.parametrize("state", ["running", "failed", "interrupted"])
def test_a_run_with_a_checkpoint_is_resumed(tmp_path: Path, config: Config, state: str) -> None:
    resumable(tmp_path, config, state)
    run, is_finished = find_run(tmp_path, "first", asdict(config))
    assert not is_finished
    now = {**ENVIRONMENT, "cpu_threads": 8}
    with open_run(run, asdict(config), now) as before:
        assert before is not None
        assert before.checkpoint == run.checkpoint(1, 5)
        assert "(a reason)" in before.description
        (note,) = before.notes
        assert "cpu_threads (same -> 8) changed" in note
        assert (run.path / "metrics.jsonl").read_text() == "old"
        assert run.status() == ("running", None)
    assert [path.name for path in run.path.rglob(".*")] == [".mine"]
    assert not run.failed_batch_dir.exists()
    assert run.environment() == {**ENVIRONMENT, "resumed": [{"cpu_threads": 8}]}


def test_missing_folders_are_created_again_and_other_files_are_kept(
    tmp_path: Path, config: Config
) -> None:
    run = resumable(tmp_path, config)
    run.best.parent.rmdir()
    run.adapter.rmdir()
    (run.checkpoint(9, 9)).write_text("a person's")
    with open_run(run, asdict(config), ENVIRONMENT) as before:
        assert before is not None
        assert before.checkpoint == run.checkpoint(1, 5)
        assert run.best.parent.is_dir()
        assert run.adapter.is_dir()


def test_a_run_with_only_damaged_checkpoints_is_not_resumed(tmp_path: Path, config: Config) -> None:
    run = resumable(tmp_path, config)
    (run.checkpoint(1, 5) / "state.json").write_text("[]")
    with open_run(run, asdict(config), ENVIRONMENT) as before:
        assert before is not None
        assert before.checkpoint is None
        assert "state.json is damaged" in before.notes[0]
        assert not (run.path / "metrics.jsonl").exists()


@pytest.mark.parametrize("key", ["data_fingerprint", "weights_sha256", "preprocessing"])
def test_a_run_is_not_resumed_with_other_images_or_weights(
    tmp_path: Path, config: Config, key: str
) -> None:
    run = resumable(tmp_path, config)
    changed, damaged = {**ENVIRONMENT, key: "other"}, run.checkpoint(1, 6)
    files.write_folder(damaged, {"state.json": b"{}"})
    (damaged / "state.json").write_text("[]")
    with pytest.raises(UsageError, match=f"cannot be resumed, as {key} changed"):  # noqa: SIM117
        with open_run(run, asdict(config), changed):
            pass
    assert run.status() == ("interrupted", "a reason")
    assert run.checkpoint(1, 5).exists()
    assert damaged.exists()  # reported when the run is resumed
    with open_run(run, asdict(config), ENVIRONMENT) as before:
        assert before is not None
        assert before.notes == (f"{damaged}: skipped (state.json is damaged)",)
    assert not damaged.exists()
    with open_run(run, asdict(config), changed, "restart") as before:
        assert before is not None
        assert before.checkpoint is None


def test_never_refuses_an_existing_run_and_restart_replaces_it(
    tmp_path: Path, config: Config, compose: Compose, finished: Finished
) -> None:
    plain, other = asdict(config), asdict(compose("method=lora", "seed=7"))
    for make in (resumable, finished):
        run = make(tmp_path, config)
        with pytest.raises(UsageError, match=r"run\.resume=never"):
            find_run(tmp_path, "first", plain, "never")
        with pytest.raises(UsageError, match="another config"):
            find_run(tmp_path, "first", other)
        assert find_run(tmp_path, "first", other, "restart") == (run, False)
        with open_run(run, other, {"who": "new"}, "restart") as before:
            assert before is not None
            assert run.status() == ("running", None)
            assert not (run.path / "metrics.jsonl").exists()
            assert not (run.path / "results.json").exists()
        shutil.rmtree(run.path)
    (tmp_path / "first").mkdir()
    with pytest.raises(UsageError, match="exists but is not a run"):  # not a run: not replaced
        find_run(tmp_path, "first", plain, "restart")


def test_a_run_of_a_newer_flowertune_is_refused(
    tmp_path: Path, config: Config, finished: Finished
) -> None:
    newer = {**ENVIRONMENT, "format": FORMAT + 1, "flowertune": "99.0"}
    for make in (resumable, finished):
        run = make(tmp_path, config)
        files.write_json(run.path / "environment.json", newer)
        told = r"by flowertune 99\.0, which is newer than this version; use that version"
        with pytest.raises(UsageError, match=told + r", or choose another run\.name$"):
            find_run(tmp_path, "first", asdict(config))
        if run.status()[0] == "finished":
            with pytest.raises(UsageError, match=told + "$"):
                read_finished_run(run.path)
        shutil.rmtree(run.path)


def test_a_new_run_replaces_nothing(tmp_path: Path, config: Config) -> None:
    run, _ = find_run(tmp_path, "first", asdict(config))
    with open_run(run, asdict(config), {}) as before:
        assert before is None


def test_an_unfinished_run_with_another_config_or_without_state_is_refused_and_kept(
    tmp_path: Path, config: Config, compose: Compose
) -> None:
    run = left_over(tmp_path, config, "failed")
    other = compose("method=mixup", "experiment=quickstart", "seed=7")
    with pytest.raises(UsageError, match=r"another config \(seed\)"):
        find_run(tmp_path, "first", asdict(other))
    (run.path / "status.json").unlink()
    with pytest.raises(UsageError, match=r"status\.json is missing or damaged; .*resume=restart"):
        find_run(tmp_path, "first", asdict(config))
    assert (run.path / "metrics.jsonl").exists()
    assert find_run(tmp_path, "first", asdict(config), "restart") == (run, False)
    with open_run(run, asdict(config), {}, "restart") as before:
        assert before is not None
        assert not (run.path / "metrics.jsonl").exists()


def test_results_changed_after_the_run_are_refused(
    tmp_path: Path, config: Config, finished: Finished
) -> None:
    run = finished(tmp_path, config)
    for content in ('{"run": "other"}', "{}", "[]", ""):
        (run.path / "results.json").write_text(content)
        with pytest.raises(UsageError, match=r"results\.json is missing or damaged"):
            run.results()


def test_a_link_stands_for_the_directory_that_it_points_to(tmp_path: Path, config: Config) -> None:
    run = left_over(tmp_path / "large disk", config, "failed")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "linked").symlink_to(run.path)
    for _ in range(2):
        assert find_run(tmp_path / "runs", "linked", asdict(config), "restart") == (run, False)
        with open_run(run, asdict(config), {}, "restart") as before:
            assert before is not None
        assert (tmp_path / "runs" / "linked" / "config.yaml").is_file()
    (tmp_path / "runs" / "circle").symlink_to(tmp_path / "runs" / "circle")
    with pytest.raises(UsageError, match="circle: cannot be created"):
        find_run(tmp_path / "runs", "circle", asdict(config))


HOLDER = """
import sys
from pathlib import Path
from flowertune.runs.resume import lock_run
with lock_run(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_is_refused_while_its_process_lives(tmp_path: Path, config: Config) -> None:
    run = left_over(tmp_path, config, "running")
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    with pytest.raises(UsageError, match="in use by another process"):
        find_run(tmp_path, "first", asdict(config))
    with pytest.raises(UsageError, match="another process"), open_run(run, asdict(config), {}):
        pass
    assert (run.path / "metrics.jsonl").read_text() == "old"
    process.kill()
    process.communicate()
    assert find_run(tmp_path, "first", asdict(config)) == (run, False)


def test_a_run_finished_by_another_process_in_the_meantime_is_kept(
    tmp_path: Path, config: Config, finished: Finished
) -> None:
    run, _ = find_run(tmp_path, "first", asdict(config))
    finished(tmp_path, config)
    with pytest.raises(UsageError, match="finished by another process in the meantime"):  # noqa: SIM117
        with open_run(run, asdict(config), {}):
            pass
    assert run.results() == {"run": "first"}


def test_a_full_disk_at_the_start_keeps_the_previous_run(
    tmp_path: Path, config: Config, fill_disk: Callable[[], None]
) -> None:
    run = left_over(tmp_path, config, "interrupted")
    fill_disk()
    with pytest.raises(UsageError, match="No space left"), open_run(run, asdict(config), {}):
        pass
    assert (run.path / "metrics.jsonl").read_text() == "old"
    assert run.status() == ("interrupted", "a reason")


def test_a_lock_is_released_after_its_block(tmp_path: Path) -> None:
    with lock_run(tmp_path / "x"):  # noqa: SIM117
        with pytest.raises(UsageError), lock_run(tmp_path / "x"):
            pass
    with lock_run(tmp_path / "x"):
        pass


@pytest.mark.parametrize("name", ["environment.json", "config.yaml"])
@pytest.mark.parametrize("content", [None, "", "[]", "{", "\x00\xff"])
def test_a_run_with_damaged_files_is_refused_and_can_be_replaced(
    tmp_path: Path, config: Config, finished: Finished, name: str, content: str | None
) -> None:
    for make in (finished, resumable):
        run = make(tmp_path, config)
        (run.path / name).unlink()
        if content is not None:
            (run.path / name).write_text(content, encoding="latin-1")
        with pytest.raises(UsageError, match=rf"{name} is missing or damaged.*run\.resume=restart"):
            find_run(tmp_path, "first", asdict(config))
        assert find_run(tmp_path, "first", asdict(config), "restart") == (run, False)
        shutil.rmtree(run.path)


@pytest.mark.parametrize("content", [None, "", "[]", "{", "\x00\xff"])
def test_damaged_results_are_refused(
    tmp_path: Path, config: Config, finished: Finished, content: str | None
) -> None:
    run = finished(tmp_path, config)
    (run.path / "results.json").unlink()
    if content is not None:
        (run.path / "results.json").write_text(content, encoding="latin-1")
    with pytest.raises(UsageError, match=r"results\.json is missing or damaged"):
        run.results()


def test_a_checkpoint_that_cannot_be_read_is_kept(
    tmp_path: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = resumable(tmp_path, config)

    def unreadable(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:
        patched.setattr(files, "sha256_of", unreadable)
        with pytest.raises(UsageError, match=r"cannot be used .*error"):  # noqa: SIM117
            with open_run(run, asdict(config), ENVIRONMENT):
                pass
    assert run.newest_checkpoint() == (run.checkpoint(1, 5), {})


def test_a_run_moved_aside_by_a_killed_process_is_restored(tmp_path: Path, config: Config) -> None:
    run = resumable(tmp_path, config)
    (tmp_path / ".locks").mkdir(exist_ok=True)
    run.path.rename(tmp_path / ".locks" / "first.replaced")
    with open_run(run, asdict(config), ENVIRONMENT) as before:
        assert before is not None
        assert before.checkpoint == run.checkpoint(1, 5)
