"""COCO val2017 from its publisher, or from a mirror: resumed where it stopped, checked, and whole or not there at all.

What is on its way lies in `.download/` inside the data set's folder and is removed at the end. Pictures and annotations
that are there already are not touched; so are archives that were fetched by another program, if they lie in the folder
under their own names.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import http.client
import os
import re
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from maxbench.data.annotations import read_captions
from maxbench.errors import UserError
from maxbench.names import leaves_folder
from maxbench.progress import say, track

ADDRESS = "http://images.cocodataset.org"  # its certificate is of another name, so no https; the digests decide
SPLIT = "val2017"
STAGING = ".download"
CHUNK = 2**20  # bytes at a time, at most
TIMEOUT = 60.0  # seconds without a byte
ATTEMPTS = 4  # in a row that bring no byte
PAUSE = 1.0  # seconds before the second attempt, twice as long before every further one
AGAIN = "run the same command again, which goes on where this stopped"
TRANSIENT = (408, 425, 429, 500, 502, 503, 504)  # answers that may be others a little later


@dataclass(frozen=True)
class Archive:
    """A zip file as COCO publishes it.

    path: below the server's address. size: bytes. md5: hexadecimal. members: a pattern of the members that are taken.
    count: how many there are. most: bytes that they may have unpacked, in all.
    """

    path: str
    size: int
    md5: str
    members: str
    count: int
    most: int

    @property
    def name(self) -> str:
        return PurePosixPath(self.path).name


PICTURES = Archive(
    "zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80", r"val2017/\d{12}\.jpg", 5000, 1_000_000_000
)
ANNOTATIONS = Archive(
    "annotations/annotations_trainval2017.zip", 252_907_541, "f4bbac642086de4f52a3fdda2de5fa2c",
    r"annotations/(instances|captions)_val2017\.json", 2, 100_000_000,
)  # fmt: skip


def fetch_coco(
    root: Path, address: str = ADDRESS, annotations: Archive = ANNOTATIONS, pictures: Archive = PICTURES
) -> list[str]:
    """Have `root/annotations/{instances,captions}_val2017.json` and `root/val2017/`; returns what was fetched.

    A UserError says what is wrong; what was transferred before is kept wherever it can be of use.
    """
    if urlsplit(address).scheme not in ("http", "https"):
        raise UserError(f"--from is '{address}'; give an address that begins with http:// or https://.")
    missing = [archive for archive in (annotations, pictures) if not _is_there(root, archive, pictures)]
    if missing:
        with _explained(root), _staging(root) as staging:
            own = {archive: root / archive.name for archive in missing if (root / archive.name).is_file()}
            _check_room(root, staging, missing, own)
            for archive in missing:
                if archive in own:
                    say(f"{own[archive]} is there already")
                    _check(own[archive], archive, "move it away, or fetch it again")
                path = own.get(archive) or _download(staging, archive, address)
                _unpack(path, archive, staging, root)
                if archive not in own:
                    path.unlink()
    _check_pictures(root)
    return [archive.name for archive in missing]


def _is_there(root: Path, archive: Archive, pictures: Archive) -> bool:
    if archive is pictures:
        return (root / SPLIT).is_dir()
    return all((root / "annotations" / f"{kind}_{SPLIT}.json").is_file() for kind in ("instances", "captions"))


def _check_pictures(root: Path) -> None:
    """Every picture that the annotations list is there."""
    listed = root / "annotations" / f"captions_{SPLIT}.json"
    names = [each["file_name"] for each in read_captions(listed).images.values()]
    absent = [name for name in names if not (root / SPLIT / name).is_file()]
    if absent:
        raise UserError(
            f"{root / SPLIT} lacks {len(absent)} of the {len(names)} pictures that {listed} lists "
            f"({', '.join(absent[:3])}); move the folder away and run the same command, which fetches it anew."
        )


@contextlib.contextmanager
def _staging(root: Path) -> Iterator[Path]:
    """The folder of what is on its way, for one process at a time; it is gone after a success."""
    staging = root / STAGING
    staging.mkdir(parents=True, exist_ok=True)
    with open(staging / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"Another process is fetching COCO into {root}; wait for it.") from error
        yield staging
    shutil.rmtree(staging)


@contextlib.contextmanager
def _explained(root: Path) -> Iterator[None]:
    """What the disk refuses, as a sentence."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise UserError(
                f"The disk of {root} is full or allows no larger file; free some space or set data.root= to another "
                f"disk, then {AGAIN}."
            ) from error
        raise UserError(
            f"Cannot write to {error.filename or root} ({error.strerror or error}); set data.root= to a folder you can "
            "write to."
        ) from error


def _check_room(root: Path, staging: Path, missing: Sequence[Archive], own: dict[Archive, Path]) -> None:
    """Say what is fetched, how large it is and what is free; UserError where that is too little."""
    to_fetch = sum(archive.size - _size(_partial(staging, archive)) for archive in missing if archive not in own)
    needed, free = to_fetch + sum(archive.most for archive in missing), shutil.disk_usage(root).free
    names = ", ".join(archive.name for archive in missing)
    say(f"{names}: {_gb(to_fetch)} to fetch, {_gb(needed)} needed with what is unpacked, {_gb(free)} free in {root}")
    if free < needed:
        raise UserError(
            f"COCO needs {_gb(needed)} and {root} has {_gb(free)} free; free some space or set data.root= to another "
            "disk."
        )


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _check(path: Path, archive: Archive, remedy: str) -> None:
    """UserError unless a file is the archive, to the last byte."""
    size = _size(path)
    if size == archive.size:
        with open(path, "rb") as file:
            md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
        if md5 == archive.md5:
            return
        raise UserError(f"{path} has the MD5 {md5} and COCO's has {archive.md5}: it is not that file; {remedy}.")
    raise UserError(f"{path} has {size:,} bytes and COCO's has {archive.size:,}; {remedy}.")


