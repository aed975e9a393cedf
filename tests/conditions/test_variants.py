"""Safe soft edges, objects of a data set whose categories are not the segmentation's classes; what canny reads."""

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut

from maxbench.conditions.canny import Canny
from maxbench.conditions.hed import HED, SafeHED
from maxbench.conditions.seg import Segmentation
from maxbench.errors import UserError
from maxbench.store.identity import identity


def edges(levels):
    """Pictures, and an annotator that sees these levels (H, W) in them."""
    levels = torch.as_tensor(np.asarray(levels), dtype=torch.float32)
    return torch.zeros(1, 3, *levels.shape), lambda images: levels[None, None]


def test_safe_edges_are_those_of_controlnets_tools():
    """Truncated to thirds, halved, cut off at 255 and rounded down, as the tools do in numpy."""
    rng = np.random.default_rng(0)
    levels = np.concatenate([rng.random(4000), [0, 1 / 3, 2 / 3, 1, 0.33333, 0.66666]]).astype(np.float32)
    thirds = (levels * np.float32(3)).astype(np.int32).astype(np.float32) / 2
    wanted = (thirds * 255.0).clip(0, 255).astype(np.uint8)
    found = SafeHED().draw(*edges(levels[None]))
    assert found.dtype == torch.uint8 and set(found.unique().tolist()) == {0, 127, 255}
    np.testing.assert_array_equal(found[0, 0].numpy(), wanted)


def test_a_faint_copy_of_the_picture_is_not_in_a_safe_map():
    levels = np.linspace(0, 0.3, 64).reshape(8, 8)
    levels[:, 4] = 0.9
    soft, safe = (condition.draw(*edges(levels)) for condition in (HED(), SafeHED()))
    assert len(soft.unique()) > 20 and safe.unique().tolist() == [0, 255]
    assert SafeHED().hint(safe).shape == (1, 3, 8, 8)


def test_safe_edges_have_keys_and_protocols_of_their_own():
    soft, safe = HED(), SafeHED()
    assert identity(soft) != identity(safe) and safe.null_value == 0
    for ours, theirs in zip(safe.rulers, soft.rulers, strict=True):
        assert ours.metric == theirs.metric and identity(ours) != identity(theirs)
        assert ours.protocol == f"{theirs.protocol}, maps of three levels" == ours.sample_protocol


@pytest.mark.parametrize("ruler", SafeHED.rulers, ids=lambda ruler: ruler.metric)
def test_a_safe_map_is_most_like_itself(ruler):
    maps = torch.from_numpy(np.random.default_rng(0).choice([0, 127, 255], (2, 8, 8)).astype(np.uint8))
    maps = maps.repeat_interleave(6, 1).repeat_interleave(6, 2)
    same, other = (ruler.score(ruler.compare(maps, each)) for each in (maps, maps.roll(3, 1)))
    np.testing.assert_allclose(same, ruler.best, atol=1e-4)  # SSIM is computed in float32
    assert (ruler.oriented(other) < ruler.oriented(same) - 0.01).all()


PALETTE, CLASSES = [[0, 0, 0], [1, 1, 1], [2, 2, 2]], ("nothing", "animal", "car")


def test_an_object_has_the_class_that_its_category_is():
    outline = torch.tensor([[True, False]])
    seg = Segmentation(PALETTE, CLASSES, {"dog": "animal", "cat": "animal", "car": "car"})
    assert [seg.object_map(outline, each).tolist() for each in ("dog", "cat", "car")] == [[[1, 0]], [[1, 0]], [[2, 0]]]


def test_a_category_that_is_no_class_is_refused():
    outline = torch.ones(2, 2, dtype=torch.bool)
    with pytest.raises(UserError, match=r"'toaster' is no class .* \(dog\), .* add it to suite\.categories"):
        Segmentation(PALETTE, CLASSES, {"dog": "animal"}).object_map(outline, "toaster")
    with pytest.raises(UserError, match="'animal' is no class"):  # where categories are named, they are the only ones
        Segmentation(PALETTE, CLASSES, {"dog": "animal"}).object_map(outline, "animal")
    for name in ("tiger", "nothing"):
        with pytest.raises(UserError, match=f"says that 'dog' is the class '{name}'"):
            Segmentation(PALETTE, CLASSES, {"dog": name})


def test_canny_reads_the_grey_picture_and_controlnets_own_tool_draws_more():
    """`conventions.canny` of suite=sd15 says so. That tool gives OpenCV the three channels."""
    picture = astronaut()
    edges = Canny().draw(torch.from_numpy(picture).permute(2, 0, 1)[None] / 255, None)[0].numpy()
    np.testing.assert_array_equal(edges, cv2.Canny(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), 100, 200))
    assert (cv2.Canny(picture, 100, 200) > 0).mean() > 1.1 * (edges > 0).mean()
