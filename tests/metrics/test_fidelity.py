"""The rulers of the conditions: hand-made maps, other libraries' numbers, and what must not matter."""

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given as with_examples
from hypothesis import settings
from hypothesis import strategies as st
from skimage.metrics import structural_similarity
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, StructuralSimilarityIndexMeasure

from maxbench.metrics.fidelity import (
    accuracy_of_counts,
    class_counts,
    confusion,
    depth_rmse,
    depth_rmse_controlnetpp,
    edge_f1,
    iou_of_counts,
    mean_iou,
    ms_ssim,
    ms_ssim_scales,
    mse,
    own_class_iou,
    per_image_iou,
    soft_edge_ssim,
)
from maxbench.metrics.statistics import bootstrap, resampled_sums


def maps(seed: int, batch: int = 4, size: int = 24) -> torch.Tensor:
    return torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(seed))


def labels(seed: int, batch: int = 4, size: int = 16, classes: int = 5) -> torch.Tensor:
    return torch.randint(classes, (batch, size, size), generator=torch.Generator().manual_seed(seed))


def edges(*rows: str) -> torch.Tensor:
    """One map from a drawing, '#' for an edge."""
    return torch.tensor([[[[float(pixel == "#") for pixel in row] for row in rows]]])


MAP_RULERS = [
    depth_rmse,
    depth_rmse_controlnetpp,
    mse,
    soft_edge_ssim,
    lambda given, measured, **k: edge_f1(given.round(), measured.round(), **k),
]