# --- transfer ---------------------------------------------------------------------------------------------


def _partial(staging: Path, archive: Archive) -> Path:
    return staging / f"{archive.name}.part"


def _download(staging: Path, archive: Archive, address: str) -> Path:
    """The whole archive, checked; what an earlier call has left is gone on with."""
    path, partial = staging / archive.name, _partial(staging, archive)
    if not path.exists():
        if _size(partial) > archive.size:
            partial.unlink()
        _transfer(partial, archive, f"{address.rstrip('/')}/{archive.path}")
        try:
            _check(partial, archive, "it was removed: run the same command again, or add --from with another address")
        except UserError:
            partial.unlink()
            raise
        partial.rename(path)
    return path


def _transfer(partial: Path, archive: Archive, url: str) -> None:
    """Bring a partial file to its size; a connection that breaks is taken up again while it brings anything."""
    failures = 0
    while _size(partial) < archive.size:
        before = _size(partial)
        try:
            with _opened(url, before) as response:
                _receive(response, partial, archive, url)
            problem = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code not in TRANSIENT:
                raise UserError(
                    f"{url} cannot be fetched, the server answers {error.code} {error.reason}; add --from with another "
                    f"address, or put {archive.name} into the folder yourself."
                ) from error
            problem = f"the server answers {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            problem = str(getattr(error, "reason", None) or error or type(error).__name__)
        except OSError as error:
            if error.errno not in (errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETRESET):
                raise  # of the disk
            problem = error.strerror
        if _size(partial) >= archive.size:
            return
        failures = 0 if _size(partial) > before else failures + 1
        if failures == ATTEMPTS:
            raise UserError(
                f"{url} stopped at {_size(partial):,} of {archive.size:,} bytes ({problem}); {AGAIN}, or add --from "
                "with another address."
            )
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))


def _opened(url: str, start: int) -> http.client.HTTPResponse:
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    return urllib.request.urlopen(request, timeout=TIMEOUT)


def _receive(response: http.client.HTTPResponse, partial: Path, archive: Archive, url: str) -> None:
    """Append what a server sends; from the beginning where it cannot begin in the middle."""
    start = _size(partial)
    if response.status == 206:
        said = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        first, total = (said[1], said[2]) if said else (None, "*")
        if first != str(start):
            raise UserError(f"{url} is sent from another place than was asked for; add --from with another address.")
    else:
        start, total = 0, response.headers.get("Content-Length", "*")
    if total not in ("*", str(archive.size)):
        raise UserError(
            f"{url} has {int(total):,} bytes and COCO's has {archive.size:,}: it is not that file; add --from with "
            "another address."
        )
    with open(partial, "r+b" if start else "wb") as file:
        file.seek(start)
        left = archive.size - start
        chunks = iter(lambda: response.read1(min(CHUNK, left)), b"")
        done = start / 1e6
        for chunk in track(chunks, archive.name, archive.size / 1e6, "MB", lambda each: len(each) / 1e6, done=done):
            file.write(chunk)
            left -= len(chunk)


# --- unpacking --------------------------------------------------------------------------------------------


def _unpack(path: Path, archive: Archive, staging: Path, root: Path) -> None:
    """Let the members of an archive appear in the data set's folder: a picture folder whole, annotations one by one."""
    place = staging / f"{archive.name}.unpacked"
    shutil.rmtree(place, ignore_errors=True)
    try:
        with zipfile.ZipFile(path) as opened:
            members = _members(opened, path, archive)
            for member in track(members, f"unpacking {archive.name}", len(members), "files"):
                target = place / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, open(target, "wb") as file:
                    shutil.copyfileobj(source, file, CHUNK)
    except (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError) as error:
        if path.parent == staging:  # what was fetched here; a user's own archive is the user's
            path.unlink(missing_ok=True)
            raise UserError(f"{path} was damaged ({error}) and is removed; {AGAIN}.") from error
        raise UserError(f"{path} is damaged ({error}); delete it and {AGAIN}.") from error
    for folder in sorted(place.iterdir()):
        if not (root / folder.name).exists():
            folder.rename(root / folder.name)
            continue
        for file in sorted(folder.iterdir()):  # beside annotations of other splits
            if not (root / folder.name / file.name).exists():
                os.replace(file, root / folder.name / file.name)


def _members(opened: zipfile.ZipFile, path: Path, archive: Archive) -> list[zipfile.ZipInfo]:
    """The members that are taken; UserError if anything in the archive should not be there."""
    for each in opened.infolist():
        kind = stat.S_IFMT(each.external_attr >> 16)
        if leaves_folder(each.filename) or kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            what = "leads out of the folder" if leaves_folder(each.filename) else "is a link or another special file"
            raise UserError(
                f"{path} has a member {each.filename!r} that {what}; nothing was unpacked, delete the file."
            )
    wanted = [each for each in opened.infolist() if re.fullmatch(archive.members, each.filename)]
    size = sum(each.file_size for each in wanted)
    if size > archive.most:
        raise UserError(
            f"{path} would unpack to {size:,} bytes, and {archive.most:,} are the most that COCO's can have; nothing "
            "was unpacked, delete the file."
        )
    if len({each.filename for each in wanted}) != archive.count or len(wanted) != archive.count:
        raise UserError(
            f"{path} has {len(wanted)} of the files that are wanted and COCO's has {archive.count}; nothing was "
            "unpacked, delete the file."
        )
    return wanted
