"""Published parts, fetched whole: what is to come is known and fits the disk before the first byte, and is verified.

The transfer is the library's (`huggingface_hub`): it resumes what was cut off, follows `HF_HOME`, `HF_TOKEN`,
`HF_ENDPOINT` and `HF_HUB_OFFLINE`, and puts files into the Hub's cache or into a folder of the user's.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError

import torch
from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from maxbench.errors import UserError
from maxbench.models.files import file_fault
from maxbench.store.files import file_digest
from maxbench.suites.hub import REVISION_FILE, HubPart, Shelf, megabytes

SPARE = 10**8
"""Bytes of the disk that are left free."""


@dataclass(frozen=True)
class Wanted:
    """One file to come, as the Hub knows it. sha256: of files that are kept apart from their repository's text."""

    part: HubPart
    name: str  # path in the repository
    commit: str
    size: int
    sha256: str | None


def look_up(parts: Sequence[HubPart]) -> list[Wanted]:
    """What the Hub has of these parts: files with their sizes, at one commit for each repository."""
    found: list[Wanted] = []
    known: dict[tuple[str, str | None], tuple[str, dict]] = {}
    for part in parts:
        if part.address is not None:
            found.append(Wanted(part, str(part.file), "", part.size, part.sha256))
            continue
        key = (part.id, part.revision)
        if key not in known:
            with _sentences(part):
                said = HfApi().model_info(part.id, revision=part.revision, files_metadata=True)
            known[key] = str(said.sha), {each.rfilename: each for each in said.siblings or ()}
        commit, files = known[key]
        for name in part.files:
            if name not in files:
                raise UserError(
                    f"The repository {part.id} has no file {name} at revision {commit[:8]}; correct suite.hub."
                )
            digest = files[name].lfs.sha256 if files[name].lfs else None
            if part.file and name == part.files[0] and part.sha256:
                digest = part.sha256
            found.append(Wanted(part, name, commit, files[name].size or 0, digest))
    return found


def require_space(wanted: Sequence[Wanted], shelf: Shelf) -> int:
    """Bytes that are free where the files will go; UserError if that is too little."""
    place = Path(constants.HF_HUB_CACHE) if shelf.weights_dir is None else shelf.weights_dir
    while not place.exists():
        place = place.parent
    free, needed = shutil.disk_usage(place).free, sum(each.size for each in wanted)
    if needed + SPARE > free:
        raise UserError(
            f"{megabytes(needed)} are to be fetched, but {place} has {megabytes(free)} free; make room, or set "
            "suite.weights_dir= to a larger disk."
        )
    return free


def fetch(wanted: Sequence[Wanted], shelf: Shelf) -> None:
    """Have these files, each verified; what was cut off goes on.

    A whole file in a user's own folder stays as it is, also where it is another than the published one.
    """
    for each in wanted:
        if each.part.address is not None:
            _download(each, shelf.home(each.part) / each.name)
            continue
        home = None if shelf.weights_dir is None else shelf.weights_dir / each.part.id
        if home is not None and (home / each.name).is_file() and file_fault(home / each.name) is None:
            continue
        with _sentences(each.part):
            path = Path(hf_hub_download(each.part.id, each.name, revision=each.commit, local_dir=home))
        _verify(path, each)
        if home is not None and not _has_others(each, wanted, home):
            (home / REVISION_FILE).write_text(each.commit + "\n")


def _has_others(wanted: Wanted, every: Sequence[Wanted], home: Path) -> bool:
    """Whether a repository's folder has files that nobody fetched, so that no commit can be said of it."""
    own = [each.name for each in every if each.part.id == wanted.part.id]
    later = own[own.index(wanted.name) + 1 :]
    return not (home / REVISION_FILE).is_file() and any((home / name).is_file() for name in later)


def _download(wanted: Wanted, path: Path) -> None:
    """A file that is published elsewhere; it appears whole or not at all."""
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so {wanted.part.address} is not fetched; put it at {path}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(str(wanted.part.address), str(path), wanted.sha256)
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and not isinstance(error, URLError | ConnectionError | TimeoutError):
            raise  # of the disk
        raise UserError(
            f"{wanted.part.address} cannot be fetched ({_line(error)}); run the same command again, or put the file "
            f"at {path}."
        ) from error


def _verify(path: Path, wanted: Wanted) -> None:
    """Size and digest are the Hub's; a file that fails is removed, so that the next attempt fetches it."""
    said = None
    if wanted.size and path.stat().st_size != wanted.size:
        said = f"has {path.stat().st_size:,} bytes and not {wanted.size:,}"
    elif wanted.sha256 and file_digest(path) != wanted.sha256:
        said = "is not what its SHA-256 says"
    if said:
        for file in {path, path.resolve()}:  # in the cache it is a link
            file.unlink(missing_ok=True)
        raise UserError(f"{path} {said}; it was removed: run the same command again.")


@contextmanager
def _sentences(part: HubPart) -> Iterator[None]:
    """What the library says of a repository becomes a sentence that says what to do."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"HF_HUB_OFFLINE is set, so {part.id} is not fetched; unset it, or put the files there by hand."
        ) from error
    except GatedRepoError as error:
        raise UserError(
            f"{part.id} asks for its conditions to be accepted at {constants.ENDPOINT}/{part.id}; do that, log in "
            "with `hf auth login` or HF_TOKEN, and run the same command again."
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"{part.id} has no revision {part.revision}; correct suite.hub.") from error
    except RepositoryNotFoundError as error:
        raise UserError(
            f"The Hub has no {part.id}, or does not show it to you; correct suite.hub, or set HF_TOKEN."
        ) from error
    except RemoteEntryNotFoundError as error:
        raise UserError(f"{part.id} lacks a file ({_line(error)}); correct suite.hub.") from error
    except (HfHubHTTPError, HTTPError, LocalEntryNotFoundError) as error:
        raise UserError(
            f"{part.id} cannot be fetched ({_line(error)}); what has come is kept: run the same command again."
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
