"""A run folder: assembled from the store, found whole or made again, and never another's."""

import hashlib
import json
import os
from dataclasses import dataclass, field

import pytest

from maxbench.errors import UserError
from maxbench.store.artefacts import Store, batches
from maxbench.store.files import STRAY_SECONDS, fingerprint, read_sealed, seal, unseal
from maxbench.store.runfolder import MARK, Entry, RunFolder, image_file, mask_file, run_name, source_file

IDENTITY = {"config": {"a": 1}, "weights": {"unet": "abc"}}
KEYS = {number: fingerprint(number) for number in range(5)}


def opened(root, identity=IDENTITY, name="run") -> RunFolder:
    return RunFolder.open(root, name, identity, Store.open(root / "store"))


@pytest.fixture
def folder(tmp_path):
    return opened(tmp_path)


def below(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@dataclass
class Maker:
    """Makes pictures of numbers in batches, and remembers them."""

    asked: list[list[int]] = field(default_factory=list)
    fails_at: int | None = None
    size: int = 2

    def __call__(self, missing, keep):
        for batch in batches(missing, self.size):
            self.asked.append(batch)
            for number in batch:
                if number == self.fails_at:
                    raise RuntimeError("half way")
                keep(number, f"picture {number}".encode(), {"defect": "black" if number == 3 else None})


def have(folder, maker, keys=None):
    """The pictures of `keys` in the folder, as a product."""
    found = folder.ensure("image", KEYS if keys is None else keys, maker, "making")
    folder.place("images/m", {image_file("m", f"{number}", 0): each for number, each in found.items()}, "image")
    return found


# --- what is there and what is made --------------------------------------------------------------------------


def test_what_is_missing_is_made_in_batches_and_what_is_there_is_found(folder, tmp_path):
    maker = Maker()
    found = have(folder, maker, {number: KEYS[number] for number in (0, 1, 2)})
    assert maker.asked == [[0, 1], [2]] and folder.counts["image"].as_dict() == {"made": 3, "found": 0}
    again = opened(tmp_path)
    assert have(again, maker) | found == have(opened(tmp_path), maker)
    assert maker.asked[2:] == [[3, 4]] and again.counts["image"].as_dict() == {"made": 2, "found": 3}
    assert (again.path / "images/m/4-0.png").read_bytes() == b"picture 4"
    assert again.find("image", KEYS[3]).details == {"defect": "black"}


def test_each_file_lies_in_the_folder_under_its_name_and_is_the_store_s(folder):
    found = have(folder, Maker())
    for number, artefact in found.items():
        place = folder.path / "images" / "m" / f"{number}-0.png"
        assert place.samefile(artefact.path) and place.read_bytes() == f"picture {number}".encode()
    assert [(each.file, each.key) for each in folder.entries("images/m")] == [
        (image_file("m", f"{number}", 0), key) for number, key in KEYS.items()
    ]


def test_another_run_finds_what_this_one_has_made(folder, tmp_path):
    have(folder, Maker())
    maker = Maker()
    other = opened(tmp_path, {"config": {"a": 2}}, "other")
    have(other, maker)
    assert maker.asked == [] and below(other.path / "images") == below(folder.path / "images")


def test_what_was_made_before_a_failure_is_kept(folder, tmp_path):
    maker = Maker(fails_at=3, size=1)
    with pytest.raises(RuntimeError, match="half way"):
        have(folder, maker)
    maker = Maker(size=1)
    have(opened(tmp_path), maker)
    assert maker.asked == [[3], [4]]


@pytest.mark.parametrize("harm", ["cut", "changed", "emptied", "lost", "a folder"])
def test_a_picture_that_is_damaged_in_the_folder_is_put_back_and_one_damaged_in_both_is_made_again(
    folder, tmp_path, harm
):
    have(folder, Maker())
    before, place = below(folder.path), folder.path / image_file("m", "2", 0)

    def harmed(path):
        content = path.read_bytes()
        path.unlink()  # so that the store's own file, which may be the same, stays as it is
        if harm == "a folder":
            path.mkdir()
        elif harm != "lost":
            path.write_bytes({"cut": content[:4], "changed": b"p" + content[:-1], "emptied": b""}[harm])

    harmed(place)
    maker = Maker()
    have(opened(tmp_path), maker)
    assert maker.asked == []
    harmed(place)
    harmed(folder.find("image", KEYS[2]).path)
    have(opened(tmp_path), maker)
    assert maker.asked == [[2]]
    assert {name: each for name, each in below(folder.path).items() if "aside" not in name} == before


def test_a_picture_that_two_names_share_is_made_again_when_it_is_overwritten(folder, tmp_path):
    have(folder, Maker())
    place = folder.path / image_file("m", "2", 0)
    place.write_bytes(b"overwritten")  # through the link this is the store's file, too
    assert folder.find("image", KEYS[2]) is None
    maker = Maker()
    have(opened(tmp_path), maker)
    assert maker.asked == [[2]] and place.read_bytes() == b"picture 2"


@pytest.mark.parametrize("harm", [lambda content: content[:-5], lambda content: content.replace(b'"key"', b'"kez"')])
def test_a_damaged_record_in_the_store_is_an_artefact_that_is_not_there(folder, tmp_path, harm):
    have(folder, Maker())
    record = folder.find("image", KEYS[2]).path.with_suffix(".json")
    record.write_bytes(harm(record.read_bytes()))
    assert folder.store.find("image", KEYS[2]) is None
    maker = Maker()
    have(opened(tmp_path), maker)  # the folder still has it, and knows its digest
    assert maker.asked == [] and unseal(record.read_bytes())["key"] == KEYS[2]


def test_a_record_of_another_key_is_no_record(folder):
    found = have(folder, Maker())
    one, two = (found[number].path.with_suffix(".json") for number in (0, 1))
    one.write_bytes(two.read_bytes())
    assert folder.store.find("image", KEYS[0]) is None


def test_a_half_written_file_is_nobody_s(folder, tmp_path):
    artefact = have(folder, Maker())[2]
    whole = artefact.path.read_bytes()
    for path in (artefact.path, folder.path / image_file("m", "2", 0)):
        path.unlink()
        path.with_name(f".{path.name}.1.partial").write_bytes(whole)
    artefact.path.with_suffix(".json").unlink()
    maker = Maker()
    have(opened(tmp_path), maker)
    assert maker.asked == [[2]]


def test_a_file_without_a_record_was_never_finished(folder):
    artefact = have(folder, Maker())[2]
    artefact.path.with_suffix(".json").unlink()  # the record is written last
    assert folder.store.find("image", KEYS[2]) is None


# --- a store that is lost ------------------------------------------------------------------------------------


def test_a_folder_fills_a_lost_store_again(folder, tmp_path):
    have(folder, Maker())
    before = below(tmp_path / "store")
    for path in sorted((tmp_path / "store").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    maker = Maker()
    have(opened(tmp_path), maker)
    assert maker.asked == []
    assert {name: each for name, each in below(tmp_path / "store").items() if name in before} == before


def test_a_lost_store_is_not_filled_with_damaged_files(folder, tmp_path):
    have(folder, Maker())
    (folder.path / image_file("m", "2", 0)).unlink()
    (folder.path / image_file("m", "2", 0)).write_bytes(b"picture 7")
    other = RunFolder.open(tmp_path, "run", IDENTITY, Store.open(tmp_path / "elsewhere"))
    assert other.find("image", KEYS[2]) is None and other.find("image", KEYS[1]).details == {"defect": None}
    maker = Maker()
    have(other, maker)
    assert maker.asked == [[2]]


# --- records of products -------------------------------------------------------------------------------------


def test_a_record_lists_a_product_s_files_in_order(folder):
    found = have(folder, Maker())
    entries = folder.entries("images/m")
    assert [each.file for each in entries] == [f"images/m/{number}-0.png" for number in KEYS]
    assert entries[3] == Entry("images/m/3-0.png", "image", KEYS[3], found[3].sha256, {"defect": "black"})
    assert all(each.sha256 == hashlib.sha256((folder.path / each.file).read_bytes()).hexdigest() for each in entries)


@pytest.mark.parametrize("content", [None, "", "[]", seal([{"file": "images/m/0-0.png"}]), seal(3), seal([None])])
def test_a_missing_or_damaged_record_is_a_sentence_and_is_written_anew(folder, tmp_path, content):
    have(folder, Maker())
    record = folder.path / "records" / "images" / "m.json"
    before = record.read_bytes()
    record.unlink()
    if content is not None:
        record.write_text(content)
    with pytest.raises(UserError, match=r"record .*m\.json is missing or damaged; run the experiment again\."):
        folder.entries("images/m")
    maker = Maker()
    have(opened(tmp_path), maker)
    assert maker.asked == [] and record.read_bytes() == before


def test_what_is_as_it_should_be_is_not_touched(folder, tmp_path):
    have(folder, Maker())
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    have(opened(tmp_path), Maker())
    assert {path: path.stat().st_mtime_ns for path in files} == before


# --- whose a folder is ---------------------------------------------------------------------------------------


def test_a_folder_is_reopened_by_its_own_run_alone(folder, tmp_path):
    have(folder, Maker())
    before = below(folder.path)
    assert opened(tmp_path).known.keys() == {("image", key) for key in KEYS.values()}
    with pytest.raises(UserError, match=r"holds another run; move the folder away or set output_dir="):
        opened(tmp_path, {**IDENTITY, "weights": {"unet": "abd"}})
    assert below(folder.path) == before
    assert read_sealed(folder.path / MARK) == IDENTITY


def test_a_folder_whose_mark_is_damaged_is_its_run_s_by_its_name(folder, tmp_path):
    have(folder, Maker())
    (folder.path / MARK).write_bytes((folder.path / MARK).read_bytes()[:-9])
    maker = Maker()
    have(opened(tmp_path), maker)
    assert maker.asked == [] and read_sealed(folder.path / MARK) == IDENTITY


def test_what_a_dead_process_left_is_removed_and_another_s_is_not(folder, tmp_path, monkeypatch):
    young, old = folder.path / ".x.png.12.partial", folder.path / "images" / ".y.png.13.partial"
    old.parent.mkdir()
    for path in (young, old):
        path.write_bytes(b"")
    monkeypatch.setattr("maxbench.store.files.age", lambda path: STRAY_SECONDS + (60 if path == old else -60))
    assert opened(tmp_path) == folder
    assert young.exists() and not old.exists()


def test_foreign_places_are_refused_and_left_alone(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("years of work")
    (tmp_path / "run" / ".thesis.partial").write_text("a start")
    os.utime(tmp_path / "run" / ".thesis.partial", (0, 0))
    with pytest.raises(UserError, match="not a run folder"):
        opened(tmp_path)
    assert below(tmp_path / "run") == {"thesis.tex": b"years of work", ".thesis.partial": b"a start"}
    (tmp_path / "file").write_text("")
    store = Store.open(tmp_path / "store")
    with pytest.raises(UserError, match="output_dir="):
        RunFolder.open(tmp_path / "file", "run", {}, store)
    with pytest.raises(UserError, match=r"is a file; set output_dir="):
        RunFolder.open(tmp_path, "file", {}, store)
    (tmp_path / "marked" / MARK).mkdir(parents=True)
    with pytest.raises(UserError, match=r"is a folder; move .* away"):
        RunFolder.open(tmp_path, "marked", {}, store)
    with pytest.raises(UserError, match=r"store .* cannot be made .*store_dir="):
        Store.open(tmp_path / "file" / "store")


@pytest.mark.parametrize("name", ["..", "../elsewhere", "a/b", "/tmp/elsewhere"])
def test_no_run_folder_lies_outside_of_the_output_folder(tmp_path, name):
    with pytest.raises(UserError, match="would lie outside"):
        opened(tmp_path / "runs", name=name)
    assert not (tmp_path / "elsewhere").exists() and not (tmp_path / "runs" / "a").exists()


def test_a_folder_that_cannot_be_written_is_a_sentence(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(UserError, match=r"Cannot write to .*Read-only file system; set output_dir="):
        opened(tmp_path)


# --- what a run says of itself -------------------------------------------------------------------------------


def test_places_and_names_are_these():
    assert image_file("single/hed", "000000000007", 1) == "images/single/hed/000000000007-1.png"
    assert source_file("conditions/hed", 7) == "conditions/hed/000000000007.png"
    assert mask_file("control_masks", "hed", "7-8") == "control_masks/hed/7-8.png"
    names = {run_name("hed_depth", "miniature", each) for each in (IDENTITY, {}, {"config": {"a": 2}})}
    assert len(names) == 3 and all(name.startswith("hed_depth-miniature-") for name in names)
    assert run_name("x", "y", {"a": 1, "b": 2}) == run_name("x", "y", {"b": 2, "a": 1})


def test_a_run_says_what_it_needs_and_what_it_said_before_stays_said(folder, tmp_path):
    folder.refer([("image", "b"), ("image", "a")], ["1"])
    folder.refer([("map", "c"), ("image", "a")])
    said = read_sealed(folder.path / "references.json")
    assert said == {"artefacts": [["image", "a"], ["image", "b"], ["map", "c"]], "scores": ["1"]}
    (mark,) = (tmp_path / "store" / "runs").glob("*.json")
    assert read_sealed(mark) == str(folder.path.resolve())
    (folder.path / "references.json").write_text("damaged")
    folder.refer([("image", "a")])
    assert read_sealed(folder.path / "references.json") == {"artefacts": [["image", "a"]], "scores": []}


def test_a_run_says_what_its_last_invocation_made_and_found(folder):
    have(folder, Maker(), {0: KEYS[0]})
    have(folder, Maker())
    folder.summarise(note="x")
    assert json.loads((folder.path / "run.json").read_text()) == {"images": {"made": 5, "found": 1}, "note": "x"}
