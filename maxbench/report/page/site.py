"""The folder of a report: what lies in it, and how it gets there so that no half page is ever shown.

    maxbench-report.json   by which the folder is known as ours
    index.html             the page; refers to one build
    page-<digits>/         a build: scripts, style, data
    files/                 pictures, shared by builds

A build is written beside the last one, then index.html is replaced, then the last build is removed: whoever stops
this leaves the page as it was.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import altair
import itables
import jinja2
import vl_convert

from maxbench.errors import UserError
from maxbench.report.page.pictures import FILES, Pictures
from maxbench.store.files import STRAY_SECONDS, age, read_sealed, seal, sweep, write_atomically

MARK, INDEX, BUILD = "maxbench-report.json", "index.html", "page-"
STYLE, SCRIPT = "page.css", "page.js"
TABLES, PLOTS = "tables.js", "plots.js"
"""Third-party scripts, out of the installed packages: DataTables from itables, Vega from vl-convert."""


@dataclass(frozen=True)
class Site:
    """The folder of a report, while a build is written."""

    folder: Path
    build: str
    pictures: Pictures = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Site:
        """A new build in a folder that is empty, new, or a report of ours; UserError for any other, untouched."""
        mark = folder / MARK
        try:
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is a file; give --output another folder.")
            if folder.exists() and not mark.is_file() and any(not _is_stray(each) for each in folder.iterdir()):
                raise UserError(
                    f"{folder} holds something else than a report of maxbench; give --output a new or an empty folder."
                )
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
            if not mark.is_file():
                write_atomically(mark, seal({"report": ""}))
        except OSError as error:
            raise UserError(
                f"Cannot write to {folder}: {error.strerror or error}; give --output a folder you can write to."
            ) from error
        sweep(folder)
        return cls(folder, f"{BUILD}{secrets.token_hex(4)}", Pictures(folder))

    def data(self, name: str, value: Any) -> None:
        """A part of the data, as a script that hands it to the page."""
        said = json.dumps(value, separators=(",", ":"), allow_nan=False)
        self._write(f"data/{name}.js", f"maxbench.put({json.dumps(name)},{said});\n")

    def finish(self, context: Mapping[str, Any]) -> Path:
        """Write what is left and let the page be this build; returns index.html."""
        own = resources.files(__package__)
        self._write(STYLE, own.joinpath(STYLE).read_text("utf-8"))
        self._write(SCRIPT, own.joinpath(SCRIPT).read_text("utf-8"))
        self._write("tables.css", _bundle(".css"))
        self._write(TABLES, f"maxbench.put('tables',{json.dumps(_bundle('.js'))});\n")
        self._write(PLOTS, _vega())
        index = self.folder / INDEX
        write_atomically(index, rendered({**context, "build": self.build}))
        before = read_sealed(self.folder / MARK)
        write_atomically(self.folder / MARK, seal({"report": self.build}))
        self._remove_others(before.get("report") if isinstance(before, dict) else None)
        self.pictures.sweep()
        return index

    def abandon(self) -> None:
        """Remove what was written of a build that will not be finished; pictures stay for the next one."""
        shutil.rmtree(self.folder / self.build, ignore_errors=True)
        if not any((self.folder / each).exists() for each in (INDEX, FILES)):
            with contextlib.suppress(OSError):
                (self.folder / MARK).unlink()
                self.folder.rmdir()

    def _write(self, file: str, content: str) -> None:
        write_atomically(self.folder / self.build / file, content)

    def _remove_others(self, last: str | None) -> None:
        """The last build, and those that a killed process has left; what another process writes now stays."""
        for path in self.folder.glob(f"{BUILD}*"):
            with contextlib.suppress(OSError):
                if path.name != self.build and (path.name == last or age(path) > STRAY_SECONDS):
                    shutil.rmtree(path)


def rendered(context: Mapping[str, Any]) -> str:
    """index.html; every text of a run is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template(INDEX).render(context)


@cache
def _vega() -> str:
    """Vega, with the version of Vega-Lite that Altair writes for."""
    bundle = vl_convert.javascript_bundle(vl_version=".".join(altair.SCHEMA_VERSION.split(".")[:2]))
    return f"(() => {{\n{bundle}\n}})();\n"  # its names are its own


def _bundle(suffix: str) -> str:
    """DataTables with its extensions, as itables installs it."""
    return resources.files(itables).joinpath("html", f"dt_bundle{suffix}").read_text("utf-8")


def _is_stray(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".partial")
