"""How faithfully a picture follows a map: the map re-estimated from it, against the map that was given.

Every function compares a batch of given maps with the measured ones and returns one float64 per sample, so
that methods can be compared on the same sample; a sample's number does not depend on its batch. Maps are
float in [0, 1] (up to rounding), labels integer. Mistakes of shape or range are a ValueError.

Where only a region was controlled, `valid` (B, 1, H, W) bool marks it; labels use the ignore label instead.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Int64, Num
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

ROUNDING = 1e-5  # how far a map may leave [0, 1]: resizing in float32 overshoots by a few 1e-7
SMALLEST_FOR_SSIM = 6  # pixels: the 11-pixel window reflects 5 of them at the border
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, finest scale first


def depth_rmse(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Root mean square error of relative depth in grey levels (0-255), after fitting scale and shift.

    Relative depth is known up to an affine map, so the measured map is first fitted to the given one by least
    squares in every sample (Ranftl et al., Towards robust monocular depth estimation, TPAMI 2020). Unlike
    theirs the scale is not negative: near and far exchanged is a wrong depth, not a perfect one. A
    measured map without contrast, or one that runs against the given, gets the shift alone: its error is the
    given map's standard deviation, the largest there is. Lower is better. A sample without a valid pixel is a
    ValueError.
    """
    given, measured = _unit_map(given, "given"), _unit_map(measured, "measured")
    weights = _region(given, measured, valid)
    squared = _fitted(given, measured, weights).square().sum(dim=(1, 2, 3), keepdim=True)
    return 255 * (squared / weights.sum(dim=(1, 2, 3), keepdim=True)).sqrt().flatten()


def depth_residuals(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, "batch 1 height width"]:
    """What :func:`depth_rmse` is the root mean square of, place by place: fitted minus given, on a scale of [0, 1].

    0 outside of `valid`.
    """
    given, measured = _unit_map(given, "given"), _unit_map(measured, "measured")
    return _fitted(given, measured, _region(given, measured, valid))


def _fitted(given: Tensor, measured: Tensor, weights: Tensor) -> Tensor:
    """The measured maps after the fit, less the given ones."""
    pixels = weights.sum(dim=(1, 2, 3), keepdim=True)
    given = (given - (weights * given).sum(dim=(1, 2, 3), keepdim=True) / pixels) * weights
    measured = (measured - (weights * measured).sum(dim=(1, 2, 3), keepdim=True) / pixels) * weights
    spread = measured.square().sum(dim=(1, 2, 3), keepdim=True)
    shared = (given * measured).sum(dim=(1, 2, 3), keepdim=True)
    scale = torch.where(spread > 0, shared / spread.clamp(min=torch.finfo(spread.dtype).tiny), 0).clamp(min=0)
    return scale * measured - given


def depth_rmse_controlnetpp(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Root mean square error of depth in grey levels (0-255), as the evaluation of ControlNet++ has it.

    Li et al., ControlNet++, ECCV 2024. No fit: the given map is min-max normalised, the measured one divided by its
    maximum, and both are cut to whole grey levels, as they are stored there. Known defect, kept: the two are
    normalised differently, so that a measured map whose smallest value is not 0 has an error even where it
    equals the given one; and the result hangs on extreme pixels.

    Maps are depth as the network gives it, larger is nearer, in any unit, the measured one not negative. A given map
    without contrast is 0 everywhere, and so is a measured one that is. With `valid`, extremes and errors are
    those in the region.
    """
    given, measured = _real_map(given, "given"), _real_map(measured, "measured")
    if (measured < 0).any():
        raise ValueError(f"measured depth must be 0 or more, got {measured.min().item():.4g}")
    inside = _region(given, measured, valid).bool()
    low = given.masked_fill(~inside, torch.inf).amin(dim=(1, 2, 3), keepdim=True)
    high = given.masked_fill(~inside, -torch.inf).amax(dim=(1, 2, 3), keepdim=True)
    largest = measured.masked_fill(~inside, 0).amax(dim=(1, 2, 3), keepdim=True)
    tiny = torch.finfo(given.dtype).tiny
    label = torch.floor(255 * ((given - low) / (high - low).clamp(min=tiny)))
    prediction = torch.floor(255 * (measured / largest.clamp(min=tiny)))
    squared = (prediction - label).square().masked_fill(~inside, 0)
    return (squared.sum(dim=(1, 2, 3)) / inside.sum(dim=(1, 2, 3))).sqrt()


def mse(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Mean squared error of maps in [0, 1], soft edges or depth without a fit; 0 for equal maps, at most 1."""
    given, measured = _unit_map(given, "given"), _unit_map(measured, "measured")
    weights = _region(given, measured, valid)
    return (weights * (given - measured).square()).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))


