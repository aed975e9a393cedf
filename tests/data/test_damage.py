"""Whatever is wrong with a data set is one sentence, and nothing wrong is used in silence."""

import contextlib
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from small_coco import HEIGHT, WIDTH, content, write

from maxbench.data.coco import CocoImages
from maxbench.data.regions import Object
from maxbench.data.segmentation import decode
from maxbench.errors import UserError

SIZE = [HEIGHT, WIDTH]


def use_all(root):
    """Everything that a data set says."""
    images = CocoImages(root, "val")
    pictures = [images.picture(image) for image in images.ids]
    return [(each, [images.mask(instance) for instance in each.instances]) for each in pictures]


def refused(root, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        use_all(root)
    assert "\n" not in str(caught.value) and "; " in str(caught.value)  # one sentence, with what to do


def put(kind, place, key, value):
    """A damage: `key` of an entry set to `value`; REMOVED takes it out."""

    def damage(files):
        entry = files[kind]
        for step in place:
            entry = entry[step]
        if value is REMOVED:
            del entry[key]
        else:
            entry[key] = value

    return damage


REMOVED = object()
CAPTION, IMAGE, OBJECT, CATEGORY = ("annotations", 1), ("images", 1), ("annotations", 0), ("categories", 0)
CAPTIONS, INSTANCES = r"captions_val\.json is damaged: ", r"instances_val\.json is damaged: "

ENTRIES = [
    ("captions", CAPTION, "caption", REMOVED, CAPTIONS + r"annotations\[1\] \(id 12\) has no caption"),
    ("captions", CAPTION, "caption", 7, CAPTIONS + r".*the caption 7, which is not text"),
    ("captions", CAPTION, "caption", None, CAPTIONS + r".*the caption None, which is not text"),
    ("captions", CAPTION, "caption", " \n", CAPTIONS + r".*an empty caption"),
    ("captions", CAPTION, "caption", "half \ud800", CAPTIONS + r".*a character that is none"),
    ("captions", CAPTION, "image_id", REMOVED, CAPTIONS + r".*no image_id"),
    ("captions", CAPTION, "image_id", 99, CAPTIONS + r".*the image_id 99, which is not an image of this file"),
    ("captions", CAPTION, "image_id", "2", CAPTIONS + r".*the image_id '2'"),
    ("captions", CAPTION, "image_id", True, CAPTIONS + r".*the image_id True"),
    ("captions", IMAGE, "id", REMOVED, CAPTIONS + r"images\[1\] has no id"),
    ("captions", IMAGE, "id", "2", CAPTIONS + r"images\[1\] has the id '2', which is not a whole number"),
    ("captions", IMAGE, "id", 2.0, CAPTIONS + r"images\[1\] has the id 2\.0"),
    ("captions", IMAGE, "id", -2, CAPTIONS + r"images\[1\] has the id -2"),
    ("captions", IMAGE, "id", 10**30, CAPTIONS + r"images\[1\] has the id 1000"),
    ("captions", IMAGE, "id", 1, CAPTIONS + r"images\[1\] has the id 1 a second time"),
    ("captions", IMAGE, "file_name", REMOVED, CAPTIONS + r"image 2 has no file_name"),
    ("captions", IMAGE, "file_name", 5, CAPTIONS + r"image 2 has the file_name 5, which is not text"),
    ("captions", IMAGE, "file_name", "", CAPTIONS + r"image 2 has an empty file_name"),
    ("captions", IMAGE, "file_name", "000000000003.png", r"instances_val\.json names the file '000000000002\.png'"),
    ("captions", (), "images", 3, CAPTIONS + r"'images' is 3 and not a list"),
    ("captions", (), "images", REMOVED, CAPTIONS + r"it has no list 'images'"),
    ("captions", (), "annotations", REMOVED, CAPTIONS + r"it has no list 'annotations'"),
    ("captions", ("images",), 1, "x", CAPTIONS + r"images\[1\] is 'x' and not a mapping"),
    ("instances", (), "categories", REMOVED, INSTANCES + r"it has no list 'categories'"),
    ("instances", (), "categories", [], INSTANCES + r"its list 'categories' is empty"),
    ("instances", CATEGORY, "id", 8, INSTANCES + r".*the category_id 7, which is not a category of this file"),
    ("instances", CATEGORY, "name", REMOVED, INSTANCES + r"category 7 has no name"),
    ("instances", CATEGORY, "name", 3, INSTANCES + r"category 7 has the name 3"),
    ("instances", OBJECT, "category_id", REMOVED, INSTANCES + r".*no category_id"),
    ("instances", OBJECT, "category_id", "7", INSTANCES + r".*the category_id '7'"),
    ("instances", OBJECT, "image_id", 99, INSTANCES + r"annotations\[0\] \(id 20\) has the image_id 99"),
    ("instances", OBJECT, "area", "12", INSTANCES + r".*the area '12', which is not a number of pixels"),
    ("instances", OBJECT, "area", -1, INSTANCES + r".*the area -1"),
    ("instances", OBJECT, "area", True, INSTANCES + r".*the area True"),
    ("instances", OBJECT, "phrase", 3, INSTANCES + r"annotations\[0\] \(id 20\) has the phrase 3, which is not text"),
    ("instances", OBJECT, "phrase", ["a", "cow"], INSTANCES + r".*the phrase \['a', 'cow'\], which is not text"),
    ("instances", OBJECT, "phrase", " \n", INSTANCES + r".*an empty phrase"),
    ("instances", OBJECT, "phrase", "half \ud800", INSTANCES + r".*a character that is none"),
    ("instances", OBJECT, "iscrowd", "no", INSTANCES + r".*iscrowd 'no'"),
    ("instances", IMAGE, "width", REMOVED, INSTANCES + r"image 2 has no width"),
    ("instances", IMAGE, "height", REMOVED, INSTANCES + r"image 2 has no height"),
    ("instances", IMAGE, "width", "8", INSTANCES + r"image 2 has the width '8'"),
    ("instances", IMAGE, "width", 0, INSTANCES + r"image 2 has the width 0"),
    ("instances", IMAGE, "width", 9, r"000000000002\.png has 8 x 6 pixels, but .*instances_val\.json says 9 x 6"),
    ("instances", IMAGE, "width", 10**12, r"000000000002\.png has 8 x 6 pixels, but"),
    (
        "instances",
        IMAGE,
        "id",
        4,
        r"Image 2 is '000000000002\.png' in .*captions.*, but .*instances.* does not list it",
    ),
]


@pytest.mark.parametrize(("kind", "place", "key", "value", "sentence"), ENTRIES)
def test_a_wrong_entry_is_named(tmp_path, kind, place, key, value, sentence):
    files = content()
    put(kind, place, key, value)(files)
    refused(write(tmp_path / "set", files), sentence)


OUTLINES = [
    ([[1, 1, 2, 2]], "has a polygon of 4 numbers"),
    ([[1, 1, 2, 2, 3]], "has a polygon of 5 numbers"),
    ([[1, 1, 2, 2, 3, 3, 4]], "has a polygon of 7 numbers"),
    ([[]], "has a polygon of 0 numbers"),
    ([[0, 0, 4, 0, 4, 3], [1, 1]], "has a polygon of 2 numbers"),
    ([0, 0, 4, 0, 4, 3], r"has the polygon 0, which is not a list of numbers"),
    ([[0, 0, 4, 0, 4, "3"]], "which is not a list of numbers"),
    ([[0, 0, 4, 0, 4, None]], "which is not a list of numbers"),
    ([[0, 0, 4, 0, 4, 1e9]], "has a point far outside of its picture"),
    ([[0, 0, 4, 0, 4, math.inf]], "not JSON .*Infinity"),
    ([[0, 0, 4, 0, 4, 10**400]], "has a point far outside of its picture"),
    ("abc", "is 'abc', which is neither polygons nor run lengths"),
    (5, "is 5, which is neither"),
    ({"size": SIZE}, "has the counts None"),
    ({"counts": [48]}, "is of the size None"),
    ({"size": [WIDTH, HEIGHT], "counts": [48]}, r"is of the size \[8, 6\], but its picture has 6 rows and 8 columns"),
    ({"size": "6x8", "counts": [48]}, "is of the size '6x8'"),
    ({"size": SIZE, "counts": [6, 12, 31]}, "has runs of 49 pixels in all, but its picture has 48"),
    ({"size": SIZE, "counts": []}, "has runs of 0 pixels"),
    ({"size": SIZE, "counts": [60, -12]}, "has a run of -12 pixels"),
    ({"size": SIZE, "counts": [6, 12.0, 30]}, r"has a run of 12\.0 pixels"),
    ({"size": SIZE, "counts": [6, "12", 30]}, "has a run of '12' pixels"),
    ({"size": SIZE, "counts": 48}, "has the counts 48"),
    ({"size": SIZE, "counts": ""}, "has runs of 0 pixels"),
    ({"size": SIZE, "counts": "6<"}, "has runs of 18 pixels"),
    ({"size": SIZE, "counts": "garbage!"}, "has counts that are no run lengths, at 'r'"),
    ({"size": SIZE, "counts": "6<é"}, "has counts that are no run lengths"),
    ({"size": SIZE, "counts": "o" * 40}, "has counts that are no run lengths"),
    ({"size": SIZE, "counts": "6<o"}, "has counts that end within a number"),
    ({"size": SIZE, "counts": "O"}, "has a run of -1 pixels"),
    ({"size": SIZE, "counts": "0oooooooo1"}, "pixels"),  # more than 32 bits hold
]


@pytest.mark.parametrize(("outline", "sentence"), OUTLINES)
def test_an_outline_that_cannot_be_decoded_is_named_when_it_is_asked_for(tmp_path, outline, sentence):
    files = content()
    put("instances", OBJECT, "segmentation", outline)(files)
    root = write(tmp_path / "set", files)
    refused(root, sentence)
    if "JSON" not in sentence:
        refused(root, r"The segmentation of annotation 20 of image 1 in .*instances_val\.json .*; correct that entry")
        assert len(CocoImages(root, "val").picture(1).instances) == 3  # other uses of the picture go on
        with pytest.raises(UserError, match="annotation 20"):
            Object(1, 0).mask(CocoImages(root, "val"), 4)


FILES = [
    (b'{"images": [', "it is not JSON"),
    (b"", "it is not JSON"),
    (b"[]", r"it holds a list and not a mapping"),
    (b"null", "it holds a null and not a mapping"),
    (b'{"images": 3}', "'images' is 3 and not a list"),
    (b'{"annotations": [{"id": 1}]}', "it has no list 'images'"),
    (b'{"images": [], "annotations": [], "x": NaN}', "NaN is no JSON number"),
    (b'{"images": "\xff\xfe"}', r"byte 12 is not UTF-8"),
    (b"\xff\xfe{\x00}\x00", "byte 0 is not UTF-8"),
    (b"[" * 100_000, "it is not JSON"),
    (b'{"images": [' + b"1" * 5000 + b"]}", "it is not JSON"),
]


@pytest.mark.parametrize("kind", ["captions", "instances"])
@pytest.mark.parametrize(("damage", "sentence"), FILES)
def test_a_damaged_annotation_file_is_named(tmp_path, kind, damage, sentence):
    root = write(tmp_path / "set")
    (root / "annotations" / f"{kind}_val.json").write_bytes(damage)
    refused(root, rf"{kind}_val\.json is damaged: .*{sentence}")


@pytest.mark.parametrize("kind", ["captions", "instances"])
def test_a_folder_in_the_place_of_an_annotation_file_is_named(tmp_path, kind):
    root = write(tmp_path / "set")
    path = root / "annotations" / f"{kind}_val.json"
    path.unlink()
    path.mkdir()
    refused(root, rf"{kind}_val\.json is a folder where an annotation file belongs")
    with pytest.raises(UserError, match="is a folder"):
        CocoImages(root, "val").fingerprint()


NAMES = ["../../x.png", "/etc/x.png", "a/../../x.png", "..\\..\\x.png", "C:\\x.png", "\\x.png", "x\0.png", ".."]


@pytest.mark.parametrize("name", NAMES)
def test_a_file_name_that_leads_out_of_the_data_set_is_refused(tmp_path, name):
    files = content()
    for said in files.values():
        said["images"][0]["file_name"] = name
    root = write(tmp_path / "deep" / "set", files)
    Image.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / "deep" / "x.png")  # what `../../x.png` would read
    refused(root, CAPTIONS + r"image 1 has the file_name .*, which leads out of the data set's folder")


