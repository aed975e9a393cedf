import pytest

from maxbench import progress


def test_items_pass_through_and_a_log_gets_a_plain_line(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0)
    assert list(progress.track([[1], [2, 3]], "making", 3, "images", len)) == [[1], [2, 3]]
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("making: 1/3 images, ") and first.endswith(" s left")
    assert last.startswith("making: 3/3 images, ") and "left" not in last


def test_nothing_to_do_says_nothing(capsys):
    assert list(progress.track([], "making", 0, "images")) == []
    assert capsys.readouterr().err == ""


def test_work_that_fails_is_not_counted(capsys, monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0)
    with pytest.raises(RuntimeError):
        for item in progress.track([1, 2], "making", 2, "images"):
            if item == 2:
                raise RuntimeError
    assert "2/2" not in capsys.readouterr().err


def test_a_part_of_longer_work_speaks_only_while_it_takes_long(capsys, monkeypatch):
    assert list(progress.track([1, 2], "scoring", 2, "images", brief=True)) == [1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "EVERY", 0)
    list(progress.track([1, 2], "scoring", 2, "images", brief=True))
    assert capsys.readouterr().err.startswith("scoring: 1/2 images")


# --- a whole run --------------------------------------------------------------------------------------------------


def outlook(**left):
    return progress.Outlook({stage: progress.Work(*work) for stage, work in left.items()})


def test_the_time_of_a_run_is_that_of_all_its_stages_by_cost(capsys):
    """100 images of cost 1 and 1,000 of cost 4; the first batch loads networks and says nothing of the rest."""
    view = outlook(tuning=(100, 100.0), run=(1000, 4000.0))
    view.batch("tuning", 10, 10.0, 1e6)
    assert view.line() == "" and capsys.readouterr().err == ""
    view.batch("tuning", 10, 10.0, 20.0)
    view.batch("tuning", 10, 10.0, 20.0)  # 2 s for a unit of cost: 70 + 4,000 are left
    said = "about 2.3 hours for 1,070 images at 0.131 images/s, without scoring"
    assert view.line() == said and capsys.readouterr().err == said + "\n"
    view.batch("tuning", 10, 10.0, 20.0)
    assert capsys.readouterr().err == ""  # not again at once


def test_a_stage_that_begins_knows_better(capsys):
    view = outlook(tuning=(10, 10.0), run=(50, 50.0))
    for _ in range(2):
        view.batch("tuning", 5, 5.0, 100.0)
    assert view.line().startswith("about 17 minutes for 50 images")
    view.begin("run", progress.Work(25, 25.0))
    assert view.line().startswith("about 8.3 minutes for 25 images")
    view.begin("run", progress.Work(0, 0.0))
    assert view.line() == ""


def test_it_is_said_again_after_a_while_and_not_of_what_is_soon_done(capsys, monkeypatch):
    monkeypatch.setattr(progress, "AGAIN", 0)
    view = outlook(run=(1000, 1000.0))
    for _ in range(5):
        view.batch("run", 10, 10.0, 10.0)
    assert len(capsys.readouterr().err.splitlines()) == 3
    view.begin("run", progress.Work(40, 40.0))
    view.batch("run", 10, 10.0, 10.0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(90, "1.5 minutes"), (600, "10 minutes"), (5399, "90 minutes"), (5400, "1.5 hours"), (11_520, "3.2 hours"),
     (100_000, "28 hours"), (200_000, "2.3 days")],
)  # fmt: skip
def test_a_duration_is_in_the_unit_that_fits(seconds, said):
    assert progress.duration(seconds) == said
