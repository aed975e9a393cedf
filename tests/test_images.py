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
