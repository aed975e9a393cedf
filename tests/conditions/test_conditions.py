import numpy as np
import pytest
import torch

from maxbench.conditions.canny import Canny
from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.conditions.seg import Segmentation
from maxbench.errors import UserError
from maxbench.miniature.world import PALETTE

CONDITIONS = [Depth(), HED(), Canny(), Segmentation(PALETTE.tolist())]


def some_pictures():
    rng = np.random.default_rng(0)
    blocks = torch.from_numpy(rng.random((3, 3, 8, 8))).float()
    return torch.nn.functional.interpolate(blocks, 64, mode="nearest")


def drawn(condition, pictures):
    """Maps by a stand-in of the right shape for the suite's network."""

    def annotator(images):
        grey = images.mean(1, keepdim=True)
        return (
            torch.cat([(grey - level / 11).abs().neg() for level in range(11)], 1) if condition.name == "seg" else grey
        )

    return condition.draw(pictures, annotator)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_maps_are_bytes_and_hints_are_pictures(condition):
    maps = drawn(condition, some_pictures())
    assert maps.dtype == torch.uint8 and maps.shape == (3, 64, 64)
    hint = condition.hint(maps)
    assert hint.shape == (3, 3, 64, 64) and hint.dtype == torch.float32
    assert hint.min() >= 0 and 0 < hint.max() <= 1
    nothing = condition.hint(torch.full_like(maps, condition.null_value))
    assert not nothing.any()  # what training blanks with


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_a_map_is_most_like_itself(condition):
    maps = drawn(condition, some_pictures())
    sign = 1 if condition.higher_is_better else -1
    same = sign * condition.score(condition.compare(maps, maps))
    other = sign * condition.score(condition.compare(maps, maps.roll(1, 0)))
    assert same.shape == (3,) and np.all(same > other)


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_one_sample_pooled_is_that_sample(condition):
    maps = drawn(condition, some_pictures())
    statistics = condition.compare(maps, maps.roll(1, 0)).astype(float)
    np.testing.assert_allclose(condition.score(statistics[:1].mean(0, keepdims=True)), condition.score(statistics)[:1])


def test_segmentation_shows_each_class_in_its_colour():
    labels = torch.arange(11, dtype=torch.uint8).view(1, 1, 11)
    hint = (Segmentation(PALETTE.tolist()).hint(labels)[0, :, 0].T * 255).round().byte().numpy()
    assert np.array_equal(hint, PALETTE)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="low=200"):
        Canny(low=200, high=100)
    with pytest.raises(UserError, match="palette"):
        Segmentation([[0, 0]])
