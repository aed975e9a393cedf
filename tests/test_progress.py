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