@pytest.mark.parametrize("ruler", MAP_RULERS)
def test_a_sample_does_not_depend_on_its_batch(ruler):
    given, measured = maps(0, 5), maps(1, 5)
    together = ruler(given, measured)
    assert together.shape == (5,)
    assert together.dtype == torch.float64
    assert len(together.unique()) == 5
    alone = torch.cat([ruler(given[i : i + 1], measured[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ruler(given.flip(0), measured.flip(0)), together.flip(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ruler", MAP_RULERS)
def test_all_valid_is_no_region_at_all_and_a_region_ignores_the_rest(ruler):
    given, measured = maps(0), maps(1)
    whole = ruler(given, measured)
    everywhere = torch.ones_like(given, dtype=torch.bool)
    torch.testing.assert_close(ruler(given, measured, valid=everywhere), whole)
    left = everywhere.clone()
    left[..., 12:] = False
    inside = ruler(given, measured, valid=left)
    assert not torch.allclose(inside, whole)
    spoilt = measured.clone()
    spoilt[..., 20:] = 1 - spoilt[..., 20:]  # beyond every window that is centred in the region
    torch.testing.assert_close(ruler(given, spoilt, valid=left), inside)
    assert not torch.allclose(ruler(given, spoilt), whole)


@pytest.mark.parametrize("ruler", MAP_RULERS)
def test_every_sample_has_a_region_of_its_own(ruler):
    given, measured, valid = maps(0), maps(1), torch.zeros(4, 1, 24, 24, dtype=torch.bool)
    for i in range(4):
        valid[i, :, : 5 * (i + 1)] = True
    together = ruler(given, measured, valid=valid)
    for i in range(4):
        alone = ruler(given[i : i + 1], measured[i : i + 1], valid=valid[i : i + 1])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("ruler", [depth_rmse, mse, soft_edge_ssim, edge_f1])
def test_maps_of_wrong_shape_or_range_are_named(ruler):
    good = torch.zeros(2, 1, 8, 8)
    with pytest.raises(ValueError, match=r"given maps must be \(batch, 1, height, width\), got \(2, 3, 8, 8\)"):
        ruler(good.expand(2, 3, 8, 8), good)
    with pytest.raises(ValueError, match=r"measured maps must be .* got \(2, 8, 8\)"):
        ruler(good, good[:, 0])
    with pytest.raises(ValueError, match=r"differ in shape: \(2, 1, 8, 8\) and \(1, 1, 8, 8\)"):
        ruler(good, good[:1])
    with pytest.raises(ValueError, match=r"measured maps must lie in \[0, 1\], got values from 0 to 255"):
        ruler(good, torch.where(torch.eye(8) > 0, 255.0, good))
    with pytest.raises(ValueError, match="given maps must lie in"):
        ruler(good - 0.1, good)
    with pytest.raises(ValueError, match="given maps must lie in"):
        ruler(good * float("nan"), good)
    valid = torch.ones(2, 1, 8, 8, dtype=torch.bool)
    with pytest.raises(ValueError, match="valid must be bool"):
        ruler(good, good, valid=valid.float())
    with pytest.raises(ValueError, match="valid must be bool"):
        ruler(good, good, valid=valid[:, 0])
    valid[1] = False
    with pytest.raises(ValueError, match="sample 1 of the batch has no valid pixel"):
        ruler(good, good, valid=valid)


@pytest.mark.parametrize("ruler", [depth_rmse, soft_edge_ssim])
def test_the_rounding_of_a_resize_is_no_mistake_of_range(ruler):
    given = maps(0)
    given[..., :4, :4] = 1 + 4e-7
    assert ruler(given, given).isfinite().all()


# Depth


def test_depth_by_hand():
    given = torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])
    # Best fit of 0 0 1 1 to 0 1 0 1 is the constant 1/2.
    uncorrelated = torch.tensor([[[[0.0, 0.0], [1.0, 1.0]]]])
    assert depth_rmse(given, uncorrelated).item() == pytest.approx(127.5, rel=1e-12)
    # Slope 1/3 through the means: residuals 1/3, 1/3, 2/3 and 0 of deviations.
    third = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    assert depth_rmse(given, third).item() == pytest.approx(255 * (1 / 6) ** 0.5, rel=1e-6)


def test_depth_is_least_squares():
    given, measured = maps(0), maps(0) * 0.7 + 0.3 * maps(1)
    expected = []
    for g, m in zip(given.flatten(1).double().numpy(), measured.flatten(1).double().numpy(), strict=True):
        design = np.stack([m, np.ones_like(m)], axis=1)
        fit = design @ np.linalg.lstsq(design, g, rcond=None)[0]
        expected.append(255 * np.sqrt(np.mean((fit - g) ** 2)))
    assert depth_rmse(given, measured).numpy() == pytest.approx(np.array(expected), rel=1e-10)


@settings(max_examples=30, deadline=None)
@with_examples(scale=st.floats(0.05, 0.6), shift=st.floats(0, 0.4), seed=st.integers(0, 99))
def test_depth_does_not_see_scale_or_shift(scale, shift, seed):
    given, measured = maps(seed, 2, 8), maps(seed + 100, 2, 8).double()
    torch.testing.assert_close(
        depth_rmse(given, scale * measured + shift), depth_rmse(given, measured), rtol=1e-9, atol=1e-9
    )
    assert depth_rmse(given, scale * given.double() + shift).max() < 1e-6


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 1.0])
def test_a_depth_without_contrast_gets_the_shift_alone(level):
    given = maps(0)
    error = depth_rmse(given, torch.full_like(given, level))
    torch.testing.assert_close(error, 255 * given.double().flatten(1).std(dim=1, correction=0))
    assert depth_rmse(torch.full_like(given, 0.2), given).max() < 1e-4  # float32's own 0.2


def test_an_inverted_depth_is_not_a_perfect_one():
    given = maps(0)
    torch.testing.assert_close(depth_rmse(given, 1 - given), depth_rmse(given, torch.zeros_like(given)))


def test_depth_is_fitted_in_the_region_only():
    given = maps(0)
    valid = maps(5) > 0.5
    measured = torch.where(valid, 0.5 * given + 0.2, torch.tensor(1.0))
    assert depth_rmse(given, measured, valid).max() < 1e-4
    assert depth_rmse(given, measured).min() > 10


# Segmentation


def test_confusion_by_hand():
    given = torch.tensor([[[0, 0], [1, 255]], [[2, 2], [2, 2]]])
    measured = torch.tensor([[[0, 1], [1, 7]], [[2, 0], [2, 2]]])
    counts = confusion(given, measured, 3)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [
        [[1, 1, 0], [0, 1, 0], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0], [1, 0, 3]],
    ]
    # First image: 1/2 and 1/2; second: 0/1 and 3/4; data set: 1/3, 1/2, 3/4.
    assert per_image_iou(counts).tolist() == [50, 37.5]
    assert mean_iou(counts) == pytest.approx(100 * (1 / 3 + 1 / 2 + 3 / 4) / 3, rel=1e-14)


