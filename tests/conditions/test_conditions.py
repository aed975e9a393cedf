import numpy as np
import pytest
import torch

from maxbench.conditions.canny import Canny
from maxbench.conditions.depth import Depth
from maxbench.conditions.hed import HED
from maxbench.conditions.seg import Segmentation
from maxbench.errors import UserError
from maxbench.miniature.world import CLASSES, PALETTE

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


RULERS = [(each, ruler) for each in CONDITIONS for ruler in each.rulers]
NAMES = [ruler.metric for _, ruler in RULERS]


@pytest.mark.parametrize(("condition", "ruler"), RULERS, ids=NAMES)
def test_a_map_is_most_like_itself(condition, ruler):
    maps = drawn(condition, some_pictures())
    same, other = (ruler.score(ruler.compare(maps, each)) for each in (maps, maps.roll(2, 0)))
    assert same.shape == (3,) and np.all(ruler.oriented(same) > ruler.oriented(other))


@pytest.mark.parametrize(("condition", "ruler"), RULERS, ids=NAMES)
def test_one_sample_pooled_is_that_sample(condition, ruler):
    maps = drawn(condition, some_pictures())
    statistics = ruler.compare(maps, maps.roll(1, 0)).astype(float)
    np.testing.assert_allclose(ruler.score(statistics[:1].mean(0, keepdims=True)), ruler.score(statistics)[:1])


@pytest.mark.parametrize(("condition", "ruler"), RULERS, ids=NAMES)
def test_what_lies_outside_a_region_is_not_looked_at(condition, ruler):
    """Both maps are blank there, as scoring leaves them; a change inside is seen."""
    maps = drawn(condition, some_pictures())
    other, valid = maps.roll(1, 0), torch.zeros(3, 64, 64, dtype=torch.bool)
    valid[:, 8:40, 16:56] = True
    inside = [each.masked_fill(~valid, condition.null_value) for each in (maps, other, maps.where(valid, other))]
    if ruler.best is not None:
        assert np.all(ruler.oriented(ruler.score(ruler.compare(inside[0], inside[1], valid))) < ruler.best)
    np.testing.assert_array_equal(
        ruler.compare(inside[0], inside[2], valid), ruler.compare(inside[0], inside[0], valid)
    )


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda condition: condition.name)
def test_the_first_ruler_is_the_headline_and_each_has_a_name(condition):
    names = [ruler.metric for ruler in condition.rulers]
    assert (
        names[0] == {"depth": "depth_rmse", "hed": "hed_ssim", "canny": "canny_f1", "seg": "seg_miou"}[condition.name]
    )
    assert len(set(names)) == len(names)


def test_an_object_has_an_exact_map_by_its_category():
    seg, outline = Segmentation(PALETTE.tolist(), CLASSES), torch.zeros(8, 8, dtype=torch.bool)
    outline[2:5, 3:6] = True
    found = seg.object_map(outline, "cone")
    assert found.dtype == torch.uint8 and set(found[outline].tolist()) == {CLASSES.index("cone")}
    assert not found[~outline].any()
    with pytest.raises(UserError, match="'teapot' is no class of this suite's segmentation"):
        seg.object_map(outline, "teapot")
    with pytest.raises(UserError, match=r"suite\.classes is empty"):
        Segmentation(PALETTE.tolist()).object_map(outline, "cone")
    with pytest.raises(UserError, match=r"suite\.classes names 2 classes and suite\.palette has 11 colours"):
        Segmentation(PALETTE.tolist(), ("a", "b"))


def test_segmentation_shows_each_class_in_its_colour():
    labels = torch.arange(11, dtype=torch.uint8).view(1, 1, 11)
    hint = (Segmentation(PALETTE.tolist()).hint(labels)[0, :, 0].T * 255).round().byte().numpy()
    assert np.array_equal(hint, PALETTE)


def test_impossible_settings_are_refused():
    with pytest.raises(UserError, match="low=200"):
        Canny(low=200, high=100)
    with pytest.raises(UserError, match="palette"):
        Segmentation([[0, 0]])
