"""Colours and names of ADE20K and COCO-Stuff, as a suite includes them."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir

from maxbench.conditions.seg import Segmentation
from maxbench.configuration.compose import CONF
from maxbench.miniature.world import CLASSES

FILES = CONF / "suite" / "classes"


def read(name):
    return yaml.safe_load((FILES / f"{name}.yaml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=["ade20k", "cocostuff"])
def part(request):
    return read(request.param)


def test_a_suite_includes_it_by_its_defaults(tmp_path):
    """Hydra finds it in the suite's own group, and puts it into the suite."""
    for name in ("ade20k", "cocostuff"):
        (tmp_path / "suite" / "classes").mkdir(parents=True, exist_ok=True)
        (tmp_path / "suite" / "classes" / f"{name}.yaml").write_text(
            (FILES / f"{name}.yaml").read_text(encoding="utf-8")
        )
        (tmp_path / "suite" / f"{name}.yaml").write_text(f"defaults: [classes/{name}@_here_, _self_]\nname: {name}\n")
        (tmp_path / "condition").mkdir(exist_ok=True)
        (tmp_path / "condition/seg.yaml").write_text((CONF / "condition/seg.yaml").read_text(encoding="utf-8"))
        (tmp_path / "main.yaml").write_text("defaults: [suite: null, condition@conditions.seg: seg]\n")
        with initialize_config_dir(str(tmp_path), version_base="1.3"):
            cfg = compose("main", [f"suite={name}"])
        assert set(cfg.suite) == {"name", "classes", "palette", "categories"}
        assert cfg.conditions.seg.categories == cfg.suite.categories
        assert list(cfg.conditions.seg.classes) == read(name)["classes"]


def test_the_miniatures_categories_are_its_classes():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("main", ["experiment=contradictory_seg_depth"])
    assert cfg.conditions.seg.categories == {} and cfg.pairing.categories == {}
    assert list(cfg.suite.classes) == list(CLASSES)


def test_every_class_has_a_colour_and_a_name_of_its_own(part):
    classes, palette = part["classes"], part["palette"]
    assert len(classes) == len(palette) == len(set(classes)) < 255
    assert classes[0] == "nothing" and palette[0] == [0, 0, 0]
    assert all(len(colour) == 3 and all(0 <= level <= 255 for level in colour) for colour in palette)
    assert all(name == name.strip() == name.lower() for name in classes)
    Segmentation(palette, classes, part["categories"])  # says so itself where they do not agree


def test_ade20k_is_controlnets():
    """Landmarks of the published table, by the number that a network gives a class."""
    part = read("ade20k")
    named = {name: (place - 1, part["palette"][place]) for place, name in enumerate(part["classes"])}
    assert len(part["classes"]) == 151
    for name, number, colour in (
        ("wall", 0, [120, 120, 120]), ("sky", 2, [6, 230, 230]), ("bed", 7, [204, 5, 255]),
        ("person", 12, [150, 5, 61]), ("car", 20, [0, 102, 200]), ("tower", 84, [255, 184, 184]),
        ("animal", 126, [255, 0, 122]), ("bicycle", 127, [255, 245, 0]), ("flag", 149, [92, 0, 255]),
    ):  # fmt: skip
        assert named[name] == (number, colour)
    twice = [colour for colour, count in Counter(map(tuple, part["palette"])).items() if count > 1]
    assert twice == [(140, 140, 140)] and named["road"][0] == 6 and named["skyscraper"][0] == 48
    assert named["road"][1] == named["skyscraper"][1] == [140, 140, 140]


COCO = """person bicycle car motorcycle airplane bus train truck boat traffic_light fire_hydrant stop_sign parking_meter
bench bird cat dog horse sheep cow elephant bear zebra giraffe backpack umbrella handbag tie suitcase frisbee skis
snowboard sports_ball kite baseball_bat baseball_glove skateboard surfboard tennis_racket bottle wine_glass cup fork
knife spoon bowl banana apple sandwich orange broccoli carrot hot_dog pizza donut cake chair couch potted_plant bed
dining_table toilet tv laptop mouse remote keyboard cell_phone microwave oven toaster sink refrigerator book clock vase
scissors teddy_bear hair_drier toothbrush"""
THINGS = [name.replace("_", " ") for name in COCO.split()]


def test_categories_are_cocos_own():
    part = read("ade20k")
    assert len(THINGS) == 80 and set(part["categories"]) <= set(THINGS)
    same = {name for name in THINGS if name in part["classes"]}
    assert all(part["categories"][name] == name for name in same)  # what has the same name is the same
    assert set(THINGS) <= set(read("cocostuff")["classes"])


def test_cocostuff_has_the_colours_of_pascal_voc():
    """Bit 3 i + c of a label's number is bit 7 - i of channel c, for labels that keep COCO's numbers."""
    part = read("cocostuff")
    assert len(part["classes"]) == 183
    for number, colour in enumerate(part["palette"]):
        wanted = [sum((number >> 3 * i + c & 1) << 7 - i for i in range(3)) for c in range(3)]
        assert colour == wanted
    numbers = {"person": 1, "street sign": 12, "toothbrush": 90, "banner": 92, "sky-other": 157, "wood": 182}
    assert all(part["classes"][number] == name for name, number in numbers.items())
    assert len(set(map(tuple, part["palette"]))) == 183


def test_labels_of_151_classes_are_shown_in_their_colours():
    part = read("ade20k")
    labels = torch.arange(151, dtype=torch.uint8).view(1, 1, -1)
    hint = Segmentation(part["palette"], part["classes"]).hint(labels)[0, :, 0].T * 255
    np.testing.assert_array_equal(hint.round().int().numpy(), part["palette"])


def test_the_files_lie_where_the_package_takes_them():
    assert {path.stem for path in Path(FILES).glob("*.yaml")} == {"ade20k", "cocostuff"}