def test_iou_is_torchmetrics():
    given, measured = labels(0, classes=6), labels(1, classes=6)
    measured = torch.where(maps(2, 4, 16)[:, 0] < 0.5, given, measured)
    given[:, :3] = 255
    metric = MulticlassJaccardIndex(num_classes=8, ignore_index=255)  # two classes that never occur
    metric.update(measured, given)
    counts = confusion(given, measured, 8)
    assert mean_iou(counts) == pytest.approx(100 * metric.compute().item(), rel=1e-5)  # theirs is float32
    for i in range(len(given)):
        alone = MulticlassJaccardIndex(num_classes=8, ignore_index=255)(measured[i], given[i])
        assert per_image_iou(counts)[i].item() == pytest.approx(100 * alone.item(), rel=1e-5)


def test_confusions_add_up_over_any_batches():
    given, measured = labels(0, batch=6), labels(1, batch=6)
    counts = confusion(given, measured, 5)
    assert torch.equal(counts, torch.cat([confusion(given[i : i + 2], measured[i : i + 2], 5) for i in (0, 2, 4)]))
    assert mean_iou(counts) == mean_iou(counts.flip(0)) == mean_iou(counts.sum(dim=0))
    assert counts.sum() == given.numel()


def test_only_the_ratios_of_counts_matter():
    counts = confusion(labels(0), labels(1), 5)
    torch.testing.assert_close(per_image_iou(counts / 1000), per_image_iou(counts))
    assert mean_iou(counts / 1000) == pytest.approx(mean_iou(counts), rel=1e-5)  # float32 counts


def test_rows_are_given_and_columns_measured():
    given, measured = labels(0), labels(1)
    assert torch.equal(confusion(given, measured, 5), confusion(measured, given, 5).transpose(1, 2))
    assert confusion(torch.zeros(1, 2, 2, dtype=torch.int64), torch.ones(1, 2, 2, dtype=torch.int64), 2).tolist() == [
        [[0, 4], [0, 0]]
    ]


def test_perfect_and_disjoint_labels():
    given = labels(0)
    assert mean_iou(confusion(given, given, 9)) == 100
    assert mean_iou(confusion(given, (given + 1) % 5, 9)) == 0
    nothing = confusion(torch.full_like(given, 255), given, 9)
    assert np.isnan(mean_iou(nothing))
    assert per_image_iou(nothing).isnan().all()


@pytest.mark.parametrize("size", [8, 11, 16, 32, 37])
def test_labels_are_resized_to_the_nearest_pixel_centre(size):
    given = torch.zeros(1, 16, 16, dtype=torch.int64)
    measured = labels(3, batch=1, size=size, classes=200)
    resized = cv2.resize(measured[0].numpy().astype(np.uint8), (16, 16), interpolation=cv2.INTER_NEAREST_EXACT)
    counts = confusion(given, measured, 200)[0, 0]
    assert counts.tolist() == np.bincount(resized.ravel(), minlength=200).tolist()


def test_resizing_keeps_the_place():
    given = labels(0, batch=2, size=8)[:, :, 2:]  # not square
    doubled = given.repeat_interleave(2, dim=1).repeat_interleave(3, dim=2)
    assert torch.equal(confusion(given, doubled, 5), confusion(given, given, 5))


