"""A run on disk: readable, self-contained, and assembled from the store.

    maxbench-run.json     what the run is: everything that its numbers depend on
    config.yaml  manifest.json  stamp.json  run.json
    real/  vae_reconstruction/  conditions/<name>/  control_masks/<name>/  evaluation_masks/<name>/
    images/<method>/<sample>-<replicate>.png
    entered/<name>/<sample>-<replicate>.png  pictures made elsewhere
    records/<product>.json  each file of a product with its key, digest and details
    metrics.csv  samples.parquet  differences.csv  evaluation.json  table.md  ...

Its pictures are the store's own files under another name (or copies, where the file system has no links). If the store
is lost, a run folder fills it again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import tempfile
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from maxbench.errors import UserError
from maxbench.progress import Progress, Status
from maxbench.store.artefacts import Artefact, Count, Store
from maxbench.store.files import (
    Damaged,
    digest,
    file_digest,
    fingerprint,
    link_or_copy,
    read_sealed,
    seal,
    sweep,
    unseal,
    write_atomically,
)

MARK = "maxbench-run.json"
"""The file by which a run folder is known as ours."""

MANIFEST = "manifest.json"
"""Samples, reference images and methods of a run."""

SUMMARY = "run.json"
REFERENCES = "references.json"
ENTERED = "entered"
"""The kind of artefacts that were made elsewhere, and the folder that they lie in."""


def image_file(method: str, sample: str, replicate: int) -> str:
    """Where a method's picture lies, relative to the run folder."""
    return f"images/{method}/{picture_name(sample, replicate)}"


def entered_product(name: str) -> str:
    """The product that pictures made elsewhere are; its record is the only thing that lists them."""
    return f"{ENTERED}/{name}"


def picture_name(sample: str, replicate: int) -> str:
    """What a picture's file is called, in a run and in a folder of pictures made elsewhere."""
    return f"{sample}-{replicate}.png"


def source_file(product: str, image: int) -> str:
    """Where what was made of a source image lies: `real`, `vae_reconstruction`, or `conditions/<name>`."""
    return f"{product}/{image:012d}.png"


def mask_file(kind: str, condition: str, sample: str) -> str:
    """Where a sample's mask lies; kind is `control_masks` or `evaluation_masks`."""
    return f"{kind}/{condition}/{sample}.png"


