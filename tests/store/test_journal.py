"""How far a run is and how it ended, in its own folder."""

import json
from types import SimpleNamespace

import pytest

from maxbench.progress import Progress, Snapshot, Status, say
from maxbench.store.journal import journal


@pytest.fixture
def folder(tmp_path):
    """What a journal knows of a run folder: a place, and where summaries go; each of these is kept."""
    summaries = []
    return SimpleNamespace(path=tmp_path, summaries=summaries, summarise=lambda status: summaries.append(status))


def lines(folder):
    return [line.partition(" ")[2] for line in (folder.path / "run.log").read_text().splitlines()]


def test_it_says_how_far_the_run_is_and_who_does_it(folder):
    with journal(folder):
        say("note: said aloud")
        with Progress("generating", 4, "images", status=lambda: Status(2, 1, 3)) as progress:
            progress.add(4)
    assert [each["state"] for each in folder.summaries] == ["running", "running", "finished"]
    status = folder.summaries[1]
    known = {"work": "generating", "unit": "images", "done": 4, "total": 4, "seconds_left": 0}
    assert known.items() <= status.items() and status["per_second"] > 0
    assert (status["workers"], status["busy"], status["failures"]) == (2, 1, 3)
    assert not {"work", "done", "busy"} & set(folder.summaries[2])
    said = lines(folder)
    assert said[0] == "begun" and said[1] == "note: said aloud" and said[-1] == "finished"
    assert said[2].startswith("generating: 4/4 images, ") and said[2].endswith("1 of 2 workers busy, 3 died")


@pytest.mark.parametrize(("error", "state"), [(ValueError("no more"), "failed"), (KeyboardInterrupt(), "stopped")])
def test_it_says_how_the_run_ended(folder, error, state):
    with pytest.raises(type(error)), journal(folder):
        raise error
    assert folder.summaries[-1]["state"] == state and lines(folder)[-1].startswith(state)
    assert ("no more" in folder.summaries[-1]["why"]) == (state == "failed")


def test_a_finished_run_has_both(finished_run):
    status = json.loads((finished_run / "run.json").read_text())["status"]
    assert status["state"] == "finished" and status["begun"] <= status["at"]
    log = (finished_run / "run.log").read_text()
    assert "begun" in log and "generating: " in log and log.rstrip().endswith("finished")


def test_a_line_is_of_one_worker_as_if_there_were_none():
    assert Snapshot("w", 1, 2, "images", 0.5, 2.0).line == "w: 1/2 images, 0.5 images/s, 2 s left"