def test_the_data_set_iou_bootstraps_from_sums():
    given, measured = labels(0, batch=12), labels(1, batch=12)
    measured = torch.where(maps(2, 12, 16)[:, 0] < 0.6, given, measured)
    counts = confusion(given, measured, 5)
    slow = bootstrap(lambda index: mean_iou(counts[index]), 12, seed=0, resamples=50)
    fast = bootstrap(
        lambda index: per_image_iou(resampled_sums(counts, index)), 12, seed=0, resamples=50, vectorized=True
    )
    assert (fast.value, fast.low, fast.high) == pytest.approx((slow.value, slow.low, slow.high), rel=1e-12)
    assert slow.low < slow.value < slow.high


def test_mistakes_in_labels_are_named():
    good = labels(0)
    with pytest.raises(ValueError, match=r"given labels must be in 0\.\.3 .* found 4"):
        confusion(good, good.clamp(max=3), 4)
    with pytest.raises(ValueError, match=r"measured labels must be in 0\.\.3 .* found 255"):
        confusion(good.clamp(max=3), torch.full_like(good, 255), 4)
    with pytest.raises(ValueError, match=r"measured labels must be in .* found -1"):
        confusion(good, good - 1, 5)
    with pytest.raises(ValueError, match=r"given labels must be integers, got torch\.float32"):
        confusion(good.float(), good, 5)
    with pytest.raises(ValueError, match=r"measured labels must be \(batch, height, width\)"):
        confusion(good, good[:, None], 5)
    with pytest.raises(ValueError, match="differ in number: 4 and 2"):
        confusion(good, good[:2], 5)
    with pytest.raises(ValueError, match="ignore_index 0 is one of the 5 classes"):
        confusion(good, good, 5, ignore_index=0)
    with pytest.raises(ValueError, match=r"\(4, 5, 3\)"):
        mean_iou(torch.zeros(4, 5, 3))
    with pytest.raises(ValueError, match=r"\(5,\)"):
        per_image_iou(torch.zeros(5))


# Soft edges


def test_ssim_is_one_for_equal_maps_and_falls_with_noise():
    given = maps(0)
    torch.testing.assert_close(soft_edge_ssim(given, given), torch.ones(4, dtype=torch.float64))
    slightly, much = (soft_edge_ssim(given, (1 - p) * given + p * maps(1)) for p in (0.2, 0.8))
    assert (slightly > much).all() and (slightly < 1).all()


def test_ssim_of_two_constants_is_its_luminance_term():
    given, measured = torch.full((1, 1, 16, 16), 0.2), torch.full((1, 1, 16, 16), 0.6)
    expected = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)
    assert soft_edge_ssim(given, measured).item() == pytest.approx(expected, abs=2e-4)


def test_ssim_is_torchmetrics_class_on_each_sample():
    given, measured = maps(0).double(), maps(1).double()
    values = soft_edge_ssim(given, measured)
    for i in range(4):
        metric = StructuralSimilarityIndexMeasure(data_range=1.0)
        expected = metric(measured[i : i + 1], given[i : i + 1]).item()
        assert values[i].item() == pytest.approx(expected, abs=1e-5)


def test_ssim_refuses_maps_smaller_than_its_window():
    with pytest.raises(ValueError, match=r"6 pixels or more a side, got \(5, 9\)"):
        soft_edge_ssim(torch.zeros(1, 1, 5, 9), torch.zeros(1, 1, 5, 9))
    assert soft_edge_ssim(torch.zeros(1, 1, 6, 6), torch.zeros(1, 1, 6, 6)).item() == 1


# Binary edges


def test_f1_by_hand():
    given = edges(
        "#....#",
        "#.....",
        "#.....",
        "......",
    )
    measured = edges(
        ".#....",
        "......",
        "......",
        "...#..",
    )
    # In reach of one pixel: one of two measured; the two upper ones of four given.
    assert edge_f1(given, measured).item() == pytest.approx(2 * 0.5 * 0.5 / 1)
    assert edge_f1(given, measured, tolerance=0).item() == 0
    # Two pixels reach three of four given; three pixels everything.
    assert edge_f1(given, measured, tolerance=2).item() == pytest.approx(2 * 0.5 * 0.75 / 1.25)
    assert edge_f1(given, measured, tolerance=3).item() == 1


