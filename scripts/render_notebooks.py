"""Execute the notebooks and render each as a page beside its source, from a clean commit.

    python scripts/render_notebooks.py                 # all of them
    python scripts/render_notebooks.py first_look      # some of them

A page says of which commit it is, when and with what it was made, and of which source.
"""

import argparse
import base64
import hashlib
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jinja2 import Template
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from PIL import Image
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
COLOURS = 256  # of a figure's picture; figures have few, and a page is a third as large

PAGE = Template(
    """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; color: #222; }
h1, h2 { line-height: 1.2; }
a.anchor-link { display: none; }
pre { font: 13px/1.45 monospace; padding: 0.6rem 0.8rem; overflow-x: auto; margin: 0.4rem 0; }
.highlight pre { background: #f6f7f8; border: 1px solid #e3e5e8; border-radius: 3px; }
img { max-width: 100%; height: auto; }
table { border: 0; border-collapse: collapse; font-size: 14px; margin: 0.4rem 0; display: block; overflow-x: auto; }
th, td { border: 0; padding: 0.2rem 0.7rem; border-bottom: 1px solid #e3e5e8; text-align: right; }
footer { margin-top: 3rem; font-size: 13px; color: #555; border-top: 1px solid #ccc; padding-top: 0.6rem; }
{{ highlighting }}
</style>
</head>
<body>
{{ body }}
<footer>
Rendered {{ date }} from commit <code>{{ commit }}</code>, source <code>{{ source }}</code> (SHA-256
<code>{{ digest }}</code>), with {{ versions }}, by <code>python scripts/render_notebooks.py</code>.
</footer>
</body>
</html>
"""
)


def read(path: Path, parameters: Mapping[str, Any] | None = None) -> nbformat.NotebookNode:
    """A notebook from its source; parameters: set after its own, which are in the cell with that tag."""
    notebook = jupytext.read(path)
    if parameters:
        (place,) = (at for at, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ()))
        lines = "\n".join(f"{name} = {value!r}" for name, value in parameters.items())
        notebook.cells.insert(place + 1, nbformat.v4.new_code_cell(lines))
    return notebook


def execute(notebook: nbformat.NotebookNode, folder: Path, timeout: int = 900) -> None:
    """Run every cell, in a folder for what it writes; the first error is raised with its cell."""
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    )
    client.execute(env={**os.environ, "PYTHONWARNINGS": "ignore:IProgress"})  # tqdm's, of a widget that pages have not


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def page(notebook: nbformat.NotebookNode, path: Path, commit: str) -> str:
    """An executed notebook as one file without scripts, which loads nothing."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = base64.b64encode(smaller(base64.b64decode(data["image/png"]))).decode()
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True, exclude_output_prompt=True)
    body, _ = exporter.from_notebook_node(notebook)
    packages = ("torch", "diffusers", "transformers", "numpy", "pandas", "matplotlib")
    return PAGE.render(
        title=escape(notebook.cells[0].source.splitlines()[0].lstrip("# ")),
        highlighting=HtmlFormatter().get_style_defs(".highlight"),
        body="\n".join(line.rstrip() for line in body.splitlines()),
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        commit=commit,
        source=f"notebooks/{path.name}",
        digest=digest(path),
        versions=", ".join([f"maxbench {version('maxbench')}", f"Python {sys.version.split()[0]}",
                            *(f"{name} {version(name)}" for name in packages)]),
    )  # fmt: skip


def smaller(png: bytes) -> bytes:
    """A picture with few colours, if that is smaller."""
    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "PNG", optimize=True)
    return min(png, buffer.getvalue(), key=len)


def clean_commit() -> str:
    """The commit that the working tree is of; pages themselves may differ."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    changed = [line[3:] for line in git("status", "--porcelain", "--untracked-files=all").splitlines()]
    others = [name for name in changed if not (name.startswith("notebooks/") and name.endswith(".html"))]
    if others:
        raise SystemExit(f"{', '.join(others[:5])} differ from the last commit; commit or remove them first.")
    return git("rev-parse", "--short=12", "HEAD").strip()


def main(arguments: Sequence[str] | None = None) -> int:
    names = [path.stem for path in sorted(NOTEBOOKS.glob("*.py"))]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name", nargs="*", help=f"of {', '.join(names)}; all unless said")
    chosen = parser.parse_args(arguments).name or names
    for name in chosen:
        if name not in names:
            parser.error(f"there is no notebook {name}; there are {', '.join(names)}")
    commit = clean_commit()
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    for name in chosen:
        path = NOTEBOOKS / f"{name}.py"
        notebook = read(path)
        with tempfile.TemporaryDirectory() as folder:
            execute(notebook, Path(folder))
        made = path.with_suffix(".html")
        made.write_text(page(notebook, path, commit), encoding="utf-8")
        print(f"{made.relative_to(ROOT)}: {made.stat().st_size / 1000:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
