"""Images in COCO's own layout, read through pycocotools: real COCO and the rendered miniature alike."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from pycocotools.coco import COCO

from maxbench.errors import UserError


@dataclass(frozen=True)
class Instance:
    """One object in a picture: its category and, on demand, its mask."""

    category: str
    area: float  # pixels
    annotation: dict  # COCO's own, from which the mask is decoded


@dataclass(frozen=True)
class Picture:
    """One image of a set with what people said about it."""

    id: int
    path: Path
    captions: tuple[str, ...]
    instances: tuple[Instance, ...]


class CocoImages:
    """A split of a COCO-format data set: `annotations/{instances,captions}_<split>.json`, `<split>/*`.

    Sequence of :class:`Picture`, ordered by id. A missing or damaged file is a UserError that names it.
    """

    def __init__(self, root: str | Path, split: str, name: str = "coco"):
        self.root, self.split, self.name = Path(root), split, name

    def _annotations(self, kind: str) -> Path:
        return self.root / "annotations" / f"{kind}_{self.split}.json"

    def _read(self, kind: str) -> COCO:
        path = self._annotations(kind)
        try:
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it loads
                return COCO(str(path))
        except FileNotFoundError as error:
            raise UserError(f"The data set '{self.name}' has no file {path}; see `python -m maxbench data`.") from error
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, AssertionError, TypeError) as error:
            raise UserError(
                f"The annotation file {path} is damaged ({type(error).__name__}: {error}); "
                "delete its data set's folder and prepare it anew."
            ) from error

    @cached_property
    def _instances(self) -> COCO:
        return self._read("instances")

    @cached_property
    def _captions(self) -> COCO:
        return self._read("captions")

    @cached_property
    def ids(self) -> list[int]:
        return sorted(self._captions.imgs)

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, image: int) -> Picture:
        """The picture with a COCO image id."""
        entry = self._captions.imgs[image]
        categories = self._instances.cats
        return Picture(
            id=image,
            path=self.root / self.split / entry["file_name"],
            captions=tuple(each["caption"].strip() for each in self._captions.imgToAnns[image]),
            instances=tuple(
                Instance(categories[each["category_id"]]["name"], float(each["area"]), each)
                for each in self._instances.imgToAnns[image]
            ),
        )

    def size(self, image: int) -> list[int]:
        """Height and width in pixels, as the annotations have them."""
        entry = self._captions.imgs[image]
        return [entry["height"], entry["width"]]

    def mask(self, instance: Instance) -> np.ndarray:
        """The mask of an object, (H, W) bool."""
        return self._instances.annToMask(instance.annotation).astype(bool)

    def fingerprint(self) -> str:
        """Changes with anything the annotation files say, hence with the set of images."""
        digest = hashlib.sha256(self.split.encode())
        for kind in ("instances", "captions"):
            path = self._annotations(kind)
            if not path.exists():
                raise UserError(f"The data set '{self.name}' has no file {path}; see `python -m maxbench data`.")
            digest.update(path.read_bytes())
        return digest.hexdigest()
