"""`data weights`: what an experiment needs is fetched and nothing else, from a Hub on this machine."""

import pytest

from maxbench.__main__ import main
from maxbench.configuration.compose import compose, hydra_on, plain
from maxbench.suites.hub import HubPart
from suites.hub_server import Repositories, ask, serving
from suites.replica import write_replica


@pytest.fixture(scope="module")
def parts():
    with hydra_on() as hydra:
        hub = plain(compose(hydra, ["suite=sd15", "experiment=hed_depth"]))["suite"]["hub"]
    return {name: HubPart(**entry) for name, entry in hub.items()}


@pytest.fixture(scope="module")
def hub(parts, tmp_path_factory):
    """Every repository of the suite, at the commits that it asks for."""
    folder = write_replica(tmp_path_factory.mktemp("published"), parts)
    files, commits = {}, {}
    for part in parts.values():
        if part.address is None:
            root = folder / part.id
            files[part.id] = {
                str(file.relative_to(root)): file.read_bytes() for file in root.rglob("*") if file.is_file()
            }
            files[part.id]["README.md"] = b"not asked for"
            commits[part.id] = part.revision.ljust(40, "0")
    return Repositories(files, commits)


@pytest.fixture
def command(hub, tmp_path, monkeypatch, capsys):
    """The command on this Hub and a cache of its own: code, output and errors."""
    with serving(hub) as address:
        hub.asked.clear()
        monkeypatch.chdir(tmp_path)

        def run(*words, endpoint=address, offline=False):
            ask(monkeypatch, endpoint, tmp_path / "home" / "hub", offline)
            capsys.readouterr()
            code = main(["data", "weights", *words])
            return code, *capsys.readouterr()

        yield run


LEAVE = ["~suite.features.inception", "suite.hub.hed_annotator.sha256=null"]  # what is not in small


def test_an_experiment_s_parts_are_fetched_listed_and_found_again(command, hub, parts, tmp_path, capsys):
    words = ["suite=sd15", "experiment=hed_depth", f"suite.weights_dir={tmp_path / 'weights'}", *LEAVE]
    code, said, _ = command(*words, "--list")
    assert code == 1 and "parts are missing in" in said and not hub.asked
    code, said, error = command(*words)
    assert code == 0, error
    asked = {repository for repository, _, _ in hub.asked}
    needed = {
        "unet", "controlnet_hed", "controlnet_depth", "depth_annotator", "depth_scorer", "hed_annotator", "clip",
        "dinov2", "cmmd",
    }  # fmt: skip
    assert asked == {parts[name].id for name in needed}
    assert not any(name.endswith("README.md") for _, name, _ in hub.asked)
    assert "MB" in said and "free" in said and "everything is there" in said
    count = len(hub.asked)
    code, said, _ = command(*words)
    assert code == 0 and "everything is there" in said and len(hub.asked) == count
    assert command(*words, "--list")[0] == 0
    main(["doctor"])
    said = capsys.readouterr().out
    assert "data weights suite=sd15" in said and "not pinned: t2iadapter_depth" in said


def test_a_short_revision_is_resolved_when_it_is_fetched(command, tmp_path):
    words = ["suite=sd15", "experiment=adapters_canny_depth", *LEAVE]
    code, said, error = command(*words)
    assert code == 0, error
    code, said, _ = command(*words, "--list")
    line = next(each for each in said.splitlines() if each.startswith("t2iadapter_depth"))
    assert code == 0 and "9f965180, not pinned" in line  # the whole commit of this Hub begins so
    assert any((tmp_path / "home" / "hub").glob("models--TencentARC--t2iadapter_depth_sd15v2/snapshots/9f96518000*"))


MISTAKES = [
    ([], {}, "Say which suite's weights: suite=sd15"),
    (["suite=miniature"], {}, "The suite 'miniature' fetches nothing: its weights lie in"),
    (["suite=sd16"], {}, "There is no suite 'sd16'; did you mean 'sd15'?"),
    (["suite=sd15", "experiment=none"], {}, "There is no experiment 'none'"),
    (["suite=sd15", "--all"], {}, "--all"),
    (["suite=sd15", "experiment=hed_depth", *LEAVE], {"offline": True}, "HF_HUB_OFFLINE is set"),
    (["suite=sd15", "experiment=hed_depth", *LEAVE], {"endpoint": "http://127.0.0.1:9"}, "cannot be fetched"),
    (["suite=sd15", "suite.hub.unet.revision='1234567'", *LEAVE], {}, "has no revision 1234567"),
    (["suite=sd15", "suite.hub.clip.id=openai/none", *LEAVE], {}, "The Hub has no openai/none"),
    (["suite=sd15", "suite.weights_dir=/proc/none", *LEAVE], {}, "/proc"),
]


@pytest.mark.parametrize(("words", "how", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence(command, words, how, sentence):
    code, _, error = command(*words, **how)
    assert code == 2, error
    last = error.strip().splitlines()[-1]
    assert last.startswith("maxbench: ") and sentence in last


def test_help_needs_nothing(command):
    code, said, _ = command("--help")
    assert code == 0 and "suite.weights_dir=DIR" in said
