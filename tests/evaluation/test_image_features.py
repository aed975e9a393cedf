"""Distances on other networks than the text scorer's, where a suite has their weights."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from cleanfid.fid import frechet_distance
from transformers import Dinov2Config, Dinov2Model

from maxbench.__main__ import main
from maxbench.evaluation.state import State
from runs import only_run
from suites.test_features import inception_folder

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning")  # the published file is TorchScript


def network(name: str, loader: str, needs: str) -> str:
    return (
        f"+suite.features.{name}={{_target_: maxbench.suites.folder.Weights, folder: scorers/{name}, needs: [{needs}], "
        f"load: {{_target_: maxbench.suites.features.{loader}.load, _partial_: true}}}}"
    )


def test_fid_is_inceptions_and_what_has_no_weights_is_named(small_run, small_suite, tmp_path, capsys):
    suite = shutil.copytree(small_suite, tmp_path / "suite")
    for name in ("inception", "dinov2"):
        (suite / "scorers" / name).mkdir()
    inception_folder(suite / "scorers" / "inception")
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    Dinov2Model(Dinov2Config(**tower, image_size=28, patch_size=14)).save_pretrained(suite / "scorers" / "dinov2")
    run = [each for each in small_run if not each.startswith("suite.root")]
    more = [
        f"suite.root={suite}", f"output_dir={tmp_path / 'runs'}", "samples=2", "~methods.single_tuned",
        "~methods.scheduled_sum", "~methods.maxfusion_tuned", "~methods.tuned_sum", "baseline=sum",
        network("inception", "InceptionFeatures", "inception-2015-12-05.pt"),
        network("dinov2", "DinoFeatures", "config.json"),
        network("cmmd", "ClipFeatures", "config.json"),
    ]  # fmt: skip
    assert main(["run", *run, *more]) == 0
    assert "distances on cmmd" in capsys.readouterr().out  # its weights are not there
    folder = only_run(tmp_path / "runs")
    metrics = pd.read_csv(folder / "metrics.csv")
    assert {"fid", "kid", "fd_dinov2", "clip_score"} <= set(metrics.metric)
    assert not {"fd_clip", "kd_clip", "cmmd"} & set(metrics.metric)  # the text scorer's features only without others
    state = State.unpack((folder / "state.npz").read_bytes())
    features, reference = state.measured["sum"]["features/inception"], state.reference["inception"]
    assert features.shape == (2, 2048) and reference.shape == (12, 2048)
    (row,) = metrics[(metrics.metric == "fid") & (metrics.method == "sum")].itertuples()
    moments = [each for rows in (features, reference) for each in (rows.mean(0), np.cov(rows, rowvar=False))]
    assert row.value == pytest.approx(frechet_distance(*moments), rel=1e-3, abs=1e-6)
    assert row.scorer.startswith("miniature/scorers/inception@")
