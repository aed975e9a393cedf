"""The house: who may import whom. Rooms are listed from the ground floor up."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import maxbench

PACKAGE = Path(maxbench.__file__).parent

ALLOWED = {
    "errors": set(),
    "names": set(),
    "seeds": set(),
    "progress": set(),
    "fusion": set(),
    "metrics": set(),
    "images": {"errors"},
    "store": {"maxbench", "errors", "progress"},
    "report": {"errors", "metrics", "progress", "store"},
    "tracking": {"progress", "report", "store"},
    "conditions": {"errors", "images", "metrics"},
    "data": {"errors", "images", "names", "progress", "seeds"},
    "models": {"conditions", "errors", "fusion", "names"},
    "miniature": {"conditions", "data", "errors", "images", "metrics", "models", "progress", "store"},
    "experiments": {"conditions", "data", "errors", "fusion", "seeds", "store"},
    "suites": {"conditions", "errors", "models", "names", "store"},
    "configuration": {"errors", "experiments", "fusion", "models", "names"},
    "generation": {
        "conditions", "data", "errors", "experiments", "fusion", "images", "models", "progress", "seeds", "store",
    },
    "evaluation": {
        "maxbench", "conditions", "data", "errors", "experiments", "generation", "images", "metrics", "progress",
        "store",
    },
    "bench": {
        "conditions", "errors", "experiments", "fusion", "generation", "images", "miniature", "models", "progress",
        "report", "seeds", "store",
    },
    "cli": {
        "maxbench", "bench", "configuration", "data", "errors", "evaluation", "experiments", "fusion", "generation",
        "miniature", "models", "names", "progress", "report", "seeds", "store", "suites", "tracking",
    },
    "api": {
        "conditions", "configuration", "errors", "evaluation", "experiments", "fusion", "generation", "images",
        "models", "seeds", "store", "suites",
    },
    "__main__": {"maxbench", "cli", "errors"},
}  # fmt: skip

# What a room must never load, itself or through what it imports, by the name of the foreign package.
FORBIDDEN = {
    "fusion": {"diffusers", "transformers", "numpy", "PIL", "hydra"},
    "seeds": {"diffusers", "transformers", "numpy", "PIL", "hydra"},
    "store": {"torchmetrics", "diffusers", "transformers", "hydra", "pandas"},
    "report": {"torch", "diffusers", "transformers", "hydra"},
    "tracking": {"torch", "diffusers", "transformers", "hydra"},
    "metrics": {"hydra", "diffusers", "transformers"},
    "data": {"torchmetrics", "diffusers", "transformers", "hydra", "pandas"},
    "experiments": {"diffusers", "transformers", "hydra", "pandas"},
    "evaluation": {"diffusers", "transformers", "hydra"},
    "models": {"hydra"},
    "generation": {"hydra"},
    "bench": {"hydra"},
}


WITHOUT_TORCH = (
    "__main__", "cli.bench", "cli.compare", "cli.list", "cli.paper", "cli.run", "cli.tables", "configuration.compose",
    "configuration.schema",
)  # fmt: skip


@cache
def imports(path):
    """Modules that a file imports when it is loaded: what stands inside functions and TYPE_CHECKING is left out."""
    return list(_imports(path))


def _imports(path):
    waiting = list(ast.parse(path.read_text()).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Try | ast.With | ast.ClassDef):
            waiting += node.body
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            waiting += node.body + node.orelse


def everywhere(path):
    """Modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            names = (f"maxbench.{alias.name}" for alias in node.names)
            yield from names if node.module == "maxbench" else [node.module]