def confusion(
    given: Int[Tensor, "batch height width"],
    measured: Int[Tensor, "batch height2 width2"],
    num_classes: int,
    ignore_index: int = 255,
) -> Int64[Tensor, "batch classes classes"]:
    """Pixel counts per sample, given class in rows, measured class in columns; they add up over samples.

    Measured labels of another size are resized to the given ones by nearest neighbour (pixel centres). Pixels
    whose given label is `ignore_index` are left out, whatever was measured there. Any other label outside
    0..num_classes-1 is a ValueError.
    """
    given, measured = _labels(given, "given"), _labels(measured, "measured")
    if len(given) != len(measured):
        raise ValueError(f"given and measured labels differ in number: {len(given)} and {len(measured)}")
    if 0 <= ignore_index < num_classes:
        raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
    if given.shape != measured.shape:
        # float64 carries every label exactly; interpolate knows no integers but uint8.
        resized = interpolate(measured[:, None].double(), size=given.shape[1:], mode="nearest-exact")
        measured = resized[:, 0].long()
    counted = given != ignore_index
    for name, labels in (("given", given), ("measured", measured)):
        wrong = labels[counted & ((labels < 0) | (labels >= num_classes))]
        if len(wrong):
            raise ValueError(
                f"{name} labels must be in 0..{num_classes - 1} where the given one is not {ignore_index}, "
                f"found {wrong[0].item()}"
            )
    sample = torch.arange(len(given), device=given.device)[:, None, None].expand_as(given)
    cells = (sample * num_classes + given) * num_classes + measured
    counts = torch.bincount(cells[counted], minlength=len(given) * num_classes**2)
    return counts.reshape(-1, num_classes, num_classes)


def mean_iou(confusion: Num[Tensor, "*batch classes classes"]) -> float:
    """Data-set mean IoU x100: of the summed confusion, over the classes that were given or measured anywhere.

    NaN where no pixel carries a label. Everingham et al., The PASCAL visual object classes challenge, IJCV
    2010.
    """
    confusion = _square(confusion)
    return per_image_iou(confusion.reshape(-1, *confusion.shape[-2:]).sum(dim=0)).item()


def per_image_iou(confusion: Num[Tensor, "*batch classes classes"]) -> Float[Tensor, "*batch"]:
    """Mean IoU x100 of every confusion for itself, over the classes given or measured in it; 0-100.

    NaN where an image has no labelled pixel. The mean over images weighs small classes and images differently
    from :func:`mean_iou`: it is what paired tests use, not what tables print as mIoU. Resampled sums of
    confusions go through here to bootstrap the data-set value; counts may be means, only their ratios matter.
    """
    confusion = _square(confusion).double()
    intersection = confusion.diagonal(dim1=-2, dim2=-1)
    union = confusion.sum(dim=-1) + confusion.sum(dim=-2) - intersection
    present = union > 0
    iou = torch.where(present, intersection / union, 0)
    return 100 * iou.sum(dim=-1) / present.sum(dim=-1)  # 0 / 0 is NaN, as promised


def class_counts(
    given: Int[Tensor, "batch height width"],
    measured: Int[Tensor, "batch height2 width2"],
    num_classes: int,
    ignore_index: int = 255,
    valid: Bool[Tensor, "batch height width"] | None = None,
) -> Int64[Tensor, "batch 3 classes"]:
    """Pixels of every class, per sample: where given and measured agree on it, where it was given, where measured.

    What mean IoU and accuracy need of a confusion, in 3 C numbers for C^2; they add up over samples. Labels are
    resized, left out and refused as by :func:`confusion`; with `valid`, pixels outside it are left out too, and a
    sample may be without any.
    """
    given, measured = _labels(given, "given"), _labels(measured, "measured")
    if len(given) != len(measured):
        raise ValueError(f"given and measured labels differ in number: {len(given)} and {len(measured)}")
    if 0 <= ignore_index < num_classes:
        raise ValueError(f"ignore_index {ignore_index} is one of the {num_classes} classes")
    measured = _resized_labels(measured, given.shape[1:])
    counted = given != ignore_index
    if valid is not None:
        counted &= _mask(valid, "valid", given)
    for name, labels in (("given", given), ("measured", measured)):
        wrong = labels[counted & ((labels < 0) | (labels >= num_classes))]
        if len(wrong):
            raise ValueError(
                f"{name} labels must be in 0..{num_classes - 1} where the given one is not {ignore_index}, "
                f"found {wrong[0].item()}"
            )
    sample = torch.arange(len(given), device=given.device)[:, None, None].expand_as(given)

    def histogram(labels: Tensor, where: Tensor) -> Tensor:
        cells = (sample * num_classes + labels)[where]
        return torch.bincount(cells, minlength=len(given) * num_classes).reshape(-1, num_classes)

    both = histogram(given, counted & (given == measured))
    return torch.stack([both, histogram(given, counted), histogram(measured, counted)], dim=1)


