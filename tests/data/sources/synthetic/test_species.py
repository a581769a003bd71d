"""What the built-in flowers are: species, their attributes, pictures and captions."""

import subprocess
import sys
from dataclasses import astuple, replace
from itertools import combinations
from pathlib import Path

import numpy as np
from pretraining_data import GARDEN, caption

from flowertune.data.sources.synthetic.scene import draw_picture
from flowertune.data.sources.synthetic.species import (
    HELD_OUT,
    PARTS,
    SPECIES,
    VALUES,
    Attributes,
    description,
    sample_attributes,
    sentence,
)


def test_species_are_distinguishable_and_have_close_neighbors() -> None:
    def differences(one: Attributes, other: Attributes) -> int:
        return sum(a != b for a, b in zip(astuple(one), astuple(other), strict=True))

    pairs = list(combinations(SPECIES.values(), 2))
    assert all(one.main != other.main for one, other in pairs)
    nearest = [
        min(differences(one, other) for other in SPECIES.values() if other is not one)
        for one in SPECIES.values()
    ]
    assert max(nearest) <= 2  # fine-grained: nobody stands alone
    for name in ("petals", "shape", "color", "pattern", "center", "center_color", "growth"):
        assert len({getattr(attributes, name) for attributes in SPECIES.values()}) >= 3, name


def test_pretraining_never_draws_a_species() -> None:
    rng = np.random.default_rng(0)
    drawn = [sample_attributes(rng, HELD_OUT) for _ in range(20_000)]
    assert not {attributes.main for attributes in drawn} & HELD_OUT
    # The test could fail: without the exclusion, combinations as rare as these do come out.
    some = frozenset(attributes.main for attributes in drawn[:2000])
    assert {sample_attributes(rng, frozenset()).main for _ in range(2000)} & some
    assert not {sample_attributes(rng, some).main for _ in range(2000)} & some
    # Every value of every attribute is seen in pretraining, those of the species included.
    for index, values in enumerate(VALUES.values()):
        assert {astuple(attributes)[index] for attributes in drawn} == set(values)


def test_pretraining_draws_pictures_through_the_exclusion() -> None:
    scripts = Path(__file__).parents[4] / "scripts"
    code = (
        f"import sys; sys.path.insert(0, {str(scripts)!r})\n"
        "import pretraining_data as module\n"
        "first = module.sample_attributes\n"
        "def watched(rng, held_out):\n"
        "    assert held_out == module.HELD_OUT and len(held_out) == 20\n"
        "    return first(rng, held_out)\n"
        "module.sample_attributes = watched\n"
        "for number in range(20): module.draw_one((0, number))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_each_attribute_changes_the_picture() -> None:
    plain = SPECIES["dawn cup"]
    changes = {
        "petals": 8,
        "shape": "narrow",
        "color": "blue",
        "center": "stamens",
        "center_size": "large",
        "center_color": "black",
        "growth": "spike",
    }
    reference = draw_picture(plain, GARDEN, np.random.default_rng(3)).astype(int)
    for name, value in changes.items():
        changed = draw_picture(replace(plain, **{name: value}), GARDEN, np.random.default_rng(3))
        assert np.abs(changed - reference).max() > 40, name


def test_captions_state_what_they_say_they_state() -> None:
    rng = np.random.default_rng(0)
    texts = set()
    for _ in range(300):
        attributes = sample_attributes(rng, HELD_OUT)
        written = caption(attributes, rng)
        texts.add(written.text)
        assert ("growing" in written.text) == ("growth" in written.stated)
        assert (f"{attributes.color} flower" in written.text) == ("color" in written.stated)
        assert (attributes.shape in written.text) == ("shape" in written.stated)
        if "center_color" in written.stated:
            assert f"{attributes.center_size} {attributes.center_color}" in written.text
        if attributes.second_color and "second_color" in written.stated:
            assert attributes.second_color in written.text
    assert len(texts) > 280


def test_descriptions_read_well() -> None:
    assert description(SPECIES["dawn star"]) == (
        "a pink flower with five plain pointed petals and a small yellow centre, growing alone"
    )
    assert description(SPECIES["tiger lily"]) == (
        "an orange flower with six pointed petals spotted with red and large brown stamens, "
        "growing in a pair"
    )
    assert sentence(SPECIES["sky phlox"], frozenset(PARTS) - {"growth", "shape"}) == (
        "a blue flower with five petals, a white throat and a small yellow ring"
    )
