"""A command that names no suite: Stable Diffusion where all of it is there, else the miniature; never in silence."""

import pytest
import torch

from data.photographs import write_photographs
from maxbench.configuration import choice
from maxbench.configuration.compose import MAIN, compose, hydra_on, plain
from maxbench.suites.hub import HubPart
from suites.replica import write_replica

WORDS = ["experiment=hed_depth"]


@pytest.fixture(scope="module")
def there(tmp_path_factory):
    """Settings of a machine that has the weights and the pictures."""
    folder = tmp_path_factory.mktemp("there")
    with hydra_on() as hydra:
        parts = plain(compose(hydra, ["suite=sd15", *WORDS]))["suite"]["hub"]
    write_replica(folder / "weights", {name: HubPart(**entry) for name, entry in parts.items()})
    write_photographs(folder / "data" / "coco")
    return [f"+suite.weights_dir={folder / 'weights'}", f"data_dir={folder / 'data'}"]


def card(monkeypatch, visible: bool, driver: bool = True):
    monkeypatch.setattr(choice, "DRIVERS", ("/dev/null",) if driver else ("/dev/none",))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: visible)


def chosen(words) -> str:
    with hydra_on() as hydra:
        (last,) = [each for each in choice.with_suite(hydra, words, MAIN) if each.startswith("suite=")]
    return last.removeprefix("suite=")


def test_stable_diffusion_is_taken_where_a_card_its_weights_and_coco_are_there(there, monkeypatch):
    card(monkeypatch, visible=True)
    weights, data = there[0].lstrip("+"), there[1]
    assert chosen([*WORDS, weights, data]) == "sd15"
    assert chosen([*WORDS, data]) == "miniature"  # no weights
    assert chosen([*WORDS, weights, "data_dir=/none"]) == "miniature"  # no pictures
    assert chosen([*WORDS, weights, data, "suite=miniature"]) == "miniature"
    card(monkeypatch, visible=False)
    assert chosen([*WORDS, weights, data]) == "miniature"
    card(monkeypatch, visible=True, driver=False)
    assert chosen([*WORDS, weights, data]) == "miniature"


def test_a_mistake_is_said_as_ever(monkeypatch):
    card(monkeypatch, visible=True)
    assert chosen(["experiment=none"]) == "miniature"
    assert chosen([*WORDS, "data.count=24"]) == "miniature"  # a setting of the miniature's pictures alone


def test_torch_is_not_loaded_without_a_card(monkeypatch):
    card(monkeypatch, visible=True, driver=False)
    monkeypatch.setattr(choice, "_has_weights", lambda *each: pytest.fail("weights were looked for"))
    assert chosen(WORDS) == "miniature"
