"""The benchmark of answers compares the same model with itself."""

from pathlib import Path

import bench_predict
from peers import plain_clip

import flowertune


def test_open_clip_alone_gives_the_answers_that_flowertune_gives(lora: Path, drawn: Path) -> None:
    photos = sorted((drawn / "test").rglob("*.png"))
    job = {"batch_size": 16, "workers": 0}
    model = flowertune.load(lora)
    plain = list(plain_clip.answers(model, photos, job))
    assert plain == [answer.label for answer in model.predict(photos)]
    assert plain == list(bench_predict._by_flowertune(model, photos, job))
    assert len(set(plain)) > 1