def test_f1_against_distances_of_all_pairs():
    given, measured = (maps(2) > 0.97).float(), (maps(3) > 0.95).float()
    for tolerance in (0, 1, 2):
        expected = []
        for g, m in zip(given[:, 0], measured[:, 0], strict=True):
            distance = torch.cdist(g.nonzero().double(), m.nonzero().double(), p=float("inf"))
            recall = (distance.amin(dim=1) <= tolerance).double().mean()
            precision = (distance.amin(dim=0) <= tolerance).double().mean()
            total = (precision + recall).item()
            expected.append(2 * (precision * recall).item() / total if total else 0.0)
        assert edge_f1(given, measured, tolerance).tolist() == pytest.approx(expected, rel=1e-12)
        assert edge_f1(measured, given, tolerance).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_tolerance_is_chebyshevs():
    point = torch.zeros(1, 1, 9, 9)
    point[..., 4, 4] = 1
    for row in range(9):
        for column in range(9):
            other = torch.zeros_like(point)
            other[..., row, column] = 1
            reached = max(abs(row - 4), abs(column - 4)) <= 2
            assert edge_f1(point, other, tolerance=2).item() == float(reached)


def test_empty_edges():
    nothing, something = torch.zeros(1, 1, 4, 4), edges("#...", "....", "....", "....")
    batch = torch.cat([nothing, nothing, something, something])
    assert edge_f1(batch, torch.cat([nothing, something, nothing, something])).tolist() == [1, 0, 0, 1]
    # An edge outside the region is no edge.
    valid = torch.ones(1, 1, 4, 4, dtype=torch.bool)
    valid[..., 0, 0] = False
    assert edge_f1(something, nothing, valid=valid).item() == 1
    assert edge_f1(nothing, something, valid=~valid).item() == 0


def test_edges_in_a_region_may_be_matched_beyond_its_border():
    given, measured = edges("..#..."), edges("...#..")
    valid = torch.tensor([[[[True, True, True, False, False, False]]]])
    assert edge_f1(given, measured, valid=valid).item() == 0  # nothing measured inside
    both = edges("#.#...")
    assert edge_f1(both, edges("#..#.."), valid=valid).item() == 1
    assert edge_f1(both, edges("#..#.."), tolerance=0, valid=valid).item() == pytest.approx(2 / 3)


def test_edges_that_are_not_binary_are_refused():
    with pytest.raises(ValueError, match="given edges must be 0 or 1"):
        edge_f1(torch.full((1, 1, 4, 4), 0.5), torch.zeros(1, 1, 4, 4))
    with pytest.raises(ValueError, match="0 or more, got -1"):
        edge_f1(torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4), tolerance=-1)
    given = edges("#..#")
    assert edge_f1(given.bool(), given.to(torch.uint8)).item() == 1


# As others measure


def levels_of_controlnetpp(given, measured):
    """Both maps as they are written to disk there."""
    given, measured = given.double().numpy(), measured.double().numpy()
    label = ((given - given.min()) / (given.max() - given.min()) * 255).astype(np.uint8)
    return label.astype(float), (measured * 255 / measured.max()).astype(np.uint8).astype(float)


@pytest.mark.parametrize("unit", [1.0, 1e-3, 37.0])
def test_the_depth_of_controlnetpp_is_by_its_levels(unit):
    given, measured = maps(0) * 3 - 1, (0.2 + maps(1)) * unit
    expected = []
    for g, m in zip(given, measured, strict=True):
        label, prediction = levels_of_controlnetpp(g, m)
        expected.append(np.sqrt(np.mean((label - prediction) ** 2)))
    assert depth_rmse_controlnetpp(given, measured).numpy() == pytest.approx(np.array(expected), abs=0.02)
    # Any unit of the one and any affine change of the other is the same to it, up to a level.
    again = depth_rmse_controlnetpp(5 * given + 2, 3 * measured)
    torch.testing.assert_close(again, depth_rmse_controlnetpp(given, measured), rtol=0, atol=0.1)


