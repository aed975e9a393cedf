from pathlib import Path

import numpy as np
import pytest

from maxbench.data.annotations import LARGEST_ID
from maxbench.data.coco import Instance, Picture
from maxbench.data.pairing import Complementary, CrossImage, HalfSplit, ObjectOnScene, Sample, Styled
from maxbench.data.regions import Object
from maxbench.errors import UserError


class Shelf:
    """An image set that is no COCO: pairings must not notice."""

    name, about, has_objects = "shelf", "what is on a shelf", True

    def __init__(self, count):
        self.ids = list(range(100, 100 + count))

    def picture(self, image):
        """Every fourth picture has an object of a quarter of it, after one that is too small."""
        objects = tuple(Instance(kind, share, {"share": share}) for kind, share in (("ant", 0.01), ("cow", 0.25)))
        return Picture(image, Path(f"{image}.png"), (f"picture {image}", "another"), objects if image % 4 == 0 else ())

    def mask(self, instance):
        mask = np.zeros((64, 64), bool)
        mask[: round(64 * instance.area)] = True
        return mask

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


def test_every_picture_is_split_both_ways():
    shelf = Shelf(20)
    plan = HalfSplit(reference=5).plan(shelf, ["hed", "depth"], 8, seed=0)
    assert len(plan.samples) == 16 and len({sample.id for sample in plan.samples}) == 16
    for sample in plan.samples:
        assert len(set(sample.sources.values())) == 1 and sample.control_masks == sample.evaluation_masks
        hed, depth = (sample.control_masks[name].mask(shelf, 32) for name in ("hed", "depth"))
        assert hed.shape == (32, 32) and np.array_equal(hed, ~depth) and hed.mean() == 0.5
    for one, swapped in zip(plan.samples[::2], plan.samples[1::2], strict=True):  # neighbours
        assert one.sources == swapped.sources and one.prompt == swapped.prompt
        assert one.group == swapped.group == f"{one.sources['hed']:012d}"
        for sample, side in ((one, "left"), (swapped, "right")):
            assert str(sample.control_masks["hed"]) == f"{side} half"
    assert len({sample.group for sample in plan.samples}) == 8
    assert HalfSplit(reference=5).plan(shelf, ["hed", "depth"], 3, seed=0).samples == plan.samples[:6]


def test_an_object_stands_on_another_pictures_scene():
    shelf = Shelf(60)
    plan = ObjectOnScene(reference=10).plan(shelf, ["hed", "depth"], 10, seed=0)
    assert len({sample.id for sample in plan.samples}) == 10
    sources = [image for sample in plan.samples for image in sample.sources.values()]
    assert len(set(sources)) == 20 and set(sources).isdisjoint(plan.reference)
    for sample in plan.samples:
        assert sample.group == f"{sample.sources['hed']:012d}" and sample.category == {"hed": "cow"}
        assert sample.prompt == f"a cow, and picture {sample.sources['depth']}"
        assert set(sample.control_masks) == {"hed"} and sample.control_masks["hed"] == sample.evaluation_masks["hed"]
        inside, outside = (sample.evaluation_masks[name].mask(shelf, 32) for name in ("hed", "depth"))
        assert inside.mean() == 0.25 and np.array_equal(outside, ~inside)
        assert isinstance(sample.evaluation_masks["depth"], Object) and str(
            sample.evaluation_masks["depth"]
        ).startswith("outside object 1")
    turned = ObjectOnScene(reference=10, object="depth").plan(shelf, ["hed", "depth"], 10, seed=0)
    assert set(turned.samples[0].control_masks) == {"depth"}
    assert turned.samples[0].sources["depth"] == plan.samples[0].sources["hed"]
    assert turned.samples[0].category == {"depth": "cow"} and turned.samples[0].group == plan.samples[0].group


def test_the_prompt_of_an_object_follows_its_template():
    for template, said in (
        ("{category} in {caption}", "cow in"),
        ("{caption} with {object}", "picture"),
        ("{object}", "a cow"),
    ):
        plan = ObjectOnScene(reference=10, template=template).plan(Shelf(60), ["hed", "depth"], 3, seed=0)
        assert all(sample.prompt.startswith(said) for sample in plan.samples)
    assert {sample.prompt for sample in plan.samples} == {"a cow"}


def test_objects_are_of_the_categories_that_have_a_class():
    def planned(categories, **more):
        pairing = ObjectOnScene(reference=10, low=0.005, high=0.4, categories=categories)
        return pairing.plan(Shelf(60), ["hed", "depth"], more.get("samples", 6), seed=0)

    kinds = {"any": {}, "cow": {"cow": "animal"}, "ant": {"ant": "animal", "owl": "animal"}}
    plans = {name: planned(categories) for name, categories in kinds.items()}
    found = {name: {sample.category["hed"] for sample in plan.samples} for name, plan in plans.items()}
    assert found == {"any": {"ant"}, "cow": {"cow"}, "ant": {"ant"}}  # an ant comes before the cow
    sources = {name: [sample.sources for sample in plan.samples] for name, plan in plans.items()}
    assert sources["any"] == sources["cow"] == sources["ant"]  # every picture with one has the other
    assert planned(kinds["cow"], samples=3).samples == plans["cow"].samples[:3]
    with pytest.raises(UserError, match=r"are 0 objects of the 1 categories in pairing\.categories that cover"):
        planned({"owl": "animal"})


