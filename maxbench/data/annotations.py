"""Annotation files in COCO's format: read whole, and every entry checked before anything is used.

Whatever is wrong with a file is a UserError of one sentence that names the file, the entry and what to do. What is
read is text and whole numbers of the kind that the format asks for, and every reference leads somewhere. The outline
of an object is checked where it is decoded; see :mod:`maxbench.data.segmentation`.
"""

from __future__ import annotations

import json
import math
import reprlib
import textwrap
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from maxbench.errors import UserError
from maxbench.names import leaves_folder

LARGEST_ID = 2**63 - 1


@dataclass(frozen=True)
class Annotations:
    """One annotation file. images: id -> entry. by_image: id -> its annotations in the file's order; ids -> names.

    description: what the file says that it is of, on one line; empty where it says nothing.
    """

    images: dict[int, dict]
    by_image: dict[int, list[dict]]
    categories: dict[int, str]
    description: str = ""


def read_captions(path: Path) -> Annotations:
    """Captions; sizes of pictures are not asked for."""
    return _read(path, sizes=False, categories=False, check=_check_caption)


def read_instances(path: Path) -> Annotations:
    """Objects with their categories, in pictures of a stated size."""
    return _read(path, sizes=True, categories=True, check=_check_instance)


def read_bytes(path: Path) -> bytes:
    """The content of an annotation file."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"The data set has no file {path}; see `python -m maxbench data`.") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a folder where an annotation file belongs; put the file in its place.") from error
    except OSError as error:
        raise UserError(f"The annotation file {path} cannot be read ({error.strerror}); make it readable.") from error


class _Damage(Exception):
    """What is wrong with an entry, before it is known in which file."""


def _read(path: Path, sizes: bool, categories: bool, check: Callable[[dict, dict[int, str]], None]) -> Annotations:
    content = _parse(path)
    try:
        images = _by_id(content, "images")
        for each in images.values():
            _check_image(each, sizes)
        names = _categories(content) if categories else {}
        by_image = defaultdict(list)
        for place, each in _entries(content, "annotations"):
            try:
                _check_reference(each, "image_id", images, "an image of this file")
                check(each, names)
            except _Damage as damage:
                number = f" (id {shown(each['id'])})" if "id" in each else ""
                raise _Damage(f"{place}{number} {damage}") from None
            by_image[each["image_id"]].append(each)
    except _Damage as damage:
        _refuse(path, str(damage), "correct that entry, or restore the file")
    return Annotations(images, dict(by_image), names, _description(content))


def _description(content: dict) -> str:
    """What a file says of itself; the format does not ask for it, and nothing depends on it."""
    info = content.get("info")
    said = info.get("description") if isinstance(info, dict) else None
    return textwrap.shorten(said, 80, placeholder=" ...") if isinstance(said, str) and said.isprintable() else ""


def _parse(path: Path) -> dict:
    content = read_bytes(path)
    try:
        parsed = json.loads(content.decode("utf-8-sig"), parse_constant=_no_number)
    except UnicodeDecodeError as error:
        _refuse(path, f"byte {error.start} is not UTF-8", "restore the file, or save it as UTF-8")
    except (ValueError, RecursionError) as error:  # JSONDecodeError among them
        _refuse(path, f"it is not JSON ({error})", "restore the file")
    if not isinstance(parsed, dict):
        _refuse(path, f"it holds a {_kind(parsed)} and not a mapping with 'images' and 'annotations'", "restore it")
    return parsed


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _refuse(path: Path, what: str, remedy: str) -> NoReturn:
    raise UserError(f"The annotation file {path} is damaged: {what}; {remedy}.") from None


# --- entries ----------------------------------------------------------------------------------------------


def _entries(content: dict, key: str) -> Iterator[tuple[str, dict]]:
    """Entries of a list in the file, with their places."""
    listed = content.get(key)
    if not isinstance(listed, list):
        raise _Damage(f"it has no list '{key}'" if listed is None else f"'{key}' is {shown(listed)} and not a list")
    for number, each in enumerate(listed):
        if not isinstance(each, dict):
            raise _Damage(f"{key}[{number}] is {shown(each)} and not a mapping")
        yield f"{key}[{number}]", each


def _by_id(content: dict, key: str) -> dict[int, dict]:
    found: dict[int, dict] = {}
    for place, each in _entries(content, key):
        if "id" not in each:
            raise _Damage(f"{place} has no id")
        number = each["id"]
        if not _is_whole(number) or not 0 <= number <= LARGEST_ID:
            raise _Damage(f"{place} has the id {shown(number)}, which is not a whole number from 0 to 2^63 - 1")
        if number in found:
            raise _Damage(f"{place} has the id {number} a second time")
        found[number] = each
    return found


def _categories(content: dict) -> dict[int, str]:
    found = _by_id(content, "categories")
    if not found:
        raise _Damage("its list 'categories' is empty")
    return {number: _text(each, "name", f"category {number}").strip() for number, each in found.items()}


def _check_image(entry: dict, sizes: bool) -> None:
    where = f"image {entry['id']}"
    name = _text(entry, "file_name", where)
    if leaves_folder(name):
        raise _Damage(f"{where} has the file_name {shown(name)}, which leads out of the data set's folder")
    for side in ("width", "height") if sizes else ():
        if side not in entry:
            raise _Damage(f"{where} has no {side}")
        if not _is_whole(entry[side]) or entry[side] < 1:
            raise _Damage(f"{where} has the {side} {shown(entry[side])}, which is not a whole number of pixels")


def _check_caption(entry: dict, _: dict[int, str]) -> None:
    _text(entry, "caption")


def _check_instance(entry: dict, categories: dict[int, str]) -> None:
    _check_reference(entry, "category_id", categories, "a category of this file")
    area, crowd = entry.get("area"), entry.get("iscrowd", 0)
    if area is not None and not (is_number(area) and area >= 0):
        raise _Damage(f"has the area {shown(area)}, which is not a number of pixels")
    if crowd not in (0, 1):
        raise _Damage(f"has iscrowd {shown(crowd)}, which is neither 0 nor 1")
    if entry.get("phrase") is not None:
        _text(entry, "phrase")


def _check_reference(entry: dict, key: str, known: dict[int, Any], what: str) -> None:
    if key not in entry:
        raise _Damage(f"has no {key}")
    if not _is_whole(entry[key]) or entry[key] not in known:
        raise _Damage(f"has the {key} {shown(entry[key])}, which is not {what}")


def _text(entry: dict, key: str, where: str = "") -> str:
    """A value that is text, not blank, and can be written to a file again."""
    prefix = f"{where} " if where else ""
    if key not in entry:
        raise _Damage(f"{prefix}has no {key}")
    value = entry[key]
    if not isinstance(value, str):
        raise _Damage(f"{prefix}has the {key} {shown(value)}, which is not text")
    if not value.strip():
        raise _Damage(f"{prefix}has an empty {key}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # half of a surrogate pair
        raise _Damage(f"{prefix}has a {key} with a character that is none, at place {error.start}") from None
    return value


# --- values -----------------------------------------------------------------------------------------------


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """A finite number; JSON's 1e999 is read as infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < math.inf


def shown(value: Any) -> str:
    """A value as a message quotes it, on one line and not at length."""
    return reprlib.repr(value)


def _kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "truth value", type(None): "null"}.get(type(value), "number")