def test_the_known_defect_of_controlnetpp_is_kept():
    stretched = torch.tensor([[[[0.0, 0.5, 1.0]]]])
    assert depth_rmse_controlnetpp(stretched, stretched).item() == 0
    lifted = stretched / 2 + 0.5  # the same depth, without a 0
    assert depth_rmse_controlnetpp(lifted, lifted).item() == pytest.approx(((127**2 + (191 - 127) ** 2) / 3) ** 0.5)
    assert depth_rmse(lifted, lifted).item() == 0


def test_depths_without_contrast_and_mistakes_of_controlnetpp():
    flat, something = torch.full((1, 1, 2, 2), 0.4), torch.tensor([[[[0.0, 2.0], [0.0, 2.0]]]])
    assert depth_rmse_controlnetpp(flat, 0 * flat).item() == 0
    assert depth_rmse_controlnetpp(something, 0 * flat).item() == pytest.approx(255 / 2**0.5)
    assert depth_rmse_controlnetpp(flat, flat).item() == 255
    with pytest.raises(ValueError, match="measured depth must be 0 or more, got -2"):
        depth_rmse_controlnetpp(something, -something)
    with pytest.raises(ValueError, match="given maps have values that are not finite"):
        depth_rmse_controlnetpp(something / 0, something)
    with pytest.raises(ValueError, match=r"given maps must be .* got \(1, 2, 2\)"):
        depth_rmse_controlnetpp(something[0], something)
    with pytest.raises(ValueError, match="differ in shape"):
        depth_rmse_controlnetpp(something.expand(2, 1, 2, 2), something)


def test_mse_is_numpys():
    given, measured, valid = maps(0), maps(1), maps(2) > 0.3
    squared = ((given - measured) ** 2).double().numpy()
    assert mse(given, measured).numpy() == pytest.approx(squared.mean(axis=(1, 2, 3)), rel=1e-6)
    expected = [squared[i][valid[i].numpy()].mean() for i in range(4)]
    assert mse(given, measured, valid).numpy() == pytest.approx(np.array(expected), rel=1e-6)
    assert mse(torch.zeros_like(given), torch.ones_like(given)).tolist() == [1, 1, 1, 1]


def test_the_ssim_is_near_that_of_scikit_image():
    given, measured = maps(0, size=48).double(), (0.6 * maps(0, size=48) + 0.4 * maps(1, size=48)).double()
    inner = torch.zeros_like(given, dtype=torch.bool)
    inner[..., 5:-5, 5:-5] = True
    values = soft_edge_ssim(given, measured, inner)
    for i in range(4):
        pair = given[i, 0].numpy(), measured[i, 0].numpy()
        # Its mean leaves the border out.
        theirs = structural_similarity(*pair, data_range=1.0, gaussian_weights=True, use_sample_covariance=False)
        assert values[i].item() == pytest.approx(theirs, abs=1e-3)


def test_ms_ssim_is_torchmetrics_class_where_five_scales_fit():
    given, noise = maps(0, 2, 176), maps(1, 2, 176)
    measured = 0.7 * given + 0.3 * noise
    values = ms_ssim(given, measured)
    assert values.dtype == torch.float64 and values.shape == (2,)
    for i in range(2):
        metric = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)
        assert values[i].item() == pytest.approx(metric(measured[i : i + 1], given[i : i + 1]).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("size", "scales"), [(11, 1), (12, 2), (43, 2), (44, 3), (64, 3), (98, 3), (99, 4), (175, 4), (176, 5), (512, 5)]
)
def test_small_maps_carry_fewer_scales(size, scales):
    assert ms_ssim_scales(size, size) == ms_ssim_scales(size, size + 9) == scales
    if size <= 99:
        given = maps(0, 2, size)
        torch.testing.assert_close(ms_ssim(given, given), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-6)
        slightly, much = (ms_ssim(given, (1 - p) * given + p * maps(1, 2, size)) for p in (0.2, 0.8))
        assert (slightly > much).all() and (slightly < 1).all()


