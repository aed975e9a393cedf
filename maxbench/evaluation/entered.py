"""Pictures made elsewhere, before they are scored: exactly one PNG for every image of the experiment, or one sentence.

They are taken as they are, with no resizing and no conversion, since both change distances between sets of pictures
(Parmar et al., On aliased resizing and surprising subtleties in GAN evaluation, CVPR 2022; JPEG as well, Fig. 6 there).
"""

from __future__ import annotations

import io
import struct
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from maxbench import images as im
from maxbench.errors import UserError
from maxbench.progress import say, track
from maxbench.store.artefacts import Artefact
from maxbench.store.files import digest
from maxbench.store.runfolder import ENTERED, RunFolder, entered_product

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {0: "grayscale", 2: "RGB", 3: "palette", 4: "grayscale with alpha", 6: "RGB with alpha"}  # of the format
NAMED = 3
"""How many files a sentence names of each kind of mistake; of more, a file names all."""
OTHER_SUFFIXES = (".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Picture:
    """A picture that can be scored. defect: "black", "blank" (one colour everywhere) or None."""

    path: Path
    sha256: str
    defect: str | None


class Refused(ValueError):
    """Why a picture is not taken: a kind of mistake, as a noun, and what is said of this file beside its name."""

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(kind)
        self.kind, self.detail = kind, detail


def read_pictures(folder: Path, files: Sequence[str], resolution: int) -> dict[str, Picture]:
    """File -> picture for exactly the names `files`; every mistake in the folder in one UserError.

    Files whose names begin with a dot are the system's and are passed over.
    """
    if not folder.is_dir():
        raise UserError(f"--images is {folder}, which is no folder; give the one that the pictures lie in.")
    found, wrong = _sorted_out(folder, files)
    pictures: dict[str, Picture] = {}
    for file, path in track(found.items(), "reading pictures", len(found), "images"):
        try:
            pictures[file] = read_picture(path, resolution)
        except Refused as refusal:
            wrong.setdefault(refusal.kind, []).append(f"{file}{refusal.detail}")
    if wrong:
        raise UserError(
            f"{folder} is not entered: {_told(wrong)}. Correct these files{_listed(wrong)} and give the command again."
        )
    first: dict[str, str] = {}
    same = [f"{file} as {first[each.sha256]}" for file, each in pictures.items()
            if first.setdefault(each.sha256, file) != file]  # fmt: skip
    if same:
        more = ", ..." if len(same) > NAMED else ""
        say(
            f"note: {len(same)} of the {len(pictures)} pictures are the same file as another one "
            f"({', '.join(same[:NAMED])}{more})"
        )
    return pictures


def _sorted_out(folder: Path, files: Sequence[str]) -> tuple[dict[str, Path], dict[str, list[str]]]:
    """The files that are asked for, and the mistakes that names alone show."""
    wrong: dict[str, list[str]] = defaultdict(list)
    there = sorted(each for each in folder.iterdir() if not each.name.startswith("."))
    asked = {file.casefold().removesuffix(".png"): file for file in files}
    claims: dict[str, list[Path]] = defaultdict(list)
    found = {}
    for path in there:
        file = asked.get(path.stem.casefold())
        if path.suffix.casefold() in OTHER_SUFFIXES:
            wrong["not PNG (JPEG and resizing shift distances such as FID: save what the model made)"].append(path.name)
        elif file is None or path.suffix.casefold() != ".png":
            wrong["that belong to no image"].append(f"{path.name}/" if path.is_dir() else path.name)
        elif path.exists() and not path.is_file():
            wrong["that are no files"].append(path.name)
        elif path.name == file:
            found[file] = path
        else:
            wrong["with another name than asked for"].append(f"{path.name}, it must be {file}")
        if file is not None:
            claims[file].append(path)
    for paths in claims.values():
        if len(paths) > 1:
            wrong["doubled"].append(" and ".join(path.name for path in paths))
    missing = [file for file in files if file not in claims]
    return found, {**({"missing": missing} if missing else {}), **wrong}


def _listed(wrong: dict[str, list[str]]) -> str:
    """Where all files are named, if a sentence does not name them; nothing where no such file can be written."""
    if all(len(files) <= NAMED for files in wrong.values()):
        return ""
    text = "".join(f"{kind}: {file}\n" for kind, files in wrong.items() for file in files)
    try:
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", prefix="refused-", suffix=".txt", delete=False) as file:
            file.write(text)
    except OSError:
        return ""
    return f" (all of them are named in {file.name})"


def _told(wrong: dict[str, list[str]]) -> str:
    parts = []
    for kind, files in wrong.items():
        more = ", ..." if len(files) > NAMED else ""
        parts.append(f"{len(files)} {kind} ({'; '.join(files[:NAMED])}{more})")
    return ", ".join(parts)


def read_picture(path: Path, resolution: int) -> Picture:
    """A picture, decoded once to see that it is whole; Refused for what cannot be scored."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Refused("that cannot be read", f": {error.strerror}") from error
    if not content.startswith(SIGNATURE):
        raise Refused("that cannot be read", ": empty" if not content else ": no PNG, whatever its name says")
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise Refused("that cannot be read", ": cut off")
    width, height, depth, colours = struct.unpack(">IIBB", content[16:26])
    if (width, height) != (resolution, resolution):
        raise Refused(f"of another size than {resolution} x {resolution}", f": {width} x {height}")
    if (depth, colours) != (8, 2):
        said = COLOUR_TYPES.get(colours, f"colour type {colours}")
        raise Refused("other than 8-bit RGB", f": {depth}-bit {said}")
    array = _decoded(content)
    return Picture(path, digest(content), _defect(array))


def _decoded(content: bytes) -> np.ndarray:
    """(H, W, 3) uint8; checksums included, which decoding alone does not look at."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(content)) as image:
                image.verify()
            with Image.open(io.BytesIO(content)) as image:
                frames = getattr(image, "n_frames", 1)
                array = np.array(image.convert("RGB"))
    except Exception as error:  # Pillow's decoders raise nearly every kind of error on damaged files
        raise Refused("that cannot be read", f": {' '.join(str(error).split()) or 'damaged'}") from error
    if frames > 1:
        raise Refused("that are animations")
    return array


def _defect(array: np.ndarray) -> str | None:
    (picture,) = im.from_bytes(array[None])
    if (found := im.defect(picture)) is not None:
        return found
    return "blank" if (array == array[0, 0]).all() else None


def enter(folder: RunFolder, name: str, pictures: dict[str, Picture]) -> bool:
    """Keep pictures and let the run folder hold them as a row `name`; whether it has replaced others.

    The row exists once all its pictures are kept: its record is written last.
    """
    product = entered_product(name)
    before = {each.file: each.sha256 for each in _before(folder, product)}
    folder.refer((ENTERED, each.sha256) for each in pictures.values())
    artefacts: dict[str, Artefact] = {}
    for file, each in pictures.items():
        found = folder.find(ENTERED, each.sha256)
        if found is None:
            found = folder.keep(ENTERED, each.sha256, _unchanged(each), {"defect": each.defect})
        else:
            folder.count(ENTERED).found += 1
        artefacts[f"{product}/{file}"] = found
    folder.place(product, artefacts, ENTERED)
    now = {file: each.sha256 for file, each in artefacts.items()}
    return bool(before) and before != now


def _before(folder: RunFolder, product: str):
    try:
        return folder.entries(product)
    except UserError:
        return ()


def _unchanged(picture: Picture) -> bytes:
    content = picture.path.read_bytes()
    if digest(content) != picture.sha256:
        raise UserError(f"{picture.path} changed while it was read; give the command again when the files are at rest.")
    return content
