"""Several runs in one table, and verdicts over all of them."""

import io
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from evaluation.states import CONDITIONS, METHODS, make_state
from maxbench.__main__ import main
from maxbench.evaluation.aggregate import Tables
from maxbench.report.columns import column_name
from maxbench.report.verdicts import weigh
from report.latex import read

RULES = ("better", "average")


def make_run(place, name="made", seed=0, images=24, suite="none", **changes):
    """A finished run as far as tables go, with a joint score, which no run of random networks has."""
    state = make_state(images, seed=seed, experiment=name, suite=suite)
    tables = Tables(state, CONDITIONS, 100, 0.95)
    folder = place / f"{name}-{suite}-{len(list(place.glob('*'))):02d}a"
    folder.mkdir(parents=True)
    (folder / "state.npz").write_bytes(state.pack())
    for file, table in (("metrics.csv", tables.metrics()), ("differences.csv", tables.differences())):
        table.insert(0, "run", folder.name)
        table.to_csv(folder / file, index=False)
    conditions = {
        "depth": {"_target_": "maxbench.conditions.depth.Depth"},
        "seg": {"_target_": "maxbench.conditions.seg.Segmentation", "palette": [[n, n, n] for n in range(4)]},
    }
    config = {
        "name": name, "seed": seed, "samples": images, "replicates": 1, "suite": {"name": suite},
        "conditions": conditions, "metrics": {"resamples": 100, "level": 0.95},
        "sampler": {"steps": 10, "guidance_scale": 3},
    }  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({**config, **changes}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two experiments, and the first with another seed and with other settings."""
    place = tmp_path_factory.mktemp("runs")
    make_run(place, "made")
    make_run(place, "other", seed=3)
    make_run(place, "made", seed=1)
    make_run(place, "made", images=20, sampler={"steps": 5, "guidance_scale": 3})
    return sorted(place.iterdir())


@pytest.fixture
def one(runs):
    return next(each for each in runs if each.name == "made-none-00a")


@pytest.fixture
def other(runs):
    return next(each for each in runs if each.name.startswith("other"))


def said(capsys, *words):
    assert main(["compare", *map(str, words)]) == 0
    return capsys.readouterr().out


def cells(text):
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


# --- one table ----------------------------------------------------------------------------------------------------


def test_a_row_is_a_method_of_a_run_and_its_numbers_are_the_run_s(runs, one, capsys):
    smaller = next(each for each in runs if "03a" in each.name)
    rows = cells(said(capsys, one, smaller, "--methods", "better,average"))
    head = rows[0]
    assert head[:5] == ["method", "samples", "sampler.steps", "n", "joint ↑"]
    assert [row[:4] for row in rows[2:]] == [
        [method, *rest] for method in ("better", "average") for rest in (["24", "10", "24"], ["20", "5", "20"])
    ]  # fmt: skip
    values = pd.read_csv(one / "metrics.csv").query("method == 'better'")
    values = values.fillna({"condition": ""}).set_index(["metric", "condition"])
    for metric, condition in (("joint", ""), ("q", "depth"), ("q", "seg"), ("clip_score", "")):
        place = next(
            n for n, title in enumerate(head) if title.removesuffix(" ≈")[:-2] == column_name(metric, condition)
        )
        own = values.loc[(metric, condition)]
        assert rows[2][place] == f"{own.value:.2f} [{own.low:.2f}, {own.high:.2f}]"


def test_columns_can_be_chosen_and_other_experiments_are_told_by_name(one, other, capsys):
    rows = cells(said(capsys, one, other, "--metrics", "clip_score,q"))
    assert rows[0] == ["method", "experiment", "seed", "n", "CLIP ↑ ≈", "q depth ↑", "q seg ↑"]
    assert {row[1] for row in rows[2:]} == {"made", "other"} and len(rows) == 2 + 2 * len(METHODS)


def test_what_is_measured_otherwise_is_left_out_and_named(one, other, tmp_path, capsys):
    copy = shutil.copytree(other, tmp_path / "run")
    metrics = pd.read_csv(copy / "metrics.csv")
    metrics.loc[metrics.metric == "depth_rmse", "protocol"] += ", inside its evaluation mask"
    metrics.loc[metrics.metric == "clip_score", "scorer"] = "another"
    metrics.to_csv(copy / "metrics.csv", index=False)
    text = said(capsys, one, copy)
    assert "depth RMSE ↓" not in cells(text)[0] and "CLIP ↑" not in cells(text)[0] and "joint ↑" in cells(text)[0]
    assert "Left out" in text and "CLIP" in text.split("Left out")[1] and "depth RMSE" in text.split("Left out")[1]


def test_a_distance_has_a_column_only_of_the_same_number_of_pictures_to_the_same_reference(runs, one, tmp_path, capsys):
    other_seed, smaller = (next(each for each in runs if part in each.name) for part in ("02a", "03a"))
    copies = {}
    for name, reference in (("same", [1, 2, 3]), ("again", [3, 2, 1]), ("another", [1, 2, 4])):
        copies[name] = shutil.copytree(one, tmp_path / f"{name}-none-0a")
        (copies[name] / "manifest.json").write_text(json.dumps({"reference": reference}))
        config = yaml.safe_load((one / "config.yaml").read_text())
        (copies[name] / "config.yaml").write_text(yaml.safe_dump({**config, "sampler": {"steps": len(copies)}}))
    alone = shutil.copytree(other_seed, tmp_path / other_seed.name)
    (alone / "state.npz").unlink()  # else both are pooled
    differ = ((one, smaller), (one, alone), (copies["same"], copies["another"]))
    agree = ((copies["same"], copies["again"]), (copies["same"], one), (one,))
    for pair, has in (*((pair, False) for pair in differ), *((pair, True) for pair in agree)):
        for words in ((), ("--metrics", "fd_clip,kd_clip,joint")):
            text = said(capsys, *pair, *words)
            columns = " ".join(cells(text)[0])
            assert ("FD-CLIP" in columns) is has and "joint" in columns, (pair, words)
            assert ("a distance depends on the number of pictures" in text) is not has
            assert has or ": FD-CLIP" in text.split("a distance depends")[1]


def test_delta_is_a_column_and_its_setting_is_not(one, tmp_path, capsys):
    folders = []
    for delta in (0.3, 0.7):
        copy = shutil.copytree(one, tmp_path / f"made-{delta}")
        metrics = pd.read_csv(copy / "metrics.csv")
        metrics["delta"] = metrics.delta.where(metrics.method != "better", delta)
        metrics.to_csv(copy / "metrics.csv", index=False)
        config = yaml.safe_load((copy / "config.yaml").read_text())
        config["methods"] = {"better": {"rule": {"delta": delta}}}
        (copy / "config.yaml").write_text(yaml.safe_dump(config))
        folders.append(copy)
    rows = cells(said(capsys, *folders, "--methods", "better,average"))
    assert rows[0][:3] == ["method", "delta", "n"]
    assert [row[:2] for row in rows[2:]] == [["better", "0.3"], ["better", "0.7"], ["average", "-"], ["average", "-"]]


def test_programs_get_every_number_and_setting(runs, one, capsys):
    smaller = next(each for each in runs if "03a" in each.name)
    table = pd.read_csv(io.StringIO(said(capsys, one, smaller, "--csv")))
    assert {"run", "experiment", "suite", "seed", "delta", "method", "value", "sampler.steps", "samples"} <= set(table)
    kept = pd.concat([pd.read_csv(each / "metrics.csv") for each in (one, smaller)]).query("role != 'reference'")
    assert table.value.sum() == pytest.approx(kept.value.sum()) and len(table) == len(kept)
    assert set(table[table.run == smaller.name]["sampler.steps"].astype(str)) == {"5"}


def test_latex_can_be_read_and_sets_off_the_best_of_each_run(one, other, tmp_path, capsys):
    text = said(capsys, one, other, "--latex", "--output", tmp_path / "deep" / "table.tex")
    assert (tmp_path / "deep" / "table.tex").read_text() == text
    table, _ = read(text)
    place = table[0].index(r"joint $\uparrow$")
    joint = [row for row in table[1:] if row[place].startswith("\\")]
    assert [row[:2] for row in joint if row[place].startswith(r"\textbf{")] == [["better", "made"], ["better", "other"]]
    assert {row[0] for row in joint if row[place].startswith(r"\underline{")} == {"average"}


def test_what_decides_nothing_in_a_run_is_said_and_sets_nobody_off(one, other, tmp_path, capsys):
    text = said(capsys, one, "--metrics", "clip_score,joint")
    assert cells(text)[0] == ["method", "n", "CLIP ↑ ≈", "joint ↑"]
    sentence = "no difference of a fusion rule from a baseline is shown in CLIP; do not rank by these."
    assert sentence in text
    table, _ = read(said(capsys, one, "--metrics", "clip_score,joint", "--latex"))
    place = next(number for number, title in enumerate(table[0]) if title.startswith("CLIP"))
    assert not any(row[place].startswith("\\") for row in table[1:])

    copy = shutil.copytree(other, tmp_path / other.name)
    differences = pd.read_csv(copy / "differences.csv")
    differences.loc[differences.metric == "clip_score", "verdict"] = "better"
    differences.to_csv(copy / "differences.csv", index=False)
    text = said(capsys, one, copy, "--metrics", "clip_score,joint")
    assert cells(text)[0][-2:] == ["CLIP ↑", "joint ↑"]  # one of the runs decides it, and it is said which does not
    assert f"made, seed 0: {sentence}" in text and text.count(sentence) == 1


# --- seeds --------------------------------------------------------------------------------------------------------


def test_runs_that_differ_in_the_seed_alone_are_pooled(runs, one, tmp_path, capsys):
    second = next(each for each in runs if "02a" in each.name)
    pooled = tmp_path / "pooled"
    assert main(["tables", str(second), str(one), "--pool", "--output", str(pooled)]) == 0
    capsys.readouterr()
    table = pd.read_csv(io.StringIO(said(capsys, second, one, "--csv")))
    kept = pd.read_csv(pooled / "metrics.csv").query("role != 'reference'")
    np.testing.assert_allclose(table.value, kept.value)
    np.testing.assert_allclose(table.low.dropna(), kept.low.dropna())
    assert set(table.seed) == {"0+1"} and set(table.run) == set(kept.run)
    text = said(capsys, one, second)
    assert "Pooled, with one cluster for each sample: made-none-00a, made-none-02a" in text
    assert len(cells(text)) == 2 + len(METHODS)


def test_seeds_without_what_was_measured_stand_side_by_side(runs, one, tmp_path, capsys):
    second = next(each for each in runs if "02a" in each.name)
    copy = shutil.copytree(second, tmp_path / second.name)
    (copy / "state.npz").unlink()
    rows = cells(said(capsys, one, copy, "--methods", "better"))
    assert rows[0][:2] == ["method", "seed"] and [row[1] for row in rows[2:]] == ["0", "1"]


def test_runs_of_other_weights_are_not_pooled_and_it_is_said(runs, one, tmp_path, capsys):
    from maxbench.store.files import seal

    copies = []
    for place, folder in enumerate((one, next(each for each in runs if "02a" in each.name))):
        copies.append(shutil.copytree(folder, tmp_path / folder.name))
        (copies[-1] / "maxbench-run.json").write_text(seal({"weights": {"unet": str(place)}}))
    text = said(capsys, *copies)
    assert "Not pooled" in text and "differ in weights.unet" in text and len(cells(text)) == 2 + 2 * len(METHODS)


# --- verdicts -----------------------------------------------------------------------------------------------------


def verdicts(text):
    """(rule, minus) -> the cells of the first table of verdicts."""
    return {(row[0], row[1]): row for row in cells(text.split("## ")[1]) if row[0] in METHODS}


def test_rules_are_weighed_against_every_row_by_paired_joint_scores(one, capsys):
    found = verdicts(said(capsys, one, "--methods", ",".join(RULES), "--baseline", "all"))
    scores = Tables(make_state(24, experiment="made"), CONDITIONS, 100, 0.95).per_image("joint")
    once = {(rule, rival) for rule in RULES for rival in METHODS if rival != rule} - {("average", "better")}
    assert set(found) == once  # two rules are compared once
    for (rule, rival), row in found.items():
        change = scores[rule] - scores[rival]
        assert float(row[2].strip("*").split(" ")[0]) == pytest.approx(change.mean(), abs=0.0051), row
        ahead = (change > 0).mean() + (change == 0).mean() / 2
        assert float(row[3].removesuffix("%")) == pytest.approx(100 * ahead, abs=0.51), row
    assert found["better", "worse"][5] == "better" and found["better", "average"][5] == "better"


def test_a_baseline_and_all_rows_say_the_same_of_a_pair(one, capsys):
    by_all = pd.read_csv(io.StringIO(said(capsys, one, "--methods", "better,worse", "--baseline", "all", "--csv")))
    by_one = pd.read_csv(io.StringIO(said(capsys, one, "--methods", "better,worse", "--baseline", "average", "--csv")))
    for rule in ("better", "worse"):
        rows = [
            table.query(f"rule == '{rule}' and rival == 'average' and metric == 'joint'") for table in (by_all, by_one)
        ]
        for name in ("value", "low", "high", "win_rate", "p"):
            assert rows[0][name].item() == pytest.approx(rows[1][name].item(), abs=1e-9), name


def test_the_correction_is_for_all_runs_of_the_page(one, other, capsys):
    table = pd.read_csv(io.StringIO(said(capsys, one, other, "--baseline", "average,none", "--csv")))
    joint = table[table.metric == "joint"]
    assert set(joint.run) == {one.name, other.name} and len(joint) == 2 * (3 * 2 - 1)  # no rule against itself
    assert set(joint.comparisons) == {len(joint)}
    ordered = np.sort(joint.p)
    stepped = np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1)
    np.testing.assert_allclose(np.sort(joint.p_holm), stepped)
    assert (joint.p_holm >= joint.p).all()
    shown = joint.p_holm < 0.05
    assert (joint.verdict[shown] == np.where(joint.value[shown] > 0, "better", "worse")).all()
    assert (joint.verdict[~shown] == "not shown").all()
    text = said(capsys, one, other, "--baseline", "average,none")
    assert f"for the {len(joint)} comparisons here" in text and "## made, seed 0, N = 24" in text


def changes(values, p):
    return pd.DataFrame({"value": values, "low": values, "high": values, "p": p})


def test_what_is_not_shown_is_no_verdict():
    table = weigh(changes([1.0, -1.0, 2.0], [0.01, 0.02, 0.04]), 0.95)
    assert table.verdict.tolist() == ["better", "worse", "better"]
    assert weigh(changes([1.0] * 3, [0.02] * 3), 0.95).verdict.tolist() == ["not shown"] * 3


def test_rows_of_the_same_pictures_are_no_comparison():
    table = weigh(changes([1.0, 0.0, 0.0], [0.03, 1.0, 1.0]), 0.95)
    assert table.verdict.tolist() == ["better", "not shown", "not shown"]
    assert table.p_holm[0] == 0.03 and table.p_holm[1:].isna().all() and set(table.comparisons) == {1}


def test_programs_get_verdicts_of_the_comparison_alone_and_about_the_rule(one, capsys):
    """Whatever is the baseline: the sign of the difference, its verdict and its role say the same."""
    roles = pd.read_csv(one / "metrics.csv").drop_duplicates("method").set_index("method").role
    for words in (["all"], ["average"], ["none,worse"]):
        table = pd.read_csv(io.StringIO(said(capsys, one, "--baseline", *words, "--csv")))
        shown = table[table.verdict.isin(("better", "worse"))]
        assert len(shown) and (shown.verdict == np.where(shown.value > 0, "better", "worse")).all()
        assert set(table[table.metric == "joint"].verdict) <= {"better", "worse", "not shown"}
        assert (table.role == table.rule.map(roles)).all()
        others = table[table.metric != "joint"]
        assert others[["p_holm", "correction", "comparisons", "verdict"]].isna().all(axis=None)
        assert "needed" not in table and len(others)


def test_a_baseline_that_is_a_rule_is_tested_against_the_others_and_each_pair_once(one, capsys):
    table = pd.read_csv(io.StringIO(said(capsys, one, "--baseline", "average,better", "--csv"))).query(
        "metric == 'joint'"
    )
    pairs = list(zip(table.rule, table.rival, strict=True))
    assert sorted(pairs) == [("better", "average"), ("worse", "average"), ("worse", "better")]
    named = said(capsys, one, "--baseline", "average,better", "--methods", "average,worse", "--csv")
    table = pd.read_csv(io.StringIO(named)).query("metric == 'joint'")
    pairs = {frozenset(pair) for pair in zip(table.rule, table.rival, strict=True)}
    assert pairs == {frozenset(pair) for pair in (("average", "better"), ("worse", "average"), ("worse", "better"))}
    assert len(table) == 3 and set(table.rule) == {"average", "worse"}


def test_known_baselines_need_no_state_and_others_do(one, tmp_path, capsys):
    copy = shutil.copytree(one, tmp_path / "run")
    before = said(capsys, copy, "--baseline", "average", "--csv")
    (copy / "state.npz").unlink()
    assert said(capsys, copy, "--baseline", "average", "--csv") == before
    assert main(["compare", str(copy), "--baseline", "worse"]) == 2
    assert "has no state.npz" in capsys.readouterr().err


def test_verdicts_in_latex_set_off_what_is_shown(one, capsys):
    text = said(capsys, one, "--baseline", "average", "--latex")
    table, _ = read(text[text.rindex("\\begin{table}") :])
    assert [row[-1] for row in table[1:]] == ["better", "worse"]
    assert all(row[4].startswith(r"\textbf{") for row in table[1:])


def test_a_run_without_a_joint_score_is_named(one, finished_run, tmp_path, capsys):
    copy = shutil.copytree(one, tmp_path / "run")
    metrics = pd.read_csv(copy / "metrics.csv")
    metrics[metrics.metric != "joint"].to_csv(copy / "metrics.csv", index=False)
    config = {**yaml.safe_load((copy / "config.yaml").read_text()), "name": "silent"}
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    assert "silent, seed 0 is left out: it has no joint score." in said(capsys, one, copy, "--baseline", "average")
    assert main(["compare", str(copy), "--baseline", "average"]) == 2
    assert "No run here can be weighed: silent, seed 0: it has no joint score" in capsys.readouterr().err


def test_runs_of_one_experiment_and_seed_have_titles_of_their_own(runs, one, tmp_path, capsys):
    smaller = next(each for each in runs if "03a" in each.name)
    heads = [line for line in said(capsys, one, smaller, "--baseline", "none").splitlines() if line.startswith("## ")]
    assert heads == [
        "## made, seed 0, samples 24, sampler.steps 10, N = 24", "## made, seed 0, samples 20, sampler.steps 5, N = 20"
    ]  # fmt: skip
    twin = shutil.copytree(one, tmp_path / one.name)  # also of the same name
    text = said(capsys, one, twin, "--baseline", "none")
    assert f"## made, seed 0, {one.name}, N" in text and f"## made, seed 0, {one.name}-2, N" in text
    table = pd.read_csv(io.StringIO(said(capsys, one, twin, "--baseline", "none", "--csv")))
    assert table.groupby("run").size().nunique() == 1 and table.run.nunique() == 2
    silent = []
    for number in range(2):
        silent.append(shutil.copytree(one, tmp_path / f"made-none-{number:010d}"))
        metrics = pd.read_csv(one / "metrics.csv")
        metrics[metrics.metric != "joint"].to_csv(silent[-1] / "metrics.csv", index=False)
    text = said(capsys, one, *silent, "--baseline", "none")
    assert text.count("is left out: it has no joint score") == 2


# --- mistakes -----------------------------------------------------------------------------------------------------


def mistakes(one, place):
    elsewhere = make_run(place, "made", suite="another")
    pooled = shutil.copytree(one, place / "pooled")
    config = yaml.safe_load((pooled / "config.yaml").read_text())
    (pooled / "config.yaml").write_text(yaml.safe_dump({**config, "seed": [0, 1], "pooled": [one.name]}))
    return {
        "none": ([], "Name the runs to compare"),
        "twice": ([one, f"{one}/"], "A run is named twice"),
        "no run": ([place / "nothing"], "it is no finished run"),
        "suites": ([one, elsewhere], "of several suites (none, another)"),
        "parts": ([one, pooled], f"is made of {one.name}, which is named as well"),
        "method": ([one, "--methods", "beter"], "No run here has a method 'beter'; they have"),
        "metric": ([one, "--metrics", "fidd"], "No run here has a metric 'fidd'; they have"),
        "empty name": ([one, "--methods", "a,,b"], "--methods is 'a,,b'; write names"),
        "baseline": ([one, "--baseline", "sun"], "The baseline 'sun' is no method of this run"),
        "all and one": ([one, "--baseline", "all,sum"], "`all` means every row"),
        "both": ([one, "--latex", "--csv"], "leave one of them out"),
        "folder": ([one, "--output", place], "which is a folder"),
        "device": ([one, "--output", "/dev/null"], "which is no file"),
        "nowhere": ([one, "--output", "/proc/nothing/table.tex"], "cannot be written (No such file or directory)"),
        "nobody": ([one, "--methods", "average", "--baseline", "average"], "it has no rule to compare with average"),
    }  # fmt: skip


def test_mistakes_are_one_sentence_and_nothing_is_written(one, tmp_path, capsys):
    for name, (words, sentence) in mistakes(one, tmp_path).items():
        assert main(["compare", *map(str, words)]) == 2, name
        told = capsys.readouterr()
        assert sentence in told.err and len(told.err.splitlines()) == 1 and not told.out, (name, told)


@pytest.mark.parametrize("name", ["metrics.csv", "config.yaml", "differences.csv", "state.npz"])
@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"[1, 2]"])
def test_a_damaged_file_is_one_sentence(one, tmp_path, capsys, name, content):
    copy = shutil.copytree(one, tmp_path / "run")
    (copy / name).write_bytes(content)
    words = ["compare", str(copy), "--baseline", "worse" if name == "state.npz" else "average"]
    code = main(words)
    told = capsys.readouterr()
    if (name, content) == ("differences.csv", b""):  # of a run of one method; they are computed
        assert code == 0
    else:
        assert code == 2 and name in told.err and len(told.err.splitlines()) == 1


def test_runs_are_found_by_their_names(one, capsys):
    text = said(capsys, "made:sampler.steps=5", "other", "--output-dir", one.parent, "--methods", "better")
    assert [row[1] for row in cells(text)[2:]] == ["made", "other"]
    assert main(["compare", "made", "--output-dir", str(one.parent)]) == 2
    assert "'made' means 3 runs" in capsys.readouterr().err
    assert json.dumps(text)  # plain text


def test_a_runs_own_files_are_not_written_over(finished_run, tmp_path, capsys):
    copy = shutil.copytree(finished_run, tmp_path / "run")
    before = (copy / "metrics.csv").read_bytes()
    assert main(["compare", str(copy), "--output", str(copy / "metrics.csv")]) == 2
    assert "which lies in the run" in capsys.readouterr().err
    assert (copy / "metrics.csv").read_bytes() == before
