import json
import shutil

import pytest

from maxbench.data.coco import CocoImages
from maxbench.errors import UserError
from maxbench.miniature.corpus import WORLD_VERSION


@pytest.fixture
def copy(data_dir, tmp_path):
    return shutil.copytree(data_dir / f"miniature-{WORLD_VERSION}-val-24", tmp_path / "set")


def test_pictures_come_with_captions_and_objects(copy):
    images = CocoImages(copy, "val")
    assert len(images) == 24
    picture = images.picture(3)
    assert picture.path.is_file() and len(picture.captions) == 3
    assert all(images.mask(instance).sum() == instance.area for instance in picture.instances)


@pytest.mark.parametrize("damage", ['{"images": [', '{"images": 3}', '{"annotations": [{"id": 1}]}', "[]"])
def test_a_damaged_annotation_file_is_named(copy, damage):
    (copy / "annotations" / "captions_val.json").write_text(damage)
    with pytest.raises(UserError, match=r"captions_val.json is damaged"):
        _ = CocoImages(copy, "val").ids


def test_a_missing_annotation_file_is_named(copy):
    (copy / "annotations" / "instances_val.json").unlink()
    with pytest.raises(UserError, match=r"instances_val.json"):
        CocoImages(copy, "val").picture(3)
    with pytest.raises(UserError, match=r"instances_val.json"):
        CocoImages(copy, "val").fingerprint()


def test_the_fingerprint_follows_the_annotations(copy):
    before = CocoImages(copy, "val").fingerprint()
    path = copy / "annotations" / "captions_val.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["caption"] = "something else"
    path.write_text(json.dumps(content))
    assert CocoImages(copy, "val").fingerprint() != before
