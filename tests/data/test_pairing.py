from pathlib import Path

import pytest

from maxbench.data.coco import Picture
from maxbench.data.pairing import Complementary
from maxbench.errors import UserError


class Shelf:
    """An image set that is no COCO: pairings must not notice."""

    name = "shelf"

    def __init__(self, count):
        self.ids = list(range(100, 100 + count))

    def picture(self, image):
        return Picture(image, Path(f"{image}.png"), (f"picture {image}", "another"), ())

    def fingerprint(self):
        return "shelf"


def test_both_conditions_come_from_one_picture_and_the_prompt_is_its_caption():
    plan = Complementary(reference=5).plan(Shelf(20), ["hed", "depth"], 8, seed=0)
    for sample in plan.samples:
        (source,) = set(sample.sources.values())
        assert set(sample.sources) == {"hed", "depth"}
        assert sample.prompt == f"picture {source}"
        assert sample.id == f"{source:012d}"


def test_no_reference_image_gives_a_condition():
    plan = Complementary(reference=5).plan(Shelf(20), ["hed"], 15, seed=0)
    used = {sample.sources["hed"] for sample in plan.samples}
    assert len(used) == 15 and len(plan.reference) == 5
    assert used.isdisjoint(plan.reference)


def test_the_choice_depends_on_the_seed_and_grows_without_changing():
    def chosen(samples, seed):
        return Complementary(reference=2).plan(Shelf(20), ["hed"], samples, seed).samples

    assert chosen(8, 0) == chosen(8, 0)
    assert chosen(8, 0) == chosen(12, 0)[:8]
    assert chosen(8, 0) != chosen(8, 1)


def test_too_many_samples_are_refused_with_the_number_that_would_do():
    with pytest.raises(UserError, match="at most 15"):
        Complementary(reference=5).plan(Shelf(20), ["hed"], 16, seed=0)