@dataclass(frozen=True)
class Entry:
    """A file of a run: where it lies in the run folder, and what is known of the artefact."""

    file: str
    kind: str
    key: str
    sha256: str
    details: Mapping[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """The folder of one run, and the store that it is assembled from."""

    path: Path
    store: Store
    known: dict[tuple[str, str], Entry] = field(default_factory=dict, repr=False)  # by kind and key
    counts: dict[str, Count] = field(default_factory=dict, repr=False)  # by kind, of this invocation

    @classmethod
    def open(cls, output_dir: Path, name: str, identity: Any, store: Store) -> RunFolder:
        """Create or reopen `output_dir/name`; a folder that is not this run's own is refused untouched."""
        path = output_dir / name
        if path.resolve().parent != output_dir.resolve():
            raise UserError(f"The run folder {path} would lie outside of {output_dir}; take another name.")
        mark = path / MARK
        try:
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; set output_dir= to another folder.")
            if not _is_marked(mark, identity):
                if path.exists() and any(not each.name.endswith(".partial") for each in path.iterdir()):
                    raise UserError(
                        f"{path} is not a run folder of maxbench; move it away or set output_dir= elsewhere."
                    )
                path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):  # also where the mark need not be written
                pass
            if read_sealed(mark) != identity:  # also where it was damaged
                write_atomically(mark, seal(identity))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise  # another folder would not help
            reason = error.strerror or error
            raise UserError(
                f"Cannot write to {path}: {reason}; set output_dir= to a folder you can write to."
            ) from error
        sweep(path)
        return cls(path, store)._remembering()

    @classmethod
    def look(cls, output_dir: Path, name: str, identity: Any, store: Store) -> RunFolder:
        """The same folder to be looked at only: nothing is written, and it need not be there."""
        path = output_dir / name
        if (path / MARK).exists():
            _is_marked(path / MARK, identity)  # another run's is refused now and not later
        return cls(path, store)._remembering()

    def _remembering(self) -> RunFolder:
        self.known.update({(each.kind, each.key): each for each in self._all_entries()})
        return self

    def write(self, file: str, content: bytes | str | Callable[[BinaryIO], None]) -> Path:
        """Write one of the run's own files, whole or not at all; see :func:`write_atomically`."""
        write_atomically(self.path / file, content)
        return self.path / file

    # --- artefacts --------------------------------------------------------------------------------------------

    def find(self, kind: str, key: str, suffix: str = ".png") -> Artefact | None:
        """An artefact from the store or, if that has lost it, from this folder."""
        artefact = self.store.find(kind, key, suffix)
        entry = self.known.get((kind, key))
        if artefact is not None or entry is None:
            return artefact
        try:
            content = (self.path / entry.file).read_bytes()
        except OSError:
            return None
        return self.store.keep(kind, key, content, entry.details, suffix) if digest(content) == entry.sha256 else None

    def peek(self, kind: str, key: str) -> Artefact | None:
        """The same, believing the records: no file is read whole, and nothing is written."""
        artefact, entry = self.store.peek(kind, key), self.known.get((kind, key))
        if artefact is not None or entry is None:
            return artefact
        path = self.path / entry.file
        return Artefact(key, entry.sha256, path, entry.details) if path.is_file() else None

    def keep(
        self, kind: str, key: str, content: bytes, details: Mapping[str, Any] | None = None, suffix: str = ".png"
    ) -> Artefact:
        """Keep what was made just now."""
        self.count(kind).made += 1
        return self.store.keep(kind, key, content, details, suffix)

    def count(self, kind: str) -> Count:
        return self.counts.setdefault(kind, Count())

    def ensure(
        self,
        kind: str,
        keys: Mapping[Hashable, str],
        make: Callable[[list[Any], Callable[..., None]], None],
        what: str,
        status: Callable[[], Status] = Status,
    ) -> dict[Any, Artefact]:
        """The artefacts of `keys` (item -> key), of which those that are missing are made.

        make: called with the missing items and a function that keeps one, `keep(item, content, details)`.
        what, status: for the progress line.
        """
        self.refer((kind, key) for key in keys.values())
        found = {item: self.find(kind, key) for item, key in keys.items()}
        missing = [item for item, artefact in found.items() if artefact is None]
        self.count(kind).found += len(keys) - len(missing)
        if missing:
            with Progress(what, len(missing), "images", status=status) as progress:

                def keep(item: Any, content: bytes, details: Mapping[str, Any] | None = None) -> None:
                    found[item] = self.keep(kind, keys[item], content, details)
                    progress.add()

                make(missing, keep)
        return found

    def place(self, product: str, artefacts: Mapping[str, Artefact], kind: str) -> None:
        """Let the run folder hold a product: its files by name, and a record of them."""
        entries = []
        for file, artefact in artefacts.items():
            self.put(file, artefact)
            entries.append(
                {
                    "file": file, "kind": kind, "key": artefact.key, "sha256": artefact.sha256,
                    "details": dict(artefact.details),
                }
            )  # fmt: skip
        record = self._record(product)
        if read_sealed(record) != entries:
            write_atomically(record, seal(entries))

    def put(self, file: str, artefact: Artefact) -> None:
        """Let a file of the run folder be an artefact's, unless it is already."""
        path = self.path / file
        try:
            if path.samefile(artefact.path) or file_digest(path) == artefact.sha256:
                return
        except OSError:
            pass  # it is not there, or no file
        link_or_copy(artefact.path, path)

    def _record(self, product: str) -> Path:
        return self.path / "records" / f"{product}.json"

    def entries(self, product: str) -> list[Entry]:
        """What the record of a product lists; UserError if there is none, or if it is damaged."""
        path = self._record(product)
        try:
            return [Entry(**each) for each in unseal(path.read_bytes())]
        except (OSError, Damaged, TypeError) as error:
            raise UserError(f"The record {path} is missing or damaged; run the experiment again.") from error

    def has_record(self, product: str) -> bool:
        return self._record(product).exists()

    def entered(self) -> list[str]:
        """The names of the pictures made elsewhere that the run holds, in order of the alphabet."""
        return sorted(path.stem for path in (self.path / "records" / ENTERED).glob("*.json"))

    def restore(self, product: str) -> list[str]:
        """Let the files of a product be what its record says, from the store where one is lost or changed.

        Returns the files that the store has not either.
        """
        lost = []
        for entry in self.entries(product):
            path = self.path / entry.file
            with contextlib.suppress(OSError):
                if file_digest(path) == entry.sha256:
                    continue
            found = self.store.find(entry.kind, entry.key)
            if found is None or found.sha256 != entry.sha256:
                lost.append(entry.file)
            else:
                self.put(entry.file, found)
        return lost

    def _all_entries(self) -> Iterable[Entry]:
        records = self.path / "records"
        for path in sorted(records.rglob("*.json")):
            with contextlib.suppress(UserError):
                yield from self.entries(str(path.relative_to(records).with_suffix("")))

    # --- what a run says of itself ----------------------------------------------------------------------------

    def refer(self, artefacts: Iterable[tuple[str, str]], scores: Iterable[str] = ()) -> None:
        """Say, before they are made, which artefacts (kind, key) and scored pictures (digest) this run needs.

        `data prune` keeps what any run refers to; the store knows the run by its path. What was said before stays said.
        """
        known = references(self.path) or (set(), set())
        needed = known[0] | set(artefacts), known[1] | set(scores)
        if needed != known or not (self.path / REFERENCES).exists():
            self.write(REFERENCES, seal({"artefacts": sorted(map(list, needed[0])), "scores": sorted(needed[1])}))
        here = str(self.path.resolve())
        if read_sealed(self._mark_in_store) != here:
            write_atomically(self._mark_in_store, seal(here))

    def forget(self) -> None:
        """Let the store not know this folder any more: of one that is about to be removed."""
        self._mark_in_store.unlink(missing_ok=True)

    @property
    def _mark_in_store(self) -> Path:
        """The file by which the store knows this folder."""
        return self.store.path / "runs" / f"{digest(str(self.path.resolve()))}.json"

    def summarise(self, **more: Any) -> None:
        """Write `run.json`: what the last invocation made, and what it found."""
        made = {f"{kind.removesuffix('s')}s": count.as_dict() for kind, count in sorted(self.counts.items())}
        self.write(SUMMARY, json.dumps({**made, **more}, indent=1))


def _is_marked(mark: Path, identity: Any) -> bool:
    """Whether a folder is this run's own; UserError where it is another's."""
    try:
        if mark.is_dir():
            raise UserError(f"{mark} is a folder; move {mark.parent} away or set output_dir= to another folder.")
        known = unseal(mark.read_bytes())
    except FileNotFoundError:
        return False
    except Damaged:
        return True  # the name of the folder says which run it is, and every file in it is checked by its digest
    if known != identity:
        raise UserError(
            f"{mark} says that {mark.parent} holds another run; move the folder away or set output_dir= to another one."
        )
    return True


def references(run: Path) -> tuple[set[tuple[str, str]], set[str]] | None:
    """The artefacts (kind, key) and the scored pictures (digest) that a run needs; None if it does not say."""
    said = read_sealed(run / REFERENCES)
    try:
        return {(str(kind), str(key)) for kind, key in said["artefacts"]}, {str(each) for each in said["scores"]}
    except (KeyError, TypeError, ValueError):
        return None


def run_name(experiment: str, suite: str, identity: Any) -> str:
    return f"{experiment}-{suite}-{fingerprint(identity)[:10]}"
