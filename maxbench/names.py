"""Names in files and settings that become paths below a folder of ours."""

from __future__ import annotations

from pathlib import PureWindowsPath


def leaves_folder(name: str) -> bool:
    """Whether a relative path could lead out of the folder that it is joined to: absolute, or with a part `..`.

    Both separators count on every system, so that a data set means the same wherever it is read.
    """
    return bool(PureWindowsPath(name).anchor) or ".." in PureWindowsPath(name).parts or "\0" in name
