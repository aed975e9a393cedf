import struct
import zlib

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from maxbench import images as im
from maxbench.errors import UserError


def test_bytes_survive_the_way_to_disk_and_back(tmp_path):
    array = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    path.write_bytes(im.encode_png(array))
    assert np.array_equal(im.read_png(path), array)
    assert np.array_equal(im.to_bytes(im.from_bytes(array[None]))[0], array)


def test_defects_are_found_before_they_are_cast_away():
    good = torch.rand(3, 8, 8)
    assert im.defect(good) is None
    bad = good.clone()
    bad[0, 0, 0] = torch.nan
    assert im.defect(bad) == "nan"
    assert im.defect(torch.zeros(3, 8, 8)) == "black"
    assert im.to_bytes(bad[None])[0, 0, 0, 0] == 0


def test_a_damaged_image_is_named(tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(im.encode_png(np.zeros((64, 64, 3), np.uint8) + 99)[:60])
    with pytest.raises(UserError, match=r"broken\.png"):
        im.read_png(path)
    with pytest.raises(UserError, match=r"no image .*gone\.png"):
        im.read_png(tmp_path / "gone.png")


def test_pictures_of_another_size_are_cut_to_their_middle(tmp_path):
    array = np.zeros((32, 64, 3), np.uint8)
    array[:, 16:48] = 255
    Image.fromarray(array).save(tmp_path / "wide.png")
    picture = im.read_images([tmp_path / "wide.png"], 16)
    assert picture.shape == (1, 3, 16, 16)
    assert picture.min() == 1


def save(path, array, **settings):
    Image.fromarray(array).save(path, **settings)
    return path


GREY = np.arange(0, 240, 15, dtype=np.uint8).reshape(4, 4)
COLOURS = np.stack([GREY, GREY[::-1], GREY.T], axis=-1)


def test_every_kind_of_picture_becomes_rgb(tmp_path):
    three = np.stack([GREY] * 3, axis=-1)
    assert np.array_equal(im.read_png(save(tmp_path / "grey.png", GREY)), three)
    assert np.array_equal(im.read_png(save(tmp_path / "deep.png", GREY.astype(np.uint16) * 256 + 7)), three)
    cv2.imwrite(str(tmp_path / "deep_colours.png"), COLOURS[..., ::-1].astype(np.uint16) * 256 + 7)
    assert np.array_equal(im.read_png(tmp_path / "deep_colours.png"), COLOURS)
    alpha = np.dstack([COLOURS, GREY])
    assert np.array_equal(im.read_png(save(tmp_path / "alpha.png", alpha)), COLOURS)  # colours as stored
    palette = Image.fromarray(COLOURS).quantize(16)
    palette.save(tmp_path / "palette.png")
    assert np.array_equal(im.read_png(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))
    Image.fromarray(COLOURS).convert("CMYK").save(tmp_path / "print.tif")
    assert np.array_equal(im.read_png(tmp_path / "print.tif"), COLOURS)
    assert im.read_png(save(tmp_path / "bits.png", GREY > 100)).max() == 255


def test_a_map_keeps_its_colours_or_has_one_level(tmp_path):
    assert im.read_png(save(tmp_path / "grey.png", GREY), None).shape == (4, 4)
    assert im.read_png(save(tmp_path / "deep.png", GREY.astype(np.uint16) * 256), None).shape == (4, 4)
    assert im.read_png(save(tmp_path / "colours.png", COLOURS), None).shape == (4, 4, 3)


def test_a_photograph_is_read_as_stored_and_not_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    path = save(tmp_path / "photograph.jpg", np.zeros((4, 8, 3), np.uint8), exif=exif)
    assert im.read_png(path).shape == (4, 8, 3) and im.read_size(path) == (8, 4)


def test_pictures_that_cannot_be_used_are_named(tmp_path, recwarn):
    def refused(path, sentence):
        with pytest.raises(UserError, match=sentence) as caught:
            im.read_png(path)
        assert "\n" not in str(caught.value) and path.name in str(caught.value)

    refused(tmp_path, "is a folder where an image belongs")
    (tmp_path / "text.png").write_text("no picture")
    refused(tmp_path / "text.png", "cannot be read")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "cannot be read")
    whole = save(tmp_path / "whole.jpg", np.zeros((64, 64, 3), np.uint8)).read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) * 3 // 4])
    refused(tmp_path / "half.jpg", "cannot be read.*[Tt]runcated")
    refused(save(tmp_path / "float.tif", GREY.astype(np.float32)), "32-bit levels")
    (tmp_path / "large.png").write_bytes(empty_png(10_000, 9_000))
    refused(tmp_path / "large.png", "has 10000 x 9000 pixels; make it smaller, 89,478,485 pixels are the most")
    (tmp_path / "bomb.png").write_bytes(empty_png(60_000, 60_000))
    refused(tmp_path / "bomb.png", "far too many pixels; make it smaller, 89,478,485 pixels are the most")
    assert not recwarn.list


def empty_png(width, height):
    """A PNG of a few bytes that says how large it is."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(b"")
    chunks = (struct.pack(">I", len(each) - 4) + each + struct.pack(">I", zlib.crc32(each)) for each in (header, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_maps_of_two_sizes_are_named(tmp_path):
    paths = [save(tmp_path / "a.png", GREY), save(tmp_path / "b.png", GREY[:2])]
    with pytest.raises(UserError, match=r"b\.png is of shape \(2, 4\), but .*a\.png \(4, 4\)"):
        im.read_maps(paths)


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp"])
def test_a_damaged_picture_is_a_sentence_or_a_picture(tmp_path, kind):
    path = save(tmp_path / f"picture.{kind}", np.tile(COLOURS, (4, 4, 1)))
    whole, generator = path.read_bytes(), np.random.default_rng(0)
    for _ in range(100):
        damaged = bytearray(whole)
        damaged[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        path.write_bytes(damaged)
        try:
            assert im.read_png(path).shape[2] == 3
        except UserError as error:
            assert "\n" not in str(error)