def test_a_split_that_leads_out_of_the_data_set_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"The split '\.\./val' leads out"):
        CocoImages(tmp_path, "../val")


def test_an_image_or_an_object_that_is_not_there_is_named(tmp_path):
    images = CocoImages(write(tmp_path / "set"), "val")
    with pytest.raises(UserError, match="has no image 99"):
        images.picture(99)
    with pytest.raises(UserError, match="Image 1 of 'coco' has 3 objects and no number 5"):
        Object(1, 5).mask(images, 4)


def test_a_picture_that_is_not_there_or_links_to_itself_is_named(tmp_path):
    root = write(tmp_path / "set")
    path = root / "val" / "000000000002.png"
    path.unlink()
    refused(root, r"no image .*000000000002\.png")
    path.symlink_to(path)
    refused(root, r"000000000002\.png")
    path.unlink()
    path.mkdir()
    refused(root, r"000000000002\.png is a folder where an image belongs")


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["captions", "instances"]), place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_a_sentence_or_leaves_a_whole_data_set(whole, kind, place, bit):
    path = whole / "annotations" / f"{kind}_val.json"
    before = path.read_bytes()
    damaged = bytearray(before)
    damaged[int(place * len(before))] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        for picture, masks in use_all(whole):
            assert picture.path.is_file() and picture.path.is_relative_to(whole / "val")
            assert all(isinstance(each, str) and each for each in picture.captions)
            assert all(each.shape == (HEIGHT, WIDTH) and each.dtype == bool for each in masks)
            assert all(isinstance(each.category, str) and each.area >= 0 for each in picture.instances)
    except UserError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(before)


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(counts=st.text(st.characters(min_codepoint=40, max_codepoint=120), max_size=12))
def test_no_run_lengths_reach_outside_of_the_picture(whole, counts):
    with contextlib.suppress(ValueError):
        assert decode({"size": SIZE, "counts": counts}, *SIZE).shape == (HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    root = write(tmp_path_factory.mktemp("whole") / "set")
    assert json.loads((root / "annotations" / "instances_val.json").read_text())["categories"]
    assert np.array([len(masks) for _, masks in use_all(root)]).sum() == 3
    return root
