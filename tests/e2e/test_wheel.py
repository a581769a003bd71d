"""The wheel holds all that the program needs, and works from any directory."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder)]
    process = subprocess.run([*build, str(TOP)], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_the_wheel_trains_without_the_checkout(
    unpacked: Path, tmp_path: Path, small: tuple[str, ...], environment: dict[str, str]
) -> None:
    assert (unpacked / "flowertune/assets/tiny/open_clip_model.safetensors").is_file()
    assert (unpacked / "flowertune/report/html/templates/run.html.jinja").is_file()
    shipped = {p.relative_to(unpacked / "flowertune/conf") for p in unpacked.rglob("*.yaml")}
    assert shipped == {p.relative_to(TOP / "conf") for p in (TOP / "conf").rglob("*.yaml")}
    code = (
        "import sys, flowertune, flowertune.cli\n"
        f"assert flowertune.__file__.startswith({str(unpacked)!r}), flowertune.__file__\n"
        "sys.exit(flowertune.cli.main())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "train", *small, "run.name=r"],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(unpacked)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert "linear probe" in process.stdout
    assert (tmp_path / "runs" / "r" / "results.json").is_file()
