"""Parts are fetched from a Hub on this machine: whole, verified, resumed, and found again."""

import hashlib
import os
import shutil
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants as constants
import pytest

from maxbench.errors import UserError
from maxbench.suites.fetch import fetch, look_up, require_space
from maxbench.suites.hub import HubPart, Shelf
from suites.hub_server import Repositories, ask, serving

COMMIT = "c0ffee" + "0" * 34
WEIGHTS = os.urandom(3_000_000)
NET = HubPart("org/net", COMMIT, file="model.safetensors", bytes=len(WEIGHTS), beside=["config.json"])
INNER = HubPart("org/base", None, folder="unet", file="w.safetensors", beside=["config.json"])
WORDS = HubPart("org/base", "beef000", folder="tokenizer", beside=["vocab.json"])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    files = {
        "org/net": {"model.safetensors": WEIGHTS, "config.json": b"{}", "other.bin": b"not asked for"},
        "org/base": {"unet/w.safetensors": b"weights", "unet/config.json": b"[1]", "tokenizer/vocab.json": b"[2]"},
    }
    repositories = Repositories(files, {"org/net": COMMIT, "org/base": "beef" + "0" * 36})
    cache = tmp_path / "cache"
    with serving(repositories) as address:
        ask(monkeypatch, address, cache)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100_000)
        yield repositories


def shelves(tmp_path):
    return [Shelf(tmp_path / "weights"), Shelf()]


def test_what_is_asked_for_is_fetched_and_nothing_else(hub, tmp_path):
    for shelf in shelves(tmp_path):
        hub.asked.clear()
        parts = [NET, INNER, WORDS]
        assert all(shelf.find(part) is None for part in parts)
        wanted = look_up(parts)
        assert [each.name for each in wanted] == [
            "model.safetensors", "config.json", "unet/w.safetensors", "unet/config.json", "tokenizer/vocab.json",
        ]  # fmt: skip
        assert wanted[0].size == len(WEIGHTS) and wanted[0].sha256 == hashlib.sha256(WEIGHTS).hexdigest()
        assert require_space(wanted, shelf) > 0
        fetch(wanted, shelf)
        assert sorted(name for _, name, _ in hub.asked) == sorted(each.name for each in wanted)
        assert (shelf.place(NET) / "model.safetensors").read_bytes() == WEIGHTS
        assert (shelf.place(INNER) / "w.safetensors").read_bytes() == b"weights"
        assert [shelf.revision(part) for part in parts] == [COMMIT, *["beef" + "0" * 36] * 2]
        fetch(wanted, shelf)
        assert len(hub.asked) == len(wanted)  # found again


def test_parts_lie_where_a_user_put_them_and_the_folder_comes_first(hub, tmp_path):
    fetch(look_up([NET]), Shelf())
    shelf = Shelf(tmp_path / "weights")
    assert shelf.place(NET) == Shelf().place(NET)  # in the cache
    shutil.copytree(Shelf().place(NET), tmp_path / "weights" / "org" / "net")
    assert shelf.place(NET) == tmp_path / "weights" / "org" / "net"
    assert shelf.revision(NET) is None  # put there by hand
    assert Shelf(tmp_path / "elsewhere").home(NET) == tmp_path / "elsewhere" / "org" / "net"


def test_another_revision_of_the_cache_is_not_taken_but_named(hub):
    fetch(look_up([NET]), Shelf())
    other = replace(NET, revision="abc" + "0" * 37)
    assert Shelf().find(other) is None
    assert Shelf().others(other) == [COMMIT]
    assert Shelf().find(replace(NET, revision=COMMIT[:7])) is not None


def test_a_transfer_that_breaks_off_goes_on_where_it_was(hub, tmp_path):
    for shelf in shelves(tmp_path):
        hub.asked.clear()
        hub.cut["model.safetensors"] = 2_000_000
        wanted = look_up([NET])
        try:
            fetch(wanted, shelf)  # the library may try again by itself
        except UserError as error:
            assert "what has come is kept: run the same command again" in str(error)
            assert shelf.find(NET) is None
            fetch(wanted, shelf)
        assert (shelf.place(NET) / "model.safetensors").read_bytes() == WEIGHTS
        ranges = [given for _, name, given in hub.asked if name == "model.safetensors"]
        assert len(ranges) == 2 and ranges[0] is None and ranges[1] not in (None, "bytes=0-")