def iou_of_counts(counts: Num[Tensor, "*batch 3 classes"]) -> Float[Tensor, "*batch"]:
    """Mean IoU x100 of :func:`class_counts`, over the classes given or measured in each; 0-100.

    As :func:`per_image_iou`; of counts summed over samples it is the data set's :func:`mean_iou`. NaN where no pixel
    carries a label. Counts may be means, only their ratios matter.
    """
    both, given, measured = _three_counts(counts)
    union = given + measured - both
    present = union > 0
    iou = torch.where(present, both / union, 0)
    return 100 * iou.sum(dim=-1) / present.sum(dim=-1)  # 0 / 0 is NaN, as promised


def accuracy_of_counts(counts: Num[Tensor, "*batch 3 classes"]) -> Float[Tensor, "*batch"]:
    """Pixel accuracy x100 of :func:`class_counts`: pixels whose class was measured, among those given; 0-100.

    NaN where no pixel carries a label.
    """
    both, given, _ = _three_counts(counts)
    return 100 * both.sum(dim=-1) / given.sum(dim=-1)


def own_class_iou(
    labels: Int[Tensor, "batch height2 width2"],
    target_mask: Bool[Tensor, "batch height width"],
    own_class: int | Int[Tensor, " batch"],
    window: Bool[Tensor, "batch height width"],
) -> Float[Tensor, " batch"]:
    """IoU x100 of an object with what was measured as its class around it; 100 for exact labels.

    The object is `target_mask`, one a sample, and its class the number `own_class`, for all samples or one for each.
    Pixels of that class in `labels` count inside `window`, which holds the object and a margin: what spills over
    into the margin costs, and what lies beyond it, such as another object of the class, does not. Labels
    of another size than the mask are resized to it by nearest neighbour. A mask that is empty or leaves its
    window is a ValueError.
    """
    labels = _labels(labels, "measured")
    target_mask = torch.as_tensor(target_mask)
    if len(labels) != len(target_mask):
        raise ValueError(f"labels and target masks differ in number: {len(labels)} and {len(target_mask)}")
    target = _mask(target_mask, "target_mask")
    window = _mask(window, "window", target)
    for what, wrong in (
        ("is empty", ~target.flatten(1).any(dim=1)),
        ("leaves its window", (target & ~window).flatten(1).any(dim=1)),
    ):
        if wrong.any():
            raise ValueError(f"target_mask of sample {wrong.int().argmax()} of the batch {what}")
    own = torch.as_tensor(own_class, device=labels.device)
    if own.is_floating_point() or own.dtype == torch.bool or own.shape not in ((), (len(labels),)):
        raise ValueError(f"own_class must be one class, or one a sample, got {own.dtype} of {tuple(own.shape)}")
    found = window & (_resized_labels(labels, target.shape[1:]) == own.reshape(-1, 1, 1))
    return 100 * (found & target).sum(dim=(1, 2)).double() / (found | target).sum(dim=(1, 2))