def test_ms_ssim_of_small_maps_has_exponents_that_add_up_to_one():
    """Two constants differ in luminance alone, which counts once, at the coarsest scale."""
    given, measured = torch.full((1, 1, 64, 64), 0.2), torch.full((1, 1, 64, 64), 0.6)
    luminance = (2 * 0.2 * 0.6 + 0.01**2) / (0.2**2 + 0.6**2 + 0.01**2)
    share = 0.3001 / (0.0448 + 0.2856 + 0.3001)
    assert ms_ssim(given, measured).item() == pytest.approx(luminance**share, abs=1e-4)


def test_ms_ssim_of_a_sample_does_not_depend_on_its_batch():
    given, measured = maps(0, 3, 48), maps(1, 3, 48)
    measured = 0.7 * given + 0.3 * measured
    together = ms_ssim(given, measured)
    alone = torch.cat([ms_ssim(given[i : i + 1], measured[i : i + 1]) for i in range(3)])
    assert len(together.unique()) == 3
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match=r"11 pixels or more a side, got \(10, 48\)"):
        ms_ssim(given[:, :, :10], measured[:, :, :10])
    with pytest.raises(ValueError, match="differ in shape"):
        ms_ssim(given, measured[:2])
    with pytest.raises(ValueError, match="measured maps must lie in"):
        ms_ssim(given, 2 * measured)


# Three counts a class


@pytest.mark.parametrize("size", [16, 11])
def test_counts_are_the_margins_and_the_diagonal_of_the_confusion(size):
    given, measured = labels(0, classes=6), labels(1, size=size, classes=6)
    given[:, :3] = 255
    counts, table = class_counts(given, measured, 8), confusion(given, measured, 8)
    assert counts.dtype == torch.int64 and counts.shape == (4, 3, 8)
    expected = torch.stack([table.diagonal(dim1=1, dim2=2), table.sum(dim=2), table.sum(dim=1)], dim=1)
    assert torch.equal(counts, expected)
    assert iou_of_counts(counts).tolist() == per_image_iou(table).tolist()
    assert iou_of_counts(counts.sum(dim=0)).item() == mean_iou(table)
    assert iou_of_counts(counts.double() / 7).tolist() == pytest.approx(per_image_iou(table).tolist(), rel=1e-12)


def test_pixels_outside_the_region_do_not_count():
    given, measured, valid = labels(0), labels(1), maps(2, 4, 16)[:, 0] > 0.4
    valid[3] = False
    inside = class_counts(given, measured, 5, valid=valid)
    assert torch.equal(inside, class_counts(torch.where(valid, given, 255), measured, 5))
    spoilt = torch.where(valid, measured, 99)
    assert torch.equal(inside, class_counts(given, spoilt, 5, valid=valid))
    assert iou_of_counts(inside).isnan().tolist() == accuracy_of_counts(inside).isnan().tolist() == [False] * 3 + [True]


def test_accuracy_is_torchmetrics():
    given, measured = labels(0, classes=6), labels(1, classes=6)
    measured = torch.where(maps(2, 4, 16)[:, 0] < 0.5, given, measured)
    given[:, :3] = 255
    counts = class_counts(given, measured, 6)
    metric = MulticlassAccuracy(num_classes=6, ignore_index=255, average="micro")
    assert accuracy_of_counts(counts.sum(dim=0)).item() == pytest.approx(100 * metric(measured, given).item(), rel=1e-5)
    for i in range(4):
        alone = MulticlassAccuracy(num_classes=6, ignore_index=255, average="micro")(measured[i], given[i])
        assert accuracy_of_counts(counts)[i].item() == pytest.approx(100 * alone.item(), rel=1e-5)