def test_content_that_is_not_what_was_announced_is_removed(hub, tmp_path):
    for shelf in shelves(tmp_path):
        hub.damaged.add("model.safetensors")
        wanted = look_up([NET])
        with pytest.raises(UserError, match=r"model\.safetensors is not what its SHA-256 says; it was removed"):
            fetch(wanted, shelf)
        hub.damaged.clear()
        fetch(wanted, shelf)
        assert (shelf.place(NET) / "model.safetensors").read_bytes() == WEIGHTS


def test_a_user_s_own_file_is_neither_fetched_over_nor_given_a_commit(hub, tmp_path):
    shelf = Shelf(tmp_path / "weights")
    own = shelf.home(NET) / "config.json"
    own.parent.mkdir(parents=True)
    own.write_bytes(b'{"own": 1}')
    fetch(look_up([NET]), shelf)
    assert own.read_bytes() == b'{"own": 1}' and (own.parent / "model.safetensors").read_bytes() == WEIGHTS
    assert shelf.revision(NET) is None
    own.write_bytes(b'{"own": ')  # damaged: of no use to anybody
    fetch(look_up([NET]), shelf)
    assert own.read_bytes() == b"{}"


def test_a_digest_that_is_known_beforehand_is_held_to(hub):
    with pytest.raises(UserError, match="SHA-256"):
        fetch(look_up([replace(NET, sha256="0" * 64)]), Shelf())


MISTAKES = [
    (replace(NET, id="org/none"), r"The Hub has no org/none, or does not show it"),
    (replace(NET, revision="1234567"), r"org/net has no revision 1234567"),
    (replace(NET, file="none.safetensors"), r"has no file none\.safetensors at revision c0ffee00"),
]


@pytest.mark.parametrize(("part", "sentence"), MISTAKES)
def test_what_the_hub_does_not_have_is_one_sentence(hub, part, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        look_up([part])
    assert "\n" not in str(caught.value)


def test_conditions_that_are_not_accepted_and_no_network_are_said(hub, monkeypatch):
    hub.gated.add("org/net")
    with pytest.raises(UserError, match=r"asks for its conditions to be accepted at http://.*/org/net"):
        look_up([NET])
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set, so org/net is not fetched"):
        look_up([NET])


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10**6})())
    with pytest.raises(UserError, match=r"3 MB are to be fetched, but .* has 1 MB free; make room"):
        require_space(look_up([NET]), Shelf(tmp_path / "weights"))
    assert not hub.asked


def test_a_file_that_is_published_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    source = tmp_path / "net.pt"
    source.write_bytes(b"network")
    digest = hashlib.sha256(b"network").hexdigest()
    part = HubPart("maker/net", file="net.pt", address=source.as_uri(), sha256=digest)
    for shelf in (Shelf(tmp_path / "weights"), Shelf()):
        assert shelf.find(part) is None and part.is_pinned
        fetch(look_up([part]), shelf)
        assert (shelf.place(part) / "net.pt").read_bytes() == b"network"
    with pytest.raises(UserError, match=r"cannot be fetched \(.*invalid hash.*; run the same command again"):
        fetch(look_up([replace(part, id="maker/other", sha256="0" * 64)]), Shelf())
    with pytest.raises(UserError, match="cannot be fetched"):
        fetch(look_up([replace(part, id="maker/none", address=(tmp_path / "none").as_uri())]), Shelf())
    assert not (tmp_path / "home" / "maxbench" / "maker" / "other" / "net.pt").exists()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch(look_up([replace(part, id="maker/third")]), Shelf())


def test_a_part_is_named_with_its_size_and_revision():
    assert str(NET) == "org/net (3 MB, revision c0ffee00)"
    assert str(INNER) == "org/base (unet, newest revision)"
    assert not INNER.is_pinned and not WORDS.is_pinned and NET.is_pinned
    assert NET.within(Path("x")) == Path("x") and replace(NET, alone=True).within(Path("x")) == Path(
        "x/model.safetensors"
    )
