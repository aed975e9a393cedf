"""What methods are calibrated and tuned on is never what they are measured on."""

import hashlib
import json

import pytest

from data.photographs import SPLIT, write_photographs
from maxbench.cli.build import build
from maxbench.configuration.compose import compose, hydra_on
from maxbench.data.coco import coco_images
from maxbench.data.parts import Part
from maxbench.errors import UserError


def held_out(image):
    """Once more, by hand: whether an id is below a sixteenth of what its hash can be."""
    return int.from_bytes(hashlib.sha256(f"calibration/{image}".encode()).digest()[:8], "big") < 2**60


def test_the_parts_have_nothing_in_common_and_depend_on_the_id_alone():
    ids = range(0, 50_000, 10)
    evaluation, calibration = Part("evaluation", 1 / 16).of(ids), Part("calibration", 1 / 16).of(ids)
    assert sorted(evaluation + calibration) == list(ids)
    assert calibration == [image for image in ids if held_out(image)]
    assert 240 < len(calibration) < 390  # 312.5 are expected, with a standard deviation of 17
    assert Part("calibration", 1 / 16).of(list(ids)[::2]) == [each for each in calibration if each % 20 == 0]
    assert Part("calibration", 0).of(ids) == [] and Part("calibration", 1).of(ids) == list(ids)


@pytest.mark.parametrize(("name", "share", "sentence"), [("test", 0.1, "data.part is 'test'"), ("evaluation", 2, "2;")])
def test_what_is_no_part_is_a_sentence(name, share, sentence):
    with pytest.raises(UserError, match=sentence):
        Part(name, share)


def test_coco_is_read_in_its_parts(tmp_path):
    root = write_photographs(tmp_path / "coco")
    evaluation, calibration = (coco_images(root, SPLIT, part, 0.4) for part in ("evaluation", "calibration"))
    assert evaluation.ids and calibration.ids and len(evaluation) + len(calibration) == 18
    assert not set(evaluation.ids) & set(calibration.ids)
    assert evaluation.fingerprint() != calibration.fingerprint()
    assert evaluation.about == "the pictures of photographs of scikit-image, split val2017"
    assert "calibration part" in calibration.name and "calibration" not in evaluation.name
    first = evaluation.picture(evaluation.ids[0])
    said = json.loads((root / "annotations" / f"captions_{SPLIT}.json").read_text())["annotations"]
    assert first.captions[0] == next(each["caption"] for each in said if each["image_id"] == first.id)


@pytest.mark.parametrize("lost", ["annotations/instances_val2017.json", "annotations/captions_val2017.json", "val2017"])
def test_what_is_lacking_is_named_with_the_command_that_fetches_it(lost, tmp_path):
    root = write_photographs(tmp_path / "coco")
    (root / lost).rename(tmp_path / "lost")
    with pytest.raises(UserError, match=rf"lacks {lost}; `python -m maxbench data coco data\.root={root}`"):
        coco_images(root)


def test_a_part_that_is_too_small_to_calibrate_on_is_a_sentence(small_suite, tmp_path):
    root = write_photographs(tmp_path / "coco")
    settings = ["experiment=hed_depth", "data=coco", f"data.root={root}", f"suite.root={small_suite}", "samples=2"]
    with hydra_on() as hydra:
        cfg = compose(hydra, [*settings, "pairing.reference=4", "data.calibration_share=0.2"])
    with pytest.raises(
        UserError, match=r"cannot be calibrated on 32 samples .* lower calibration\.samples, or hold out"
    ):
        build(cfg)
    with hydra_on() as hydra:
        cfg = compose(hydra, [*settings, "pairing.reference=4", "data.calibration_share=0.4", "calibration.samples=3"])
    job = build(cfg)
    measured = {*job.experiment.sources, *job.experiment.reference}
    trained = {image for sample in job.calibration.samples for image in sample.sources.values()}
    assert trained and measured and not trained & measured