def test_mistakes_in_counts_are_named():
    good = labels(0)
    with pytest.raises(ValueError, match=r"given labels must be in 0\.\.3 .* found 4"):
        class_counts(good, good.clamp(max=3), 4)
    with pytest.raises(ValueError, match=r"measured labels must be in 0\.\.3 .* found 255"):
        class_counts(good.clamp(max=3), torch.full_like(good, 255), 4)
    with pytest.raises(ValueError, match="differ in number: 4 and 2"):
        class_counts(good, good[:2], 5)
    with pytest.raises(ValueError, match="ignore_index 0 is one of the 5 classes"):
        class_counts(good, good, 5, ignore_index=0)
    with pytest.raises(ValueError, match=r"valid must be bool of shape \(4, 16, 16\), got .* \(4, 1, 16, 16\)"):
        class_counts(good, good, 5, valid=(good > 1)[:, None])
    for score in (iou_of_counts, accuracy_of_counts):
        with pytest.raises(ValueError, match=r"counts must be \(\.\.\., 3, classes\), got \(4, 5\)"):
            score(torch.zeros(4, 5))


# An object by its own class


def drawn(*rows: str) -> torch.Tensor:
    """One label map from a drawing of digits."""
    return torch.tensor([[[int(pixel) for pixel in row] for row in rows]])


def test_the_own_class_by_hand():
    truth = drawn("000000", "022000", "022002", "000000")
    target = (truth == 2) & (torch.arange(6) < 4)
    window = torch.zeros(1, 4, 6, dtype=torch.bool)
    window[..., :4] = True
    assert own_class_iou(truth, target, 2, window).item() == 100  # exact; the other one lies outside
    spilt = drawn("022200", "022200", "022000", "000000")
    assert own_class_iou(spilt, target, 2, window).item() == pytest.approx(100 * 4 / 8)
    short = drawn("000000", "020000", "031000", "000000")
    assert own_class_iou(short, target, 2, window).item() == 25
    assert own_class_iou(short, target, 1, window).item() == 25
    assert own_class_iou(short, target, 7, window).item() == 0
    beyond = drawn("000022", "022022", "022022", "000022")
    assert own_class_iou(beyond, target, 2, window).item() == 100
    assert own_class_iou(beyond, target, 2, torch.ones_like(window)).item() == pytest.approx(100 * 4 / 12)


def test_every_object_has_a_class_of_its_own_and_labels_any_size():
    truth = labels(0)
    own = torch.tensor([3, 1, 4, 0])
    target, everywhere = truth == own[:, None, None], torch.ones_like(truth, dtype=torch.bool)
    assert own_class_iou(truth, target, own, everywhere).tolist() == [100] * 4
    doubled = truth.repeat_interleave(2, dim=1).repeat_interleave(3, dim=2)
    assert own_class_iou(doubled, target, own, everywhere).tolist() == [100] * 4
    measured = labels(1)
    table = confusion((~target).long(), (measured != own[:, None, None]).long(), 2).double()
    expected = table[:, 0, 0] / (table[:, 0].sum(dim=1) + table[:, 1, 0])
    found = own_class_iou(measured, target, own, everywhere)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, 100 * expected)


def test_mistakes_about_objects_are_named():
    truth = labels(0)
    target, window = truth == 2, torch.ones_like(truth, dtype=torch.bool)
    with pytest.raises(ValueError, match="target_mask of sample 1 of the batch is empty"):
        own_class_iou(truth, target & (torch.arange(4) != 1)[:, None, None], 2, window)
    with pytest.raises(ValueError, match="target_mask of sample 0 of the batch leaves its window"):
        own_class_iou(truth, target, 2, window & (torch.arange(16) > 7))
    with pytest.raises(ValueError, match="target_mask must be bool"):
        own_class_iou(truth, truth, 2, window)
    with pytest.raises(ValueError, match=r"window must be bool of shape \(4, 16, 16\)"):
        own_class_iou(truth, target, 2, window[:, :8])
    with pytest.raises(ValueError, match="differ in number: 2 and 4"):
        own_class_iou(truth[:2], target, 2, window)
    with pytest.raises(ValueError, match=r"own_class must be one class, or one a sample, got torch.int64 of \(2,\)"):
        own_class_iou(truth, target, torch.tensor([1, 2]), window)
    with pytest.raises(ValueError, match="measured labels must be integers"):
        own_class_iou(truth.float(), target, 2, window)
