"""Any pictures with captions: a folder with `captions.csv` or `captions.jsonl`, of the columns `file` and `caption`.

A picture is known by the name of its file: its id is made of that name alone. So a folder may grow, its lines may be
put in another order, and every picture keeps its id, its noise and its part; a file that is renamed is another picture.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from maxbench.data.annotations import shown
from maxbench.data.coco import Instance, Picture
from maxbench.data.parts import EVALUATION, Part
from maxbench.errors import UserError
from maxbench.images import read_orientation
from maxbench.names import leaves_folder
from maxbench.seeds import derive

CSV, JSONL = "captions.csv", "captions.jsonl"
COLUMNS = ("file", "caption")
DIGITS = 12  # of an id, as COCO numbers its files
UPRIGHT = (None, 1)  # what a camera says of a picture that need not be turned


class FolderImages:
    """Pictures of a folder and their captions; sequence of :class:`maxbench.data.coco.Picture`, ordered by id.

    Only pictures that the list names belong to the set, each once. There are no objects: pairings that need some
    refuse. Mistakes in the list, missing files among them, are a UserError when the list is read; a file that is no
    picture is one when it is asked for.
    """

    has_objects = False

    def __init__(self, root: str | Path, part: Part | None = None, about: str | None = None):
        self.root, self.part = Path(root), part
        whole = f"pictures in {self.root}"
        self.name = whole if part is None else part.named(whole)
        self.about = about or f"the pictures of the folder {self.root.resolve().name}"
        self._known: dict[int, Picture] = {}

    @cached_property
    def ids(self) -> list[int]:
        return sorted(self._listed) if self.part is None else self.part.of(self._listed)

    def __len__(self) -> int:
        return len(self.ids)

    def picture(self, image: int) -> Picture:
        """The picture with an id; its file is there, can be opened, and need not be turned."""
        if image not in self._known:
            if image not in self._listed:
                raise UserError(f"'{self.name}' has no image {shown(image)}; it has {len(self)} others.")
            file, caption = self._listed[image]
            path = self.root / file
            if read_orientation(path) not in UPRIGHT:
                raise UserError(
                    f"The picture {path} is stored turned, with a camera's note on how to turn it; save it upright "
                    "(`mogrify -auto-orient`), for pixels are read as they are stored."
                )
            self._known[image] = Picture(image, path, (caption,), ())
        return self._known[image]

    def mask(self, instance: Instance) -> np.ndarray:
        """There are no objects to ask for."""
        raise ValueError(f"'{self.name}' has no objects")

    def fingerprint(self) -> str:
        """Changes with anything that the list says, hence with the set of images."""
        digest = hashlib.sha256(json.dumps(sorted(self._listed.items())).encode())
        if self.part is not None:
            digest.update(repr(self.part).encode())
        return digest.hexdigest()

    # --- the list ---------------------------------------------------------------------------------------------

    @cached_property
    def _listed(self) -> dict[int, tuple[str, str]]:
        """id -> file and caption."""
        path = self._list()
        listed: dict[int, tuple[str, str]] = {}
        absent: list[str] = []
        for line, file, caption in _entries(path):
            where = f"{path}, line {line}"
            if leaves_folder(file):
                raise UserError(f"{where} names the file {shown(file)}, which leads out of the folder; put it inside.")
            name = PurePosixPath(file).as_posix()
            image = image_id(name)
            if image in listed:
                other = listed[image][0]
                if other == name:
                    raise UserError(f"{where} names the file {shown(name)} a second time; list every picture once.")
                raise UserError(f"The names {shown(other)} and {shown(name)} give one id; rename one of the files.")
            if not _is_file(self.root / name):
                absent.append(name)
            elif not (self.root / name).resolve().is_relative_to(self.root.resolve()):
                raise UserError(
                    f"{where} names {shown(name)}, a link that leads out of the folder; put the file there."
                )
            listed[image] = (name, caption)
        if absent:
            more = f" and {len(absent) - 3} more" if len(absent) > 3 else ""
            raise UserError(
                f"{path} names {len(absent)} of {len(listed)} files that are not there "
                f"({', '.join(absent[:3])}{more}); add them, or take their lines out."
            )
        if not listed:
            raise UserError(f"{path} names no pictures; write a line for each, of its file and its caption.")
        return listed

    def _list(self) -> Path:
        if not self.root.is_dir():
            raise UserError(f"There is no folder {self.root}; set data.root= to the one with your pictures.")
        found = [path for path in (self.root / CSV, self.root / JSONL) if path.exists()]
        if len(found) > 1:
            raise UserError(f"{self.root} has both {CSV} and {JSONL}; keep one of them.")
        if not found:
            raise UserError(
                f"{self.root} has no {CSV} and no {JSONL}; write one with a file and a caption for every picture, see "
                "docs/data.md."
            )
        return found[0]


def folder_images(
    root: str | Path, part: str = EVALUATION, calibration_share: float = 1 / 16, about: str | None = None
) -> FolderImages:
    """Pictures of one's own with captions.

    part: `evaluation`, or `calibration` for the share of the pictures that no result is measured on. about: what tables
    say that their numbers are about; None for the folder's name.
    """
    images = FolderImages(root, Part(part, calibration_share), about)
    len(images)  # what is wrong with the list is said at once
    return images


def image_id(name: str) -> int:
    """The id of a picture by its file's name, relative to the folder: a number of twelve digits at most."""
    return derive("file", name) % 10**DIGITS


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name too long for any file
        return False


def _entries(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, file and caption of every entry of a list."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; save it as UTF-8.") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); make it a readable file.") from error
    if "\0" in text:
        raise UserError(f"{path} holds a zero byte and is no text; save it as UTF-8.")
    for line, entry in _rows(path, text) if path.name == CSV else _objects(path, text):
        values = [entry.get(column) for column in COLUMNS]
        for column, value in zip(COLUMNS, values, strict=True):
            if not isinstance(value, str) or not value.strip():
                _refuse(path, line, f"has no {column}" if value in (None, "") else f"has the {column} {shown(value)}")
            if not _is_text(value):
                _refuse(path, line, f"has a {column} with a character that is none", "correct it")
        yield line, values[0].strip(), " ".join(values[1].split())


def _is_text(value: str) -> bool:
    """Whether a text can be written to a file again; half of a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    table = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip() for cell in next(table, [])]
        for column in COLUMNS:
            if header.count(column) != 1:
                count = "more than one" if column in header else "no"
                raise UserError(
                    f"{path} has {count} column '{column}' in its first line ({shown(','.join(header))}); it needs "
                    "file,caption."
                )
        begun = table.line_num + 1
        for cells in table:
            if cells and len(cells) != len(header):
                _refuse(path, begun, f"has {len(cells)} cells and the first line {len(header)}; a caption with a comma "
                        "stands in double quotes", "correct it")  # fmt: skip
            if cells:
                yield begun, dict(zip(header, cells, strict=True))
            begun = table.line_num + 1
    except csv.Error as error:
        _refuse(path, table.line_num, f"cannot be read ({error})")


def _objects(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            _refuse(path, number, f"is not JSON ({error})")
        if not isinstance(entry, dict):
            _refuse(path, number, f"is {shown(entry)} and not a mapping")
        yield number, entry


def _refuse(path: Path, line: int, what: str, remedy: str = "it needs a file and a caption") -> NoReturn:
    raise UserError(f"{path}, line {line} {what}; {remedy}.") from None
