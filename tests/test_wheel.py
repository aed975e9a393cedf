"""Packages and data are all in the wheel, and what is installed of it works far from a checkout."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tomllib
import venv
import zipfile
from glob import glob
from pathlib import Path

import pytest

from runs import LEFT_OUT

ROOT = Path(__file__).parents[1]
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]

TEN_LINES = """
import maxbench
from maxbench.fusion import MaxFusion
picture, prompt = maxbench.example(7)
pipe = maxbench.load("miniature", controls=["hed", "depth"], device="cpu")
maps = {name: maxbench.annotate(picture, name, pipe) for name in ("hed", "depth")}
made = pipe(prompt, maps, MaxFusion(delta=0.7), seed=0, decisions=True)
print(maxbench.score(made.images[0], maps, prompt, suite=pipe).to_string())
print(maxbench.__file__)
"""
UNFINISHED = ROOT / "maxbench" / "suites" / "weights" / "miniature-3"
"""Parts of the embedded suite's next version, as they are trained: for a checkout alone."""


def test_every_package_and_data_file_is_named_in_pyproject():
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "maxbench").rglob("*.py")}
    assert {*folders, "maxbench.conf"} == set(SETUPTOOLS["packages"])
    places = {
        name: ROOT / SETUPTOOLS["package-dir"].get(name, name.replace(".", "/")) for name in SETUPTOOLS["packages"]
    }
    packed = {
        path for name, patterns in SETUPTOOLS["package-data"].items() for each in patterns
        for path in map(Path, glob(str(places[name] / each), recursive=True)) if path.is_file()
    }  # fmt: skip
    needed = {
        path for folder in ("maxbench", "conf") for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
        and UNFINISHED not in path.parents
    }  # fmt: skip
    assert needed == packed, "name these in [tool.setuptools.package-data]"
    assert ROOT / "maxbench" / "py.typed" in packed and ROOT / "conf" / "main.yaml" in packed


@pytest.fixture(scope="session")
def wheel(tmp_path_factory) -> Path:
    """The wheel that is made of the source distribution, which is made of what is committed or could be."""
    place = tmp_path_factory.mktemp("wheel")
    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (place / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place / "source" / name)
    built = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(place / "dist"), str(place / "source")],
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout[-2000:] + built.stderr[-2000:]
    (found,) = (place / "dist").glob("*.whl")
    assert list((place / "dist").glob("*.tar.gz"))
    return found


@pytest.fixture(scope="session")
def python(wheel, tmp_path_factory) -> Path:
    """A fresh environment with the wheel in it; the large packages are those of this one."""
    place = tmp_path_factory.mktemp("installed")
    venv.create(place, with_pip=True)
    own = next((place / "lib").glob("python*/site-packages"))
    (own / "others.pth").write_text("\n".join(site.getsitepackages()))
    python = place / "bin" / "python"
    install = [python, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return python


def called(python: Path, folder: Path, *words: str) -> str:
    own = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [python, *words], cwd=folder, capture_output=True, text=True, env={**own, "OMP_NUM_THREADS": "2"}
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_the_wheel_has_what_the_checkout_has(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    own = {
        path for path in (ROOT / "maxbench").rglob("*")
        if path.is_file() and path.suffix != ".pyc" and UNFINISHED not in path.parents
    }  # fmt: skip
    conf = {f"maxbench/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    assert packed == {path.relative_to(ROOT).as_posix() for path in own} | conf


@pytest.mark.slow
def test_the_installed_package_runs_far_from_the_checkout(python, tmp_path):
    said = called(python, tmp_path, "-c", TEN_LINES)
    assert "hed_ssim" in said and str(ROOT) not in said
    left_out = (*LEFT_OUT, "maxfusion_published", "outputs_only", "average")
    words = [
        "experiment=hed_depth", "suite=miniature", "samples=2", "scenes=24", "pairing.reference=8", "sampler.steps=2",
        "metrics.resamples=100", "runtime.batch_size=2", *(f"~methods.{name}" for name in left_out), "data_dir=data",
        "output_dir=runs",
    ]  # fmt: skip
    said = called(python, tmp_path, "-m", "maxbench", "run", *words)
    assert "maxfusion" in said and str(ROOT) not in said
    assert "run folder" in called(python, tmp_path, "-m", "maxbench", "run", *words, "--dry-run")
    assert "hed_depth" in called(python, tmp_path, "-m", "maxbench", "tables")