def file_of(module):
    """The file of a module of ours; None for anything else, also for a name inside a module."""
    if module.split(".")[0] != "maxbench":
        return None
    place = PACKAGE.joinpath(*module.split(".")[1:])
    files = (place.with_suffix(".py"), place / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def loaded_with(path):
    """Foreign packages, by name, that loading a file loads: its own imports, and those of all of ours below it."""
    seen, waiting, foreign = set(), [path], set()
    while waiting:
        file = waiting.pop()
        if file in seen:
            continue
        seen.add(file)
        for module in imports(file):
            if module.split(".")[0] == "maxbench":
                parts = module.split(".")
                below = [file_of(".".join(parts[:count])) for count in range(2, len(parts) + 1)]
                waiting += [each for each in below if each is not None]
            else:
                foreign.add(module.split(".")[0])
    return foreign


def rooms():
    for path in sorted(PACKAGE.rglob("*.py")):
        place = path.relative_to(PACKAGE)
        if "conf" not in place.parts[:1] and place.name != "__init__.py":
            yield place.parts[0].removesuffix(".py"), path


def room_of(module):
    parts = module.split(".")
    return "maxbench" if len(parts) == 1 or parts[1].startswith("__version") else parts[1]


@pytest.mark.parametrize(("room", "path"), list(rooms()), ids=lambda value: str(getattr(value, "stem", value)))
def test_imports_go_downwards(room, path):
    assert room in ALLOWED, f"a new room '{room}': say in this test what it may import"
    for module in everywhere(path):
        if module.split(".")[0] == "maxbench" and room_of(module) != room:
            assert room_of(module) in ALLOWED[room], (
                f"{room} imports {module}: its floor allows {sorted(ALLOWED[room])}; move the code, not the wall"
            )
    heavy = loaded_with(path) & FORBIDDEN.get(room, set())
    assert not heavy, f"loading {path.relative_to(PACKAGE)} loads {sorted(heavy)}, which {room} must not know"


def test_there_are_no_circles():
    done = set()
    for room, below in ALLOWED.items():
        higher = {each for each in below if each != "maxbench" and each not in done}
        assert not higher, f"{room} is listed below {higher}, which it imports"
        done.add(room)


def test_members_of_a_folder_know_only_its_base():
    own = {  # what an application falls back on, what a condition has, a part, and what all pages of a report share:
        "maxbench.fusion.plain", "maxbench.conditions.ruler", "maxbench.suites.hub",
        # a run's files and pictures, names of layers, how columns are named, how a table is written, who wins,
        # what of many differences is shown
        "maxbench.report.runs", "maxbench.report.columns", "maxbench.report.formats", "maxbench.report.winner",
        "maxbench.report.tables", "maxbench.report.verdicts", "maxbench.report.pictures", "maxbench.report.layers",
    }  # fmt: skip
    for folder in ("conditions", "fusion", "report", "suites"):
        for path in (PACKAGE / folder).glob("[!_]*.py"):
            for module in everywhere(path):
                if module.startswith(f"maxbench.{folder}.") and module not in own:
                    assert module == f"maxbench.{folder}.base", f"{path.name} imports its neighbour {module}"


def test_one_file_alone_names_wandb():
    naming = {path for _, path in rooms() if "wandb" in {name.split(".")[0] for name in everywhere(path)}}
    assert naming == {PACKAGE / "tracking" / "wandb_run.py"}
    loading = [path for _, path in rooms() if path not in naming and {"wandb", "optuna"} & loaded_with(path)]
    assert not loading, f"wandb and optuna are loaded where they are used, and not with {loading}"


def test_the_scorer_loads_no_diffusion_pipeline():
    """What the static test says, said by Python itself."""
    check = "import sys, maxbench.evaluation.runner; print([m for m in ('diffusers', 'hydra') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("module", WITHOUT_TORCH)
def test_a_command_is_read_before_torch_is_loaded(module):
    assert "torch" not in loaded_with(PACKAGE.joinpath(*module.split(".")).with_suffix(".py"))


SLOW_TO_IMPORT = {"diffusers", "transformers", "torchvision", "torchmetrics", "matplotlib"}


@pytest.mark.parametrize("module", ["cli.perform", "miniature.readers", "suites.scorers", "models.image_prompt"])
def test_a_run_that_makes_nothing_waits_for_no_library(module):
    """They take seconds: a finished run is shown in less. What it loads as it goes is tested in cli/test_run.py."""
    assert not SLOW_TO_IMPORT & loaded_with(PACKAGE.joinpath(*module.split(".")).with_suffix(".py"))


@pytest.mark.processes
def test_what_loads_late_is_there_when_it_is_asked_for():
    check = (
        "import copy, pickle, sys\n"
        "from maxbench.models.libraries import diffusers, transformers\n"
        "diffusers = pickle.loads(pickle.dumps(copy.deepcopy(diffusers)))\n"
        "print('diffusers' in sys.modules, 'transformers' in sys.modules)\n"
        "print(diffusers.UNet2DConditionModel.__name__, transformers.CLIPTextModel.__name__)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False", "UNet2DConditionModel", "CLIPTextModel"]
