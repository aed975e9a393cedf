"""Regions against masks computed pixel by pixel."""

import numpy as np
import pytest
from small_coco import content, write

from maxbench.data.coco import CocoImages
from maxbench.data.regions import MARGIN, Object


class Spot:
    """An image set of one object, whose mask is given."""

    def __init__(self, mask):
        self.spot = mask

    def picture(self, image):
        from types import SimpleNamespace

        return SimpleNamespace(instances=[SimpleNamespace(annotation={"segmentation": "spot"})])

    def mask(self, instance):
        return self.spot

    def size(self, image):
        return list(self.spot.shape)


def near(mask, distance):
    """Pixels whose centre is at most `distance` pixels from that of a pixel of the mask."""
    rows, columns = np.indices(mask.shape)
    widened = np.zeros_like(mask)
    for row, column in np.argwhere(mask):
        widened |= (rows - row) ** 2 + (columns - column) ** 2 <= distance**2
    return widened


@pytest.fixture
def spot():
    mask = np.zeros((32, 32), bool)
    mask[10:14, 0:3] = mask[20, 29] = True  # one part at the border, the other near it
    return Spot(mask)


@pytest.mark.parametrize("margin", [0.02, 1 / 32, 0.1, MARGIN, 1.0])
def test_a_window_is_what_lies_within_the_margin(spot, margin):
    exact = Object(0, 0)
    window = exact.window(margin).mask(spot, 32)
    assert np.array_equal(window, near(spot.spot, margin * 32))
    assert (window | exact.mask(spot, 32) == window).all()  # the object is in its window
    outside = Object(0, 0, outside=True, margin=margin)
    assert np.array_equal(outside.mask(spot, 32), ~window)
    assert outside.window(margin) == exact.window(margin)


def test_the_window_s_default_is_an_eighth_of_the_picture_s_side(spot):
    assert Object(0, 0).window() == Object(0, 0, margin=0.125)
    assert np.array_equal(Object(0, 0).window().mask(spot, 32), near(spot.spot, 4))


def test_without_a_margin_the_mask_is_exact(spot):
    assert np.array_equal(Object(0, 0).window(0).mask(spot, 32), spot.spot)


def test_an_object_that_the_square_cuts_off_has_no_window():
    nothing = Spot(np.zeros((16, 16), bool))
    assert not Object(0, 0).window().mask(nothing, 16).any()
    assert Object(0, 0, outside=True, margin=0.1).mask(nothing, 16).all()


def test_what_determines_a_mask_is_its_identity(tmp_path):
    files = content()
    images = CocoImages(write(tmp_path / "a", files), "val")
    regions = [Object(1, 0), Object(1, 0, outside=True), Object(1, 0).window(), Object(1, 0).window(0.2), Object(1, 1)]
    said = [region.identity(images) for region in regions]
    assert all(one != other for place, one in enumerate(said) for other in said[:place])
    outline = files["instances"]["annotations"][0]["segmentation"]
    assert said[0] == {"outline": outline, "size": [6, 8], "outside": False}  # as before there were margins
    files["instances"]["annotations"][0]["segmentation"] = [[0, 0, 5, 0, 5, 3, 0, 3]]
    moved = CocoImages(write(tmp_path / "b", files), "val")
    assert Object(1, 0).window().identity(moved) != said[2]
    assert str(Object(1, 0).window()) == "object 0 of image 1 with a margin of 0.125"
