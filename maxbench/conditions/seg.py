"""Semantic segmentation: class numbers on disk, a palette's colours for the ControlNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from maxbench.conditions.base import Annotator, AsGiven, Images, Maps
from maxbench.conditions.ruler import MeanIoU, OwnClassIoU, PixelAccuracy, Ruler
from maxbench.errors import UserError

IGNORE = 255


@dataclass(frozen=True)
class Segmentation(AsGiven):
    """Labels as an annotator sees them.

    palette: RGB in 0-255 of every class, in the order in which the suite's ControlNet was trained; class 0 is "nothing
        said". Label 255 is ignored.
    classes: the names of the classes, in the same order.
    categories: category of objects in the data set -> name of the class that it is, for those that are one; without
        any, categories are names of classes.
    """

    palette: Sequence[Sequence[int]]
    classes: Sequence[str] = ()
    categories: Mapping[str, str] = field(default_factory=dict)

    name = "seg"
    annotator = "seg"
    null_value = 0
    knows_objects = True

    def __post_init__(self):
        if not self.palette or any(len(colour) != 3 for colour in self.palette):
            raise UserError(
                "A segmentation palette needs one [red, green, blue] for every class; correct suite.palette."
            )
        if self.classes and len(self.classes) != len(self.palette):
            raise UserError(
                f"suite.classes names {len(self.classes)} classes and suite.palette has {len(self.palette)} colours; "
                "give one name for every colour."
            )
        for category, name in self.categories.items():
            if name not in self.classes[1:]:
                raise UserError(
                    f"suite.categories says that '{category}' is the class '{name}', which suite.classes does not "
                    "name; correct one of them."
                )

    @cached_property
    def rulers(self) -> Sequence[Ruler]:
        return (MeanIoU(len(self.palette), IGNORE), PixelAccuracy(len(self.palette), IGNORE))

    @cached_property
    def object_rulers(self) -> Sequence[Ruler]:
        return (OwnClassIoU(),)

    def draw(self, images: Images, annotator: Annotator | None) -> Maps:
        return annotator(images).argmax(1).to(torch.uint8).cpu()

    def hint(self, maps: Maps) -> Images:
        colours = torch.zeros(IGNORE + 1, 3)
        colours[: len(self.palette)] = torch.tensor([list(colour) for colour in self.palette], dtype=torch.float32)
        return (colours[maps.long()] / 255).permute(0, 3, 1, 2).contiguous()

    def object_map(self, outline: Tensor, category: str) -> Tensor:
        """(H, W) uint8: the category's class inside the outline, "nothing said" outside."""
        name = self.categories.get(category) if self.categories else category
        if name not in self.classes:
            setting = "suite.categories" if self.categories else "suite.classes"
            known = ", ".join(self.categories or self.classes) or f"{setting} is empty"
            raise UserError(
                f"The data set's category '{category}' is no class of this suite's segmentation ({known}), so its "
                f"objects cannot be scored; add it to {setting}, or take another pairing."
            )
        return outline.to(torch.uint8) * self.classes.index(name)
