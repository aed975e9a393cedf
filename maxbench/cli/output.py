"""What a verb writes where its user says: whole or not at all, and in a sentence why not."""

from __future__ import annotations

import stat
from pathlib import Path

from maxbench.errors import UserError
from maxbench.store.files import write_atomically
from maxbench.store.runfolder import MARK


def output_file(path: Path) -> Path:
    """The file of --output; UserError for what is not written over: a folder, a device, a run's own file."""
    if run := next((each for each in path.absolute().parents if (each / MARK).is_file()), None):
        raise UserError(f"--output is {path}, which lies in the run {run}; name a file elsewhere.")
    try:
        mode = path.stat().st_mode
    except OSError:
        return path
    if not stat.S_ISREG(mode):
        what = "a folder; name a file in it" if stat.S_ISDIR(mode) else "no file; name another"
        raise UserError(f"--output is {path}, which is {what}.")
    return path


def output_folder(path: Path) -> Path:
    """The folder of --output; UserError where a file is in its place."""
    if path.exists() and not path.is_dir():
        raise UserError(f"--output is {path}, which is a file; name a folder.")
    return path


def write_output(path: Path, content: str) -> None:
    """Write a file of the user's; what stops that is a UserError, and nothing is left half written."""
    try:
        write_atomically(output_file(path), content)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); change that, or name another place with --output."
        ) from error
