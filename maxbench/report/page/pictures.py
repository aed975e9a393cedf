"""Pictures of runs -> files of the page: the same file under a name that says which one it is, and thumbnails.

    DIR/files/<first two digits>/<key>.<suffix>

The key is the digest of where a picture lies, its size and the time at which it was written, so that a second report
finds what the first one made. Pictures are links where the file system has links, else copies.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from maxbench.store.files import STRAY_SECONDS, age, digest, link_or_copy, write_atomically

FILES = "files"
THUMB = 112  # pixels a side, at most
QUALITY = 82  # of a thumbnail
DRAWING = 1
"""Version of what is drawn here, in the keys of drawn files."""


@dataclass
class Pictures:
    """The files of a page. used: those that the page shows; damaged: pictures that cannot be decoded."""

    folder: Path
    used: set[str] = field(default_factory=set)
    damaged: set[Path] = field(default_factory=set)

    def take(self, path: Path) -> str | None:
        """A picture as a file of the page, by its name; None if it is not there."""
        key = stamp(path)
        if key is None:
            return None
        name = self._name(key, path.suffix.lower())
        if not (self.folder / name).is_file():
            try:
                self._place(path, self.folder / name)
            except FileNotFoundError:  # it went away since
                return None
        self.used.add(name)
        return name

    def draw(
        self, parts: Sequence[Path | str], make: Callable[[], Image.Image | None], suffix: str = ".png"
    ) -> str | None:
        """A picture that is drawn for the page out of `parts`, by its name; None where there is nothing to draw.

        parts: the files that it depends on, and whatever else it depends on in words.
        """
        name = self._name(self._key(parts), suffix)
        if not (self.folder / name).is_file():
            try:
                picture = make()
            except Exception:  # Pillow's decoders raise nearly every kind of error on damaged files
                picture = None
            if picture is None:
                return None
            write_atomically(self.folder / name, encoded(picture, suffix))
        self.used.add(name)
        return name

    def strip(self, paths: Sequence[Path]) -> str:
        """Thumbnails of pictures side by side, one file for a sample; what is missing or damaged is left grey.

        Where something is damaged nothing is found again, so that the next report notices it as well.
        """
        name = self._name(self._key(["strip", *paths]), ".jpg")
        if not (self.folder / name).is_file():
            strip = self._strip(paths)
            if not self.damaged.isdisjoint(paths):
                name = self._name(self._key(["damaged", *paths]), ".jpg")
            write_atomically(self.folder / name, encoded(strip, ".jpg"))
        self.used.add(name)
        return name

    def _strip(self, paths: Sequence[Path]) -> Image.Image:
        strip = Image.new("RGB", (THUMB * len(paths), THUMB), (238, 238, 240))
        for place, path in enumerate(paths):
            try:
                with Image.open(path) as picture:
                    small = picture.convert("RGB").resize((THUMB, THUMB), Image.Resampling.BOX)
            except FileNotFoundError:
                continue
            except Exception:  # as above
                self.damaged.add(path)
                continue
            strip.paste(small, (THUMB * place, 0))
        return strip

    def sweep(self) -> None:
        """Remove what no page shows any more; what another process may be writing now stays."""
        for path in (self.folder / FILES).glob("??/*"):
            name = path.relative_to(self.folder).as_posix()
            with contextlib.suppress(OSError):
                if name not in self.used and age(path) > STRAY_SECONDS:
                    path.unlink()

    @staticmethod
    def _place(path: Path, target: Path) -> None:
        """A link appears whole by itself; where there are no links the file is copied beside and renamed."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except FileExistsError:  # another thread's, of the same picture
            pass
        except FileNotFoundError:
            raise
        except OSError:
            link_or_copy(path, target)

    @staticmethod
    def _key(parts: Sequence[Path | str]) -> str:
        stamps = [each if isinstance(each, str) else stamp(each) or "" for each in parts]
        return digest("\n".join([str(DRAWING), *stamps]))[:20]

    @staticmethod
    def _name(key: str, suffix: str) -> str:
        return f"{FILES}/{key[:2]}/{key}{suffix}"


def stamp(path: Path) -> str | None:
    """20 digits by which a file is known as it is now; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return digest(f"{path.resolve()}\n{found.st_size}\n{found.st_mtime_ns}")[:20]


def encoded(picture: Image.Image, suffix: str) -> bytes:
    buffer = io.BytesIO()
    if suffix == ".jpg":
        picture.save(buffer, format="JPEG", quality=QUALITY)
    else:
        picture.save(buffer, format="PNG", compress_level=4)
    return buffer.getvalue()


# --- the map of an error --------------------------------------------------------------------------------------------

INK = ((0.0, (0, 0, 0)), (0.35, (86, 40, 110)), (0.65, (213, 94, 0)), (1.0, (255, 245, 190)))
"""From no error to the largest that is told apart: dark to light, in one order also without colours."""


def painted_error(path: Path, most: float) -> Image.Image:
    """An error map in colours; most: the share of the largest possible error that is drawn as the lightest colour."""
    with Image.open(path) as picture:
        levels = np.asarray(picture.convert("L")).astype(float) / 255
    places, colours = zip(*INK, strict=True)
    share = np.clip(levels / most, 0, 1)
    channels = [np.interp(share, places, [colour[channel] for colour in colours]) for channel in range(3)]
    return Image.fromarray(np.stack(channels, -1).round().astype(np.uint8))
