"""A picture, its maps and its objects' masks become one square: what covers the object covers it there as well."""

import json

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle

from maxbench import images as im
from maxbench.data.coco import CocoImages
from maxbench.data.pairing import ObjectOnScene
from maxbench.data.regions import Object

RED, GREY = (250, 20, 20), (90, 90, 90)
SHAPES = [(640, 427), (427, 640), (97, 53), (53, 98), (64, 64), (33, 33), (500, 375), (375, 501)]  # width, height
SIZES = [16, 64, 77, 512]


def ellipse(width, height, at=(0.5, 0.5), radii=(0.2, 0.3)):
    """An object off every axis: an ellipse with a bite taken out of its upper right."""
    y, x = np.mgrid[:height, :width]
    u, v = (x + 0.5) / width - at[0], (y + 0.5) / height - at[1]
    return ((u / radii[0]) ** 2 + (v / radii[1]) ** 2 < 1) & ~((u > 0) & (v < 0))


def write(root, masks, form="rle", save=None):
    """A data set with a picture of a red object on grey for every mask."""
    (root / "val").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, instances, captions = [], [], []
    for number, mask in enumerate(masks, start=1):
        height, width = mask.shape
        picture = np.where(mask[..., None], np.uint8(RED), np.uint8(GREY))
        file = f"{number}.png"
        if save is None:
            Image.fromarray(picture).save(root / "val" / file)
        else:
            file = save(Image.fromarray(picture), root / "val" / str(number))
        images.append({"id": number, "file_name": file, "width": width, "height": height})
        encoded = rle.encode(np.asfortranarray(mask.astype(np.uint8)))
        outline = {"size": encoded["size"], "counts": encoded["counts"].decode()}
        instances.append({"id": number, "image_id": number, "category_id": 1, "segmentation": outline})
        captions.append({"id": number, "image_id": number, "caption": f"picture {number}"})
    said = {"images": images, "annotations": captions}
    (root / "annotations" / "captions_val.json").write_text(json.dumps(said))
    said = {"images": images, "annotations": instances, "categories": [{"id": 1, "name": "egg"}]}
    (root / "annotations" / "instances_val.json").write_text(json.dumps(said))
    return CocoImages(root, "val")


def near(picture, colour):
    return (np.abs(picture.astype(int) - colour) <= 3).all(-1)


@pytest.mark.parametrize(("width", "height"), SHAPES)
@pytest.mark.parametrize("at", [(0.5, 0.5), (0.35, 0.6), (0.2, 0.2)])
def test_a_mask_covers_the_object_in_the_square(width, height, at, tmp_path):
    whole = ellipse(width, height, at)
    images = write(tmp_path / "set", [whole])
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    for size in SIZES:
        mask = Object(1, 0).mask(images, size)
        places = np.floor((np.arange(size) + 0.5) * side / size).astype(int)  # the pixel below the middle of each
        assert np.array_equal(mask, whole[top + places][:, left + places])
        picture = im.to_bytes(im.read_images([images.picture(1).path], size))[0]
        assert mask[near(picture, RED)].all() and not mask[near(picture, GREY)].any()
        half_red = picture[..., 0].astype(int) - picture[..., 1] > 115
        if size >= 64 and side >= 53 and mask.any():
            assert (mask & half_red).sum() / (mask | half_red).sum() > 0.9
        assert np.array_equal(Object(1, 0, outside=True).mask(images, size), ~mask)


@pytest.mark.parametrize(("width", "height"), SHAPES)
def test_what_is_in_the_square_of_an_object_is_measured(width, height, tmp_path):
    masks = [ellipse(width, height, at) for at in ((0.5, 0.5), (0.1, 0.1), (0.05, 0.5), (0.5, 0.95))]
    images = write(tmp_path / "set", masks)
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    for number, mask in enumerate(masks, start=1):
        cut = mask[top : top + side, left : left + side].sum() / mask.sum()
        assert Object(number, 0).inside(images) == pytest.approx(cut)


def test_an_object_that_is_mostly_cut_off_is_not_drawn(tmp_path):
    def stripe(first, last):
        mask = np.zeros((100, 300), bool)
        mask[:, first:last] = True
        return mask

    outlines = {  # the square is of the columns from 100 to 200
        "fills a quarter": stripe(130, 155),
        "half of it is there": stripe(75, 125),
        "less than half is there": stripe(74, 125),
        "all of it is outside": stripe(0, 90),
        "too large in the square, not in the picture": stripe(110, 160),
        "too small in the picture, not in the square": stripe(100, 112),
    }
    images = write(tmp_path / "set", list(outlines.values()))
    pairing = ObjectOnScene(reference=0)
    drawn = [name for number, name in enumerate(outlines, start=1) if pairing._object(images, number) is not None]
    assert drawn == ["fills a quarter", "half of it is there", "too small in the picture, not in the square"]


def as_jpeg(mode, **more):
    def save(picture, path):
        picture.convert(mode).save(path.with_suffix(".jpg"), quality=95, subsampling=0, **more)
        return path.with_suffix(".jpg").name

    return save


@pytest.mark.parametrize(("mode", "tolerance"), [("RGB", 8), ("L", 8), ("CMYK", 8)])
def test_jpegs_of_every_kind_are_read_as_colours(mode, tolerance, tmp_path):
    whole = ellipse(200, 120)
    images = write(tmp_path / "set", [whole], save=as_jpeg(mode))
    picture = im.to_bytes(im.read_images([images.picture(1).path], 120))[0].astype(int)
    inside, outside = np.zeros((120, 120), bool), np.zeros((120, 120), bool)
    inside[62:70, 50:58], outside[5:20, 5:20] = True, True
    assert Object(1, 0).mask(images, 120)[inside].all() and not Object(1, 0).mask(images, 120)[outside].any()
    red = [0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2]] * 3 if mode == "L" else RED
    assert np.abs(picture[inside] - red).max() <= tolerance and np.abs(picture[outside] - GREY).max() <= tolerance


def test_a_note_of_the_camera_is_not_followed_for_outlines_speak_of_stored_pixels(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    images = write(tmp_path / "set", [ellipse(200, 120)], save=as_jpeg("RGB", exif=exif))
    picture = im.to_bytes(im.read_images([images.picture(1).path], 120))[0].astype(int)
    half_red = picture[..., 0] - picture[..., 1] > 115
    mask = Object(1, 0).mask(images, 120)
    assert (mask & half_red).sum() / (mask | half_red).sum() > 0.95
    assert im.read_orientation(images.picture(1).path) == 6


@pytest.mark.parametrize("size", [32, 64])
def test_fine_detail_becomes_its_average_and_no_pattern(size, tmp_path):
    """A checkerboard of single pixels is grey at a third of its size, where labels take one of the two."""
    board = (np.indices((3 * size, 4 * size)).sum(0) % 2).astype(np.uint8)
    smooth = im.square(np.repeat(board[..., None] * 255, 3, axis=2), size)
    assert np.abs(smooth.astype(int) - 127.5).max() < 25
    assert set(np.unique(im.square(board, size, smooth=False))) <= {0, 1}
