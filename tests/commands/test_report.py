"""`flowertune report`: bad arguments are refused."""

import pytest

from flowertune import cli


def test_the_page_is_html(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", "runs/a", "--output", "table.tex"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("flowertune report: --output table.tex: report writes HTML; ")
    assert error.count("\n") == 1
