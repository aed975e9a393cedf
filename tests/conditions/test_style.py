"""Style as a condition: its maps are pictures, and a run takes them from other scenes than the rest."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image

from maxbench.__main__ import main
from maxbench.conditions.style import Style
from maxbench.configuration.compose import CONF
from maxbench.images import encode_png, read_maps
from maxbench.miniature.world import SHAPES
from runs import only_run


@pytest.fixture(scope="module")
def scorer(small_suite):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        suite = instantiate(compose("main", ["experiment=style", f"suite.root={small_suite}"]).suite, _convert_="all")
    return suite.scorer("style", torch.device("cpu"))


def some_pictures():
    generator = torch.Generator().manual_seed(0)
    blocks = torch.rand(4, 3, 8, 8, generator=generator)
    return torch.nn.functional.interpolate(blocks, 64, mode="nearest")


def test_the_map_is_the_picture_itself():
    pictures = some_pictures()
    drawn = Style().draw(pictures, None)
    assert drawn.dtype == torch.uint8 and drawn.shape == (4, 64, 64, 3)
    hint = Style().hint(drawn)
    assert hint.shape == pictures.shape and hint.dtype == torch.float32
    assert (hint - pictures).abs().max() <= 0.5 / 255 + 1e-6
    assert torch.equal(Style().draw(hint, None), drawn)


def test_pictures_are_read_back_with_their_colours(tmp_path):
    grey = some_pictures()[:1].mean(1, keepdim=True).expand(-1, 3, -1, -1)
    drawn = Style().draw(torch.cat([some_pictures(), grey]), None)
    paths = [tmp_path / f"{number}.png" for number in range(len(drawn))]
    for path, each in zip(paths, drawn.numpy(), strict=True):
        path.write_bytes(encode_png(each))
    assert torch.equal(read_maps(paths), drawn)  # also a picture without any


def test_a_picture_is_like_itself_and_less_like_another(scorer):
    style, pictures = Style(), some_pictures()
    given, measured = style.as_measured(style.draw(pictures, None), scorer), style.draw(pictures, scorer)
    assert given.shape == measured.shape == (4, 8)
    (ruler,) = style.rulers
    same, other = (ruler.score(ruler.compare(given, each)) for each in (measured, measured.roll(1, 0)))
    np.testing.assert_allclose(same, 100, atol=0.05)  # the given one was rounded to bytes
    np.testing.assert_allclose(ruler.compare(measured, measured), ruler.best, rtol=1e-6)
    assert (other < same - 0.1).all() and ruler.higher_is_better


def test_likeness_is_an_angle():
    given = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
    measured = torch.tensor([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    np.testing.assert_allclose(Style().rulers[0].compare(given, measured), [100, 0, -100], atol=1e-5)


# --- a run ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def styled_run(small_run, tmp_path_factory):
    output = tmp_path_factory.mktemp("styled")
    arguments = [*small_run[1:], "samples=3", "pairing.reference=8", f"output_dir={output}"]
    assert main(["run", "experiment=style", *arguments]) == 0
    return only_run(output)


def test_every_row_of_a_styled_run_has_a_likeness(styled_run):
    metrics = pd.read_csv(styled_run / "metrics.csv")
    wide = metrics[metrics.metric != "q"].pivot(index="method", columns="metric", values="value")
    assert {"none", "single/style", "average", "maxfusion", "spatial", "real", "vae_reconstruction", "shuffled"} < set(
        wide.index
    )
    assert np.isfinite(wide.style_clip_i).all()
    assert wide.style_clip_i["real"] == pytest.approx(100, abs=1e-3) and wide.style_clip_i["shuffled"] < 100
    assert set(metrics.query("metric == 'style_clip_i'").scorer.str.split("@").str[0]) == {"miniature/scorers/clip"}
    runs = wide.control_evaluations  # of control networks: in two steps of two halves, an image encoder once
    assert (runs["single/style"], runs["single/hed"], runs["spatial"], runs["maxfusion"]) == (1, 4, 8, 9)
    assert (styled_run / "contact_sheet.png").stat().st_size > 5000


def test_the_style_is_another_scene_s_and_the_prompt_names_things_alone(styled_run):
    samples = json.loads((styled_run / "manifest.json").read_text())["samples"]
    assert len(samples) == 3
    for sample in samples:
        sources = sample["sources"]
        assert sources["hed"] == sources["depth"] != sources["style"]
        assert set(sample["prompt"].split(" and ")) <= set(SHAPES)
        given, real = (styled_run / room / f"{sources['style']:012d}.png" for room in ("conditions/style", "real"))
        with Image.open(given) as one, Image.open(real) as two:
            assert one.mode == two.mode == "RGB" and np.array_equal(np.asarray(one), np.asarray(two))


def test_an_image_prompt_acts_where_it_is_a_branch_and_only_there(styled_run):
    def pictures(method):
        return [path.read_bytes() for path in sorted((styled_run / "images" / method).glob("*.png"))]

    assert all(one != two for one, two in zip(pictures("single/style"), pictures("none"), strict=True))
    assert all(one != two for one, two in zip(pictures("maxfusion"), pictures("spatial"), strict=True))