def test_a_cross_pair_takes_each_map_whole_from_an_image_of_its_own():
    plan = CrossImage(reference=4).plan(Shelf(20), ["hed", "depth"], 8, seed=0)
    used = [image for sample in plan.samples for image in sample.sources.values()]
    assert len(set(used)) == len(used) == 16 and set(used).isdisjoint(plan.reference) and len(plan.reference) == 4
    for sample in plan.samples:
        hed, depth = sample.sources["hed"], sample.sources["depth"]
        assert list(sample.sources) == ["hed", "depth"]
        assert sample.id == f"{hed:012d}-{depth:012d}" and sample.group == f"{hed:012d}"
        assert sample.prompt == "another, and another"  # the shorter of a picture's captions
        assert not sample.control_masks and not sample.evaluation_masks and not sample.category
    assert len({sample.group for sample in plan.samples}) == 8


def test_a_cross_plan_grows_without_changing_and_depends_on_the_seed():
    def planned(samples, seed=0):
        return CrossImage(reference=4, template="{second} {first}").plan(Shelf(20), ["hed", "depth"], samples, seed)

    assert planned(3).samples == planned(8).samples[:3] and planned(3).reference == planned(8).reference
    assert planned(8) == planned(8) != planned(8, seed=1)
    with pytest.raises(UserError, match=r"samples=9 .* need 22 images, but 'shelf' has 20; lower samples to at most 8"):
        planned(9)
    with pytest.raises(UserError, match="pairing=cross_image is for two conditions, not 1"):
        CrossImage().plan(Shelf(20), ["hed"], 2, seed=0)


def test_a_sample_is_a_group_of_its_own_unless_it_is_in_one():
    assert Sample("a", "", {}).group == "a" and Sample("a", "", {}, group="b").group == "b"
    for pairing, conditions in ((Complementary, ["hed"]), (Styled, ["hed", "style"])):
        assert all(each.group == each.id for each in pairing(reference=4).plan(Shelf(20), conditions, 4, 0).samples)


def test_names_of_files_are_short_enough():
    """At most 255 bytes in the usual file systems, with the longest id of an image and the longest names."""
    shelf = Shelf(0)
    shelf.ids = [LARGEST_ID - number for number in range(60)]
    longest = [letter * 100 for letter in "ab"]
    for pairing in (Complementary, HalfSplit, ObjectOnScene, CrossImage, Styled):
        made = pairing(reference=2, **({"style": longest[1]} if pairing is Styled else {}))
        for sample in made.plan(shelf, longest, 4, seed=0).samples:
            assert len(f"{sample.id}-9999.png.aside-{2**63}") <= 255


def test_pairs_of_images_need_what_they_say():
    with pytest.raises(UserError, match=r"13 objects that cover 10% to 40% .* samples=16 needs 16"):
        ObjectOnScene(reference=5).plan(Shelf(60), ["hed", "depth"], 16, seed=0)
    with pytest.raises(UserError, match="two conditions, not 3"):
        HalfSplit().plan(Shelf(60), ["hed", "depth", "seg"], 4, seed=0)
    with pytest.raises(UserError, match=r"pairing\.object is 'pose'"):
        ObjectOnScene(object="pose").plan(Shelf(60), ["hed", "depth"], 4, seed=0)


def test_the_style_comes_from_another_picture_and_none_from_the_reference():
    plan = Styled(reference=4).plan(Shelf(20), ["hed", "depth", "style"], 8, seed=0)
    used = [image for sample in plan.samples for image in {*sample.sources.values()}]
    assert len(set(used)) == len(used) == 16 and len(plan.reference) == 4  # every image serves once
    assert set(used).isdisjoint(plan.reference)
    for sample in plan.samples:
        assert sample.sources["hed"] == sample.sources["depth"] != sample.sources["style"]
        assert sample.id == f"{sample.sources['hed']:012d}-{sample.sources['style']:012d}"
        assert not sample.control_masks and not sample.evaluation_masks


def test_a_styled_plan_depends_on_the_seed_alone():
    def planned(seed):
        return Styled(reference=4).plan(Shelf(20), ["hed", "style"], 8, seed)

    assert planned(0) == planned(0)
    assert planned(0) != planned(1)


def test_a_styled_prompt_says_what_there_is_and_not_how_it_looks():
    for sample in Styled(reference=4).plan(Shelf(20), ["hed", "style"], 8, seed=0).samples:
        place = sample.sources["hed"]
        assert sample.prompt == ("ant and cow" if place % 4 == 0 else f"picture {place}")
    template = "{things} as in {caption}"
    for sample in Styled(reference=4, template=template).plan(Shelf(20), ["hed", "style"], 8, seed=0).samples:
        assert sample.prompt.endswith(f" as in picture {sample.sources['hed']}")


def test_the_style_may_be_any_condition_of_the_experiment_and_no_other():
    plan = Styled(reference=2, style="depth").plan(Shelf(20), ["hed", "depth"], 4, seed=0)
    assert all(sample.sources["hed"] != sample.sources["depth"] for sample in plan.samples)
    with pytest.raises(UserError, match=r"pairing\.style is 'style'; it must be one of hed, depth"):
        Styled().plan(Shelf(20), ["hed", "depth"], 4, seed=0)


def test_a_style_needs_two_images_a_sample():
    assert len(Styled(reference=4).plan(Shelf(20), ["hed", "style"], 8, seed=0).samples) == 8
    with pytest.raises(UserError, match="'shelf' has 20; lower samples"):
        Styled(reference=4).plan(Shelf(20), ["hed", "style"], 9, seed=0)
