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
from torchmetrics.functional.image import structural_similarity_index_measure

ROUNDING = 1e-5  # how far a map may leave [0, 1]: resizing in float32 overshoots by a few 1e-7
SMALLEST_FOR_SSIM = 6  # pixels: the 11-pixel window reflects 5 of them at the border


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
    pixels = weights.sum(dim=(1, 2, 3), keepdim=True)
    given = (given - (weights * given).sum(dim=(1, 2, 3), keepdim=True) / pixels) * weights
    measured = (measured - (weights * measured).sum(dim=(1, 2, 3), keepdim=True) / pixels) * weights
    spread = measured.square().sum(dim=(1, 2, 3), keepdim=True)
    shared = (given * measured).sum(dim=(1, 2, 3), keepdim=True)
    scale = torch.where(spread > 0, shared / spread.clamp(min=torch.finfo(spread.dtype).tiny), 0).clamp(min=0)
    squared = (scale * measured - given).square().sum(dim=(1, 2, 3), keepdim=True)
    return 255 * (squared / pixels).sqrt().flatten()


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
    _, similarity = structural_similarity_index_measure(
        measured.to(exact), given.to(exact), data_range=1.0, reduction="none", return_full_image=True
    )  # (B, 1, H, W)
    return (weights * similarity).sum(dim=(1, 2, 3)) / weights.sum(dim=(1, 2, 3))


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
        reach = max_pool2d(others, 2 * tolerance + 1, stride=1, padding=tolerance)
        counted = weights * edges
        return (counted * reach).sum(dim=(1, 2, 3)) / counted.sum(dim=(1, 2, 3)).clamp(min=1)

    precision, recall = share_in_reach(measured, given), share_in_reach(given, measured)
    f1 = 2 * precision * recall / (precision + recall).clamp(min=torch.finfo(precision.dtype).tiny)
    both_empty = (weights * (given + measured)).sum(dim=(1, 2, 3)) == 0
    return torch.where(both_empty, 1, f1)


def _unit_map(values: Tensor, name: str) -> Float[Tensor, "batch 1 height width"]:
    values = torch.as_tensor(values)
    if values.ndim != 4 or values.shape[1] != 1 or values.numel() == 0:
        raise ValueError(f"{name} maps must be (batch, 1, height, width), got {tuple(values.shape)}")
    values = values.double()
    low, high = values.aminmax()
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # so written that NaN is refused too
        raise ValueError(f"{name} maps must lie in [0, 1], got values from {low.item():.4g} to {high.item():.4g}")
    return values


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


def _square(confusion: Tensor) -> Tensor:
    confusion = torch.as_tensor(confusion)
    if confusion.ndim < 2 or confusion.shape[-1] != confusion.shape[-2]:
        raise ValueError(f"a confusion must be (..., classes, classes), got {tuple(confusion.shape)}")
    return confusion
