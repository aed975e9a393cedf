"""What this machine can run, as a table."""

from __future__ import annotations

import importlib.util
import netrc
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from maxbench import __version__
from maxbench.cli import data
from maxbench.configuration.compose import CONF
from maxbench.report.tables import plain_table
from maxbench.store.stamp import PACKAGES, package_version
from maxbench.suites.folder import FolderSuite
from maxbench.suites.hub import megabytes

GIB = 2**30


def report(output_dir: str, data_dir: str) -> int:
    """`maxbench doctor`: print what is there and what is missing; 0 if the default experiment can run, else 1."""
    suites = dict(_suites())
    rows = [
        ["maxbench", __version__],
        ["python", platform.python_version()],
        *([name, package_version(name) or "missing: pip install -e ."] for name in PACKAGES),
        ["processor", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_memory()}"],
        ["bfloat16", slow_dtype("bfloat16", "cpu") or "no obstacle known on this processor"],
        *_accelerators(),
        *([f"suite {name}", _weights(suite)] for name, suite in suites.items()),
        *([f"data {path.name}", data.state(path)] for path in data.prepared(data_dir)),
        ["data miniature", "rendered on first use, about 4 MB"],
        [f"disk for {output_dir}/", _disk(output_dir)],
        ["W&B", _wandb()],
    ]
    print(plain_table(["what", "found"], rows))
    ready = [name for name, suite in suites.items() if not suite.missing(list(suite.controls))]
    missing = [name for name in PACKAGES if package_version(name) is None]
    if ready and not missing:
        print("\nready: python -m maxbench run experiment=hed_depth")
        return 0
    print("\nnot ready: see 'missing' above")
    return 1


FLAGS = {
    "bfloat16": {"avx512_bf16", "amx_bf16", "bf16", "svebf16"},
    "float16": {"avx512_fp16", "amx_fp16", "fphp", "asimdhp"},
}
"""What processors with instructions for a dtype have, as Linux names it, on x86 and on Arm."""


def slow_dtype(dtype: str, device: str) -> str | None:
    """A sentence where a run's dtype is slow on its device; None where it is not, or where that cannot be known.

    Numbers of 16 bits are converted one by one on a processor without instructions for them: about fifty times slower
    than float32 here.
    """
    if dtype not in FLAGS or not device.startswith("cpu"):
        return None
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return None
    if flags & FLAGS[dtype]:
        return None
    return (
        f"this processor has no instructions for {dtype}, which is about fifty times slower on it than float32; "
        "set runtime.dtype=float32"
    )


def _suites() -> Iterator[tuple[str, FolderSuite]]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for path in sorted((CONF / "suite").glob("*.yaml")):
            cfg = compose("main", [f"suite={path.stem}", "experiment=hed_depth"])
            yield path.stem, instantiate(cfg.suite, _convert_="all")


def _weights(suite: FolderSuite) -> str:
    return _published(suite) if suite.published else _subfolders(suite)


def _published(suite: FolderSuite) -> str:
    """How many parts are there, which are missing, and which have no certain revision."""
    absent = [name for name, part in suite.published.items() if suite.shelf.find(part) is None]
    unpinned = [name for name, part in suite.published.items() if not part.is_pinned]
    size = megabytes(sum(suite.published[name].size for name in absent))
    many = f"all {len(absent)} parts" if len(absent) == len(suite.published) else ", ".join(absent)
    said = (
        f"missing: {many}, {size}: python -m maxbench data weights suite={suite.name}" if absent else "weights present"
    )
    return f"{said}; not pinned: {', '.join(unpinned)}" if unpinned else said


def _subfolders(suite: FolderSuite) -> str:
    missing = suite.missing(list(suite.controls))
    if missing:
        names = ", ".join(str(path.relative_to(suite.folder)) for path in missing)
        return f"missing under {suite.folder}: {names} ({suite.megabytes} MB in all)"
    parts = set(suite.parts(list(suite.controls)))
    size = sum(file.stat().st_size for part in parts for file in suite.weight_files(part))
    return f"weights present, {size / 1e6:.0f} MB, controls {', '.join(suite.controls)}"


def _memory() -> str:
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / GIB:.0f} GiB memory"
    except (ValueError, OSError):
        return "memory unknown"


def _accelerators() -> Iterator[list[str]]:
    if not torch.cuda.is_available():
        yield ["CUDA", "none visible; the miniature suite runs on the processor"]
    for number in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(number)
        yield [
            f"cuda:{number}",
            f"{torch.cuda.get_device_name(number)}, {free / GIB:.0f} of {total / GIB:.0f} GiB free",
        ]


def _disk(output_dir: str) -> str:
    place = Path(output_dir).absolute()
    try:
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            return f"{place} is a file: set output_dir="
        writable = "" if os.access(place, os.W_OK) else ", not writable: set output_dir="
        return f"{shutil.disk_usage(place).free / GIB:.0f} GiB free{writable}"
    except OSError as error:
        return f"{place} cannot be read ({error.strerror}): set output_dir="


def _wandb() -> str:
    """Whether Weights & Biases could be used; nothing is sent and no network is touched."""
    if importlib.util.find_spec("wandb") is None:
        return "not installed (optional)"
    if os.environ.get("WANDB_API_KEY"):
        return "logged in by WANDB_API_KEY"
    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        hosts = {}
    return "logged in" if any("wandb" in host for host in hosts) else "not logged in (optional): wandb login"