def soft_edge_ssim(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Structural similarity of soft edge maps, data range 1, in [-1, 1]; 1 for equal maps.

    Wang et al., Image quality assessment, TIP 2004, with its constants and Gaussian window (11 pixels, sigma
    1.5), reflected at the border; accurate to about 1e-4. With `valid`, the mean is over the windows centred
    there.
    """
    given, measured = _unit_map(given, "given"), _unit_map(measured, "measured")
    weights = _region(given, measured, valid)
    if min(given.shape[2:]) < SMALLEST_FOR_SSIM:
        raise ValueError(
            f"structural similarity needs maps of {SMALLEST_FOR_SSIM} pixels or more a side, "
            f"got {tuple(given.shape[2:])}"
        )
    # The variances are small differences of convolutions. float32 carries them and is several times faster on a
    # CPU; on a GPU it may be TF32, which does not.
    exact = torch.float32 if given.device.type == "cpu" else torch.float64
    from torchmetrics.functional.image import structural_similarity_index_measure  # seconds, for all that it imports

    _, similarity = structural_similarity_index_measure(
        measured.to(exact), given.to(exact), data_range=1.0, reduction="none", return_full_image=True
    )  # (B, 1, H, W)
    return (weights * similarity).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))


def ms_ssim_scales(height: int, width: int) -> int:
    """How many of the five scales of :func:`ms_ssim` maps of this size carry; fewer than 11 pixels a ValueError.

    torchmetrics asks for 11 (scales - 1)^2 pixels a side: 176 for five scales, 99 for four, 44 for three. The
    coarsest scale must hold half of its window besides, which is 12 for two.
    """
    side = min(height, width)
    fitting = [
        scales
        for scales in range(1, len(MS_SSIM_WEIGHTS) + 1)
        if side >= 11 * max(1, scales - 1) ** 2 and side // 2 ** (scales - 1) >= SMALLEST_FOR_SSIM
    ]
    if not fitting:
        raise ValueError(f"multi-scale similarity needs maps of 11 pixels or more a side, got {(height, width)}")
    return fitting[-1]


def ms_ssim(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
) -> Float[Tensor, " batch"]:
    """Multi-scale structural similarity of soft edge maps, data range 1, in [0, 1]; 1 for equal maps.

    Wang et al., Multi-scale structural similarity, Asilomar 2003, through torchmetrics, as the evaluation of
    ControlNet++ has it (Li et al., ECCV 2024): negative terms count as 0. The definition is of five scales.
    Maps too small for them (see :func:`ms_ssim_scales`) take the finest ones, with their exponents divided by
    their sum: a number for comparison at that size only. Whole maps: halved again and again, a region has no border.
    """
    given, measured = _unit_map(given, "given"), _unit_map(measured, "measured")
    _region(given, measured, None)
    weights = MS_SSIM_WEIGHTS[: ms_ssim_scales(*given.shape[2:])]
    if len(weights) < len(MS_SSIM_WEIGHTS):  # the five are left as published, though they add up to 1.0001
        weights = tuple(weight / sum(weights) for weight in weights)
    # As for SSIM: on a CPU float32 carries the variances and is six times faster.
    exact = torch.float32 if given.device.type == "cpu" else torch.float64
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure

    similarity = multiscale_structural_similarity_index_measure(
        measured.to(exact), given.to(exact), data_range=1.0, betas=weights, normalize="relu", reduction="none"
    )
    return similarity.double()


def edge_f1(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    tolerance: int = 1,
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """F1 of binary edges (0 or 1), matched within `tolerance` pixels (Chebyshev), in [0, 1].

    Precision is the share of measured edge pixels with a given one in reach, recall the share of given ones
    with a measured one in reach; tolerance 0 is strict. Unlike Martin et al. (PAMI 2004), one pixel may match
    several. No edge in both maps is 1, in one of them 0. With `valid`, edges are counted there and matched
    with any in reach.
    """
    if tolerance < 0:
        raise ValueError(f"tolerance is a distance in pixels, 0 or more, got {tolerance}")
    given, measured = _binary_map(given, "given"), _binary_map(measured, "measured")
    weights = _region(given, measured, valid)

    def share_in_reach(edges: Tensor, others: Tensor) -> Tensor:
        counted = weights * edges
        return (counted * _reach(others, tolerance)).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3)).clamp(min=1)

    precision, recall = share_in_reach(measured, given), share_in_reach(given, measured)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(precision.dtype).tiny)
    both_empty = (weights * (given + measured)).sum(dim=(1, 2, 3)) == 0
    return torch.where(both_empty, 1, f1)


def unmatched_edges(
    given: Float[Tensor, "batch 1 height width"],
    measured: Float[Tensor, "batch 1 height width"],
    tolerance: int = 1,
    valid: Bool[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, "batch 1 height width"]:
    """1 at every edge pixel of either map that has none of the other in reach, see :func:`edge_f1`; 0 elsewhere."""
    given, measured = _binary_map(given, "given"), _binary_map(measured, "measured")
    alone = given * (1 - _reach(measured, tolerance)) + measured * (1 - _reach(given, tolerance))
    return _region(given, measured, valid) * alone.clamp(max=1)


def _reach(edges: Tensor, tolerance: int) -> Tensor:
    """Where an edge is within `tolerance` pixels."""
    return max_pool2d(edges, 2 * tolerance + 1, stride=1, padding=tolerance)


def _unit_map(values: Tensor, name: str) -> Float[Tensor, "batch 1 height width"]:
    values = torch.as_tensor(values)
    if values.ndim != 4 or values.shape[1] != 1 or values.numel() == 0:
        raise ValueError(f"{name} maps must be (batch, 1, height, width), got {tuple(values.shape)}")
    values = values.double()
    low, high = values.aminmax()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # so written that NaN is refused too
        raise ValueError(f"{name} maps must lie in [0, 1], got values from {low.item():.4g} to {high.item():.4g}")
    return values


def _real_map(values: Tensor, name: str) -> Float[Tensor, "batch 1 height width"]:
    values = torch.as_tensor(values)
    if values.ndim != 4 or values.shape[1] != 1 or values.numel() == 0:
        raise ValueError(f"{name} maps must be (batch, 1, height, width), got {tuple(values.shape)}")
    if not values.isfinite().all():
        raise ValueError(f"{name} maps have values that are not finite")
    return values.double()


def _binary_map(values: Tensor, name: str) -> Float[Tensor, "batch 1 height width"]:
    values = _unit_map(values, name)
    if not ((values == 0) | (values == 1)).all():
        raise ValueError(f"{name} edges must be 0 or 1: threshold soft edges first")
    return values


def _region(given: Tensor, measured: Tensor, valid: Tensor | None) -> Float[Tensor, "batch 1 height width"]:
    """The weights, 0 or 1, of the pixels that count."""
    if given.shape != measured.shape:
        raise ValueError(f"given and measured maps differ in shape: {tuple(given.shape)} and {tuple(measured.shape)}")
    if valid is None:
        return torch.ones_like(given)
    valid = torch.as_tensor(valid)
    if valid.shape != given.shape or valid.dtype != torch.bool:
        raise ValueError(
            f"valid must be bool of the maps' shape {tuple(given.shape)}, got {valid.dtype} of {tuple(valid.shape)}"
        )
    any_valid = valid.flatten(1).any(dim=1)
    if not any_valid.all():
        raise ValueError(f"sample {any_valid.int().argmin()} of the batch has no valid pixel")
    return valid.to(given)


def _labels(labels: Tensor, name: str) -> Int64[Tensor, "batch height width"]:
    labels = torch.as_tensor(labels)
    if labels.ndim != 3 or labels.numel() == 0:
        raise ValueError(f"{name} labels must be (batch, height, width), got {tuple(labels.shape)}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"{name} labels must be integers, got {labels.dtype}")
    return labels.long()


def _resized_labels(labels: Tensor, size: torch.Size) -> Int64[Tensor, "batch height width"]:
    """By nearest neighbour, pixel centres."""
    if labels.shape[1:] == size:
        return labels
    # float64 carries every label exactly; interpolate knows no integers but uint8.
    return interpolate(labels[:, None].double(), size=size, mode="nearest-exact")[:, 0].long()


def _mask(mask: Tensor, name: str, like: Tensor | None = None) -> Bool[Tensor, "batch height width"]:
    mask = torch.as_tensor(mask)
    if mask.dtype != torch.bool or mask.ndim != 3 or (like is not None and mask.shape != like.shape):
        wanted = "(batch, height, width)" if like is None else tuple(like.shape)
        raise ValueError(f"{name} must be bool of shape {wanted}, got {mask.dtype} of {tuple(mask.shape)}")
    return mask


def _three_counts(counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    counts = torch.as_tensor(counts)
    if counts.ndim < 2 or counts.shape[-2] != 3:
        raise ValueError(f"counts must be (..., 3, classes), got {tuple(counts.shape)}")
    return counts.double().unbind(dim=-2)


def _square(confusion: Tensor) -> Tensor:
    confusion = torch.as_tensor(confusion)
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise ValueError(f"a confusion must be (..., classes, classes), got {tuple(confusion.shape)}")
    return confusion
