"""Parts of a suite as they are published on the Hugging Face Hub, and where they lie on this machine.

A part is looked for below a folder of the user's, `<weights_dir>/<organisation>/<name>`, then in the Hub's cache
(`HF_HOME`, `HF_HUB_CACHE`). Nothing is fetched here; see :mod:`maxbench.suites.fetch`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.file_download import repo_folder_name

from maxbench.models.files import weights_of

COMMIT = 40
"""Digits of a revision that is given in full."""

ADDRESSED = "maxbench"
"""Folder beside the Hub's cache, of files that are published elsewhere."""

REVISION_FILE = ".revision"
"""Beside a fetched repository in a user's folder: the commit that its files are of."""


@dataclass(frozen=True)
class HubPart:
    """Some files of one repository.

    id: "organisation/name". revision: a commit, whole or its first digits; null for the newest, which is resolved when
        the part is fetched.
    folder: of the repository, in which the part lies; "" for its top.
    file: the state dict that is fetched; null for a part without weights, such as a tokenizer. Where it is not there
        another one of the folder is read, see :func:`maxbench.models.files.weights_of`.
    bytes: its size; megabytes: the same where only about how much is known.
    sha256: of the state dict, where it is known beforehand.
    beside: the part's other files.
    address: where the state dict is published if that is not the Hub; `id` then says where it lies on this machine.
    alone: whether a loader takes the file itself and not its folder.
    """

    id: str
    revision: str | None = None
    folder: str = ""
    file: str | None = None
    bytes: int | None = None
    megabytes: int | None = None
    sha256: str | None = None
    beside: Sequence[str] = ()
    address: str | None = None
    alone: bool = False

    @property
    def is_pinned(self) -> bool:
        if self.address is not None:
            return self.sha256 is not None
        return self.revision is not None and len(self.revision) == COMMIT

    @property
    def size(self) -> int:
        """Bytes, about; 0 where nothing is known, as of small files of text."""
        return self.bytes or 10**6 * (self.megabytes or 0)

    @property
    def files(self) -> list[str]:
        """What is fetched, as paths in the repository."""
        names = [*([self.file] if self.file else []), *self.beside]
        return [f"{self.folder}/{name}" if self.folder else name for name in names]

    def within(self, repository: Path) -> Path:
        """The part in a copy of its repository: a folder, or a file that stands alone."""
        folder = repository / self.folder
        return folder / self.file if self.alone and self.file else folder

    def is_in(self, repository: Path) -> bool:
        """Whether a copy of the repository has the part, whole or not."""
        place = self.within(repository)
        if self.alone:
            return place.is_file()
        if self.file is None:
            return any((place / name).is_file() for name in self.beside)
        return bool(weights_of(place))

    def __str__(self) -> str:
        return named([self])


@dataclass(frozen=True)
class Shelf:
    """Where parts lie: below `weights_dir` if there is one, else in the Hub's cache."""

    weights_dir: Path | None = None

    def find(self, part: HubPart) -> Path | None:
        """The first copy of a part's repository that has the part."""
        return next((place for place in self._repositories(part) if part.is_in(place)), None)

    def place(self, part: HubPart) -> Path:
        """Where a part is read from, or where it would be if it were there."""
        return part.within(self.find(part) or self.home(part))

    def home(self, part: HubPart) -> Path:
        """The repository's folder into which a user would put it."""
        if self.weights_dir is not None:
            return self.weights_dir / part.id
        if part.address is not None:
            return Path(constants.HF_HOME) / ADDRESSED / part.id
        return self._snapshots(part) / (part.revision or "main")

    def revision(self, part: HubPart) -> str | None:
        """The commit that a part's files are of, as they were fetched; null where nobody wrote it down."""
        repository = self.find(part)
        if repository is None:
            return None
        if repository.parent == self._snapshots(part):
            return repository.name
        try:
            return (repository / REVISION_FILE).read_text().strip() or None
        except OSError:
            return None

    def others(self, part: HubPart) -> list[str]:
        """Revisions in the cache that have the part and are not the one that is asked for."""
        return [place.name for place in self._cached(part) if part.is_in(place) and place.name != part.revision]

    def _repositories(self, part: HubPart) -> Iterator[Path]:
        if self.weights_dir is not None:
            yield self.weights_dir / part.id
        if part.address is not None:
            yield Path(constants.HF_HOME) / ADDRESSED / part.id
            return
        cached = self._cached(part)
        if part.revision is None:
            newest = self._newest(part)
            yield from sorted(cached, key=lambda place: (place.name != newest, -place.stat().st_mtime_ns))
        else:
            yield from (place for place in cached if place.name.startswith(part.revision))

    def _cached(self, part: HubPart) -> list[Path]:
        """Snapshots of a part's repository in the Hub's cache."""
        return sorted(path for path in self._snapshots(part).glob("*") if path.is_dir())

    def _snapshots(self, part: HubPart) -> Path:
        return Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=part.id, repo_type="model") / "snapshots"

    def _newest(self, part: HubPart) -> str | None:
        """The commit that the cache last knew as the newest."""
        try:
            return (self._snapshots(part).parent / "refs" / "main").read_text().strip() or None
        except OSError:
            return None


def named(parts: Sequence[HubPart]) -> str:
    """Parts as a message names them, those of one repository together: "Intel/dpt-hybrid-midas (490 MB, revision
    11eaf7a1)"."""
    repositories: dict[tuple[str, str | None], list[HubPart]] = {}
    for part in parts:
        repositories.setdefault((part.id, part.revision), []).append(part)
    said = []
    for (name, revision), own in repositories.items():
        folders, size = " ".join(each.folder for each in own if each.folder), sum(each.size for each in own)
        about = own[0].address or (f"revision {revision[:8]}" if revision else "newest revision")
        said.append(f"{name} ({', '.join([*filter(None, [folders]), *([megabytes(size)] if size else []), about])})")
    return ", ".join(said)


def megabytes(size: int) -> str:
    """A size as messages say it: "723 MB", "3.4 GB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
