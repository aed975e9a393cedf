"""What annotators and scorers learn from: disturbed pictures, and a loss that weighs what is hard."""

import pytest
import torch

from maxbench.miniature.annotators import HEADS, OUTPUTS, disturbed, observing_loss
from maxbench.miniature.world import CLASSES


def drawn(seed=0, shape=(6, 3, 16, 16)):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def generator():
    return torch.Generator().manual_seed(5)


def test_without_any_amount_pictures_are_as_they_were():
    images = drawn()
    assert torch.equal(disturbed(images, generator(), 0, 0, 0), images)


def test_noise_is_of_another_strength_in_every_picture_and_never_above_the_largest():
    images = torch.zeros(40, 3, 32, 32)
    strengths = disturbed(images, generator(), 0.2, 0, 0).std(dim=(1, 2, 3))
    assert 0 < strengths.min() < 0.05 and 0.15 < strengths.max() < 0.21
    assert len(set(strengths.tolist())) == 40


def test_a_blur_keeps_what_is_even_and_makes_details_weaker():
    even = torch.full((2, 3, 16, 16), 0.3)
    torch.testing.assert_close(disturbed(even, generator(), 0, 1.0, 0), even)
    images = drawn()
    blurred = disturbed(images, generator(), 0, 1.0, 0)
    assert (blurred.std(dim=(1, 2, 3)) < images.std(dim=(1, 2, 3))).all()
    spot = torch.zeros(1, 3, 9, 9)
    spot[0, 1, 4, 4] = 1.0
    spread = disturbed(spot, generator(), 0, 1.0, 0)
    assert spread.sum() == pytest.approx(1) and not spread[0, [0, 2]].any()  # no channel reaches another
    torch.testing.assert_close(spread, spread.flip(-1).flip(-2))


def test_colours_change_by_a_gain_and_an_offset_for_each_channel():
    images, most = drawn(), 0.15
    changed = disturbed(images, generator(), 0, 0, most)
    for before, after in zip(images.flatten(0, 1), changed.flatten(0, 1), strict=True):
        line = torch.stack([before.flatten(), torch.ones(before.numel())], dim=1)
        gain, offset = torch.linalg.lstsq(line, after.flatten()[:, None]).solution.flatten().tolist()
        torch.testing.assert_close(before * gain + offset, after, atol=1e-5, rtol=0)
        assert abs(gain - 1) <= most + 1e-5 and abs(offset) <= most + 1e-5 and abs(gain - 1) + abs(offset) > 1e-4


def test_the_same_numbers_disturb_in_the_same_way():
    first, again = (disturbed(drawn(), generator(), 0.1, 1.0, 0.1) for _ in range(2))
    assert torch.equal(first, again)


def test_solids_count_more_and_depth_by_its_square_where_it_is_said():
    sky, box = CLASSES.index("sky"), CLASSES.index("box")
    truth = torch.full((1, 4, 4), sky)
    truth[0, 0] = box  # a quarter
    depth, edges = torch.full((1, 4, 4), 102), torch.zeros(1, 4, 4)
    output = torch.zeros(1, OUTPUTS, 4, 4)
    output[:, HEADS["hed"]] = -40.0  # sure that there is no edge
    output[:, HEADS["seg"]][:, sky] = 3.0  # right everywhere but at the solid

    def loss(**how):
        return float(observing_loss(output, depth, edges, truth, **how))

    assert loss(solids=2.0) > loss()
    near, square = 8 * 0.4, 80 * 0.4**2  # depth is 0.4 away everywhere
    assert loss(squared=True) - loss() == pytest.approx(square - near, abs=1e-5)
