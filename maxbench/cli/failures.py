"""What went wrong, in one sentence that says what to do; whatever it was."""

from __future__ import annotations

import errno
import sys

from maxbench.errors import Incomplete, UserError

AGAIN = "then run the same command again: what is finished is kept"
REMEDIES = {
    errno.ENOSPC: ("no space is left on the disk", f"free some or set output_dir= to another disk, {AGAIN}"),
    errno.EDQUOT: ("the disk quota is used up", f"free some or set output_dir= to another disk, {AGAIN}"),
    errno.EROFS: ("the disk is read-only", "set output_dir=, store_dir= and data_dir= to folders that can be written"),
    errno.EACCES: ("permission is denied", "change its permissions, or set output_dir= or data_dir= to another folder"),
    errno.EPERM: ("permission is denied", "change its permissions, or set output_dir= or data_dir= to another folder"),
    errno.EMFILE: ("too many files are open", f"raise the limit with `ulimit -n 4096`, {AGAIN}"),
    errno.ENFILE: ("too many files are open on this machine", f"close other programs, {AGAIN}"),
    errno.EFBIG: ("the file is larger than is allowed here", f"raise the limit with `ulimit -f unlimited`, {AGAIN}"),
    errno.ENAMETOOLONG: ("a name is too long for this disk", "shorten name=, a method or output_dir="),
    errno.EIO: ("the disk failed", f"check the disk or set output_dir= to another, {AGAIN}"),
    errno.ENOTDIR: ("a file is where a folder is needed", "move the file away or set output_dir= to another folder"),
    errno.EISDIR: ("a folder is where a file is needed", f"move the folder away, {AGAIN}"),
    errno.EEXIST: ("something is there already", "move it away or set output_dir= to another folder"),
    errno.ENOTEMPTY: ("a folder is not empty", f"move it away, {AGAIN}"),
    errno.ESTALE: ("the network disk was lost", f"mount it again, {AGAIN}"),
}  # fmt: skip
"""Errors of the disk that a user can end: what is wrong, and what to do."""


def explain(error: BaseException) -> tuple[str, int]:
    """A sentence for an error, and the exit code: 2 for what a user can end, 1 for a mistake of the program."""
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, Incomplete):
        return str(error), 1
    if type(error).__name__ == "OutOfMemoryError":  # torch's, which is not imported for this
        return "The accelerator's memory is full; lower runtime.batch_size, or free memory that others use.", 2
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "The memory is full; lower runtime.batch_size, samples or metrics.resamples.", 2
    if isinstance(error, OSError) and error.errno in REMEDIES:
        wrong, remedy = REMEDIES[error.errno]
        where = f"{error.filename2 or error.filename}: " if error.filename else ""
        return f"{where}{wrong}; {remedy}.", 2
    said = " ".join(str(error).split())
    return f"failed: {type(error).__name__}: {said}; run again with --debug for the traceback", 1


def say_failure(error: BaseException) -> int:
    """Print the sentence of an error; returns the exit code."""
    sentence, code = explain(error)
    colon = "" if sentence.startswith("failed: ") else ":"
    print(f"maxbench{colon} {sentence}", file=sys.stderr, flush=True)
    return code
