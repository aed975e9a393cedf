import json
import os
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pycocotools import mask as library
from small_coco import HEIGHT, WIDTH, content, write

from maxbench.data.coco import CocoImages
from maxbench.data.segmentation import decode
from maxbench.errors import UserError
from maxbench.miniature.dataset import miniature_images


@pytest.fixture
def copy(data_dir, tmp_path):
    return shutil.copytree(miniature_images(data_dir, "val", 24).root, tmp_path / "set")


def test_pictures_come_with_captions_and_objects(copy):
    images = CocoImages(copy, "val")
    assert len(images) == 24
    picture = images.picture(3)
    assert picture.path.is_file() and len(picture.captions) == 3
    assert all(images.mask(instance).sum() == instance.area for instance in picture.instances)


def test_objects_are_what_is_outlined_one_by_one(tmp_path):
    images = CocoImages(write(tmp_path / "set"), "val")
    instances = images.picture(1).instances
    assert [each.annotation["id"] for each in instances] == [20, 21, 22]  # no crowd, none without an outline
    assert {each.category for each in instances} == {"cow"}
    drawn, listed, compressed = map(images.mask, instances)
    assert drawn[:3, :4].all() and drawn.sum() == 12
    assert listed[:, 1:3].all() and listed.sum() == 12  # runs go down the columns
    assert np.array_equal(compressed, listed)
    assert images.picture(2).instances == () and images.picture(2).captions == ("picture 2",)


def test_an_object_is_called_by_its_phrase_or_else_by_its_category(tmp_path):
    files = content()
    first, second, *_ = files["instances"]["annotations"]
    first["phrase"], second["phrase"] = "a spotted\n cow ", None
    spotted, plain, other = CocoImages(write(tmp_path / "set", files), "val").picture(1).instances
    assert (str(spotted), str(plain), str(other)) == ("a spotted cow", "a cow", "a cow")
    assert {each.category for each in (spotted, plain, other)} == {"cow"}


def test_an_area_that_is_not_given_is_the_mask_s(tmp_path):
    files = content()
    for each in files["instances"]["annotations"]:
        del each["area"]
    images = CocoImages(write(tmp_path / "set", files), "val")
    assert [each.area for each in images.picture(1).instances] == [12, 12, 12]


@settings(deadline=None, max_examples=60)
@given(mask=arrays(np.uint8, st.tuples(st.integers(1, 40), st.integers(1, 40)), elements=st.integers(0, 1)))
def test_run_lengths_are_read_as_pycocotools_writes_them(mask):
    height, width = mask.shape
    encoded = library.encode(np.asfortranarray(mask))
    assert np.array_equal(decode({**encoded, "counts": encoded["counts"].decode()}, height, width), mask)


@settings(deadline=None, max_examples=60)
@given(points=st.lists(st.floats(-WIDTH, 2 * HEIGHT), min_size=6, max_size=12))
def test_polygons_are_drawn_as_pycocotools_draws_them(points):
    outline = [points[: len(points) // 2 * 2]]
    drawn = library.decode(library.merge(library.frPyObjects(outline, HEIGHT, WIDTH)))
    if all(value >= -HEIGHT for value in outline[0]):
        assert np.array_equal(decode(outline, HEIGHT, WIDTH), drawn)


def test_a_split_may_be_a_link_and_its_pictures_may_not_lead_out(tmp_path):
    root = write(tmp_path / "set")
    (root / "val").rename(tmp_path / "elsewhere")
    (root / "val").symlink_to(tmp_path / "elsewhere")
    assert CocoImages(root, "val").picture(1).path.is_file()
    shutil.copy(root / "val" / f"{2:012d}.png", tmp_path / "secret.png")
    (root / "val" / f"{2:012d}.png").unlink()
    (root / "val" / f"{2:012d}.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"000000000002\.png of image 2 lies outside of .*elsewhere; put the file"):
        CocoImages(root, "val").picture(2)


def test_a_picture_in_a_subfolder_is_found(tmp_path):
    files = content()
    for said in files.values():
        said["images"][0]["file_name"] = "deep/er/1.png"
    root = write(tmp_path / "set", files)
    (root / "val" / "deep" / "er").mkdir(parents=True)
    os.rename(root / "val" / f"{1:012d}.png", root / "val" / "deep" / "er" / "1.png")
    assert CocoImages(root, "val").picture(1).path.is_file()


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
