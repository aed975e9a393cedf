"""Where maps differ: the picture of the number that a ruler gives."""

import pytest
import torch

from maxbench.conditions.ruler import (
    DepthMSE,
    DepthRMSE,
    EdgeF1,
    MeanIoU,
    OwnClassIoU,
    PixelAccuracy,
    SoftEdgeMSE,
    SoftEdgeSSIM,
)

RULERS = (DepthRMSE(), DepthMSE(), SoftEdgeSSIM(), SoftEdgeMSE(), EdgeF1(1), EdgeF1(0), MeanIoU(4), OwnClassIoU())
BATCH, SIZE = 3, 20


def maps(seed, labels=False):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 4 if labels else 256, (BATCH, SIZE, SIZE), generator=generator, dtype=torch.uint8)


def region():
    valid = torch.zeros(BATCH, SIZE, SIZE, dtype=torch.bool)
    valid[:, 3:15, 4:17] = True
    return valid


def pair(ruler):
    labels = isinstance(ruler, MeanIoU | OwnClassIoU)
    given, measured = maps(0, labels), maps(1, labels)
    if isinstance(ruler, OwnClassIoU):
        given = torch.zeros_like(given)
        given[:, 6:10, 6:12] = 2
    return given, measured


@pytest.mark.parametrize("ruler", RULERS, ids=lambda ruler: type(ruler).__name__)
def test_equal_maps_have_no_error_and_others_have_one_in_range_and_inside_the_mask(ruler):
    given, measured = pair(ruler)
    assert not ruler.error(given, given, None).any()
    for valid in (None, region()):
        error = ruler.error(given, measured, valid)
        assert error.shape == given.shape and error.any()
        assert error.min() >= 0 and error.max() <= 1
        if valid is not None:
            assert not error[~valid].any()


@pytest.mark.parametrize("valid", [None, region()], ids=["everywhere", "inside"])
def test_a_mean_of_squares_of_the_error_is_the_score(valid):
    given, measured = maps(0), maps(1)
    weights = torch.ones_like(given, dtype=torch.float64) if valid is None else valid.double()

    def mean(error):
        return (weights * error**2).sum((1, 2)) / weights.sum((1, 2))

    rmse = 255 * mean(DepthRMSE().error(given, measured, valid)).sqrt()
    assert torch.allclose(rmse, torch.from_numpy(DepthRMSE().compare(given, measured, valid)))
    for ruler in (DepthMSE(), SoftEdgeMSE()):
        assert torch.allclose(
            mean(ruler.error(given, measured, valid)), torch.from_numpy(ruler.compare(given, measured, valid))
        )


def test_depth_is_compared_after_the_fit():
    given = maps(0) // 2
    assert DepthRMSE().error(given, given * 2).max() < 1e-6


def test_wrong_labels_are_what_accuracy_lacks_and_ignored_ones_are_none():
    given, measured = maps(0, labels=True), maps(1, labels=True)
    given[:, :5] = 255
    ruler = PixelAccuracy(4)
    wrong = ruler.error(given, measured).sum((1, 2)) / (given != 255).sum((1, 2))
    assert torch.allclose(100 * (1 - wrong), torch.from_numpy(ruler.score(ruler.compare(given, measured))))
    assert not ruler.error(given, measured)[:, :5].any()


def test_an_edge_in_reach_is_no_error():
    given = torch.zeros(1, 9, 9, dtype=torch.uint8)
    measured = given.clone()
    given[0, :, 4], measured[0, :, 5] = 255, 255
    assert not EdgeF1(1).error(given, measured).any()
    assert EdgeF1(0).error(given, measured).sum() == 18


def test_an_object_is_wrong_where_its_own_class_is_missing_or_spills():
    given = torch.zeros(1, 6, 6, dtype=torch.uint8)
    given[0, 2:4, 2:4] = 2
    measured = torch.full_like(given, 3)
    measured[0, 2:4, 3:5] = 2
    assert OwnClassIoU().error(given, measured)[0].nonzero().tolist() == [[2, 2], [2, 4], [3, 2], [3, 4]]
