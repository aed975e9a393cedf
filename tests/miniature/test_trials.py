"""U-Nets that are held against each other before any control is trained, on small random weights."""

import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from compare_generators import main
from maxbench.errors import UserError
from maxbench.miniature import trials
from maxbench.miniature.context import TrainingContext, read_history, write_history
from maxbench.miniature.corpus import render_corpus
from maxbench.miniature.diffusion import Denoising, UNet, make_scheduler, near_solids
from maxbench.miniature.generated import FLOOR
from maxbench.miniature.quality import load_map_networks
from maxbench.miniature.training import Recipe, step_generator
from maxbench.miniature.trials import (
    Sampling,
    compare_generators,
    draw_pictures,
    held_out_loss,
    recipe_of,
    wrong_kind,
)
from maxbench.miniature.words import lone_kind
from maxbench.miniature.world import CLASSES, SHAPES

SCENES = 8


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return render_corpus(SCENES, 9977, 64, tmp_path_factory.mktemp("scenes"))


@pytest.fixture
def family(small_suite, tmp_path):
    shutil.copytree(small_suite, tmp_path / "family")
    recipe = {"steps": 3, "batch": 2, "lr": 0.1, "ema": 0.9}
    said = {"recipe": recipe, "prediction": "epsilon", "channels": [16, 32], "seed": 7}
    for part in ("vae", "text_encoder", "unet"):
        write_history(tmp_path / "family", part, {"key": part, "part": said})
    return tmp_path / "family"


def denoising(prediction):
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 2, 4, 4, generator=generator)
    nobody = type("Text", (), {"__call__": lambda self, tokens: type("Out", (), {"last_hidden_state": tokens})()})()
    tokens = torch.zeros(4, 1, 3, dtype=torch.long)
    return Denoising(latents, tokens, tokens[:1, 0], nobody, make_scheduler(prediction), torch.device("cpu"))


def test_the_loss_is_one_quantity_whatever_is_predicted():
    """The same error of the clean latents costs the same, told as noise or as velocity."""
    tasks = {name: denoising(name) for name in ("epsilon", "v_prediction")}
    losses = {}
    for name, task in tasks.items():
        index, noisy, timestep, _, target = task.draw(step_generator(0, "test", 0), 64)
        alpha = task.scheduler.alphas_cumprod[timestep][:, None, None, None]
        clean = task.latents[index]
        wrong = clean + 0.1  # what a network that errs by as much everywhere takes the clean latents for
        noise = (noisy - alpha.sqrt() * wrong) / (1 - alpha).sqrt()
        said = noise if name == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * wrong
        snr = (alpha / (1 - alpha)).flatten()
        assert task.loss(said, target, timestep, index) == pytest.approx(
            float(0.01 * snr.clamp(max=5).mean()), rel=1e-3
        )
        losses[name] = task.loss(said, target, timestep, index)
    assert losses["epsilon"] == pytest.approx(float(losses["v_prediction"]), rel=1e-3)


def test_a_floor_and_solids_weigh_as_they_say():
    """A floor counts alike at every noise level; a cell near a solid counts as often as it is told."""
    plain, lifted = denoising("v_prediction"), replace(denoising("v_prediction"), weight_floor=0.5)
    said = torch.zeros(3, 2, 4, 4)
    target, index = torch.ones_like(said), torch.tensor([0, 1, 2])
    timestep = torch.tensor([10, 500, 990])
    alpha = plain.scheduler.alphas_cumprod[timestep]
    more = lifted.losses(said, target, timestep, index) - plain.losses(said, target, timestep, index)
    torch.testing.assert_close(more, 0.5 * (1 - alpha))  # the error of the clean latents, of that of the velocity
    cells = torch.ones(4, 1, 4, 4)
    cells[1, :, :2] = 3.0
    near = replace(plain, emphasis=cells).losses(said, target, timestep, index)
    torch.testing.assert_close(near / plain.losses(said, target, timestep, index), torch.tensor([1.0, 2.0, 1.0]))


def test_cells_near_a_solid_are_those_that_see_one_and_their_neighbours(corpus, tmp_path):
    cells = near_solids(TrainingContext(corpus, tmp_path, tmp_path, torch.device("cpu")), 16)
    classes = torch.from_numpy(np.array(corpus.segmentation))
    solid = (classes >= CLASSES.index(SHAPES[0])).unflatten(1, (16, 4)).unflatten(3, (16, 4)).any(4).any(2)
    assert cells.shape == (SCENES, 1, 16, 16) and not cells.all() and solid.any()
    for scene, row, column in solid.nonzero().tolist():
        assert cells[scene, 0, max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].all()
    assert cells.sum() <= 9 * solid.sum()


def test_a_recipe_that_cannot_be_is_refused():
    part = replace(UNet(Recipe(1, 1, 0.1), 0, "unet", (8, 8)), prediction="sample")
    with pytest.raises(UserError, match="'sample'; it is one of epsilon, v_prediction"):
        part.train(None)
    with pytest.raises(UserError, match="weight_floor is for prediction=v_prediction"):
        replace(part, prediction="epsilon", weight_floor=1.0).train(None)
    with pytest.raises(UserError, match="solids is 0; give more than 0"):
        replace(part, prediction="epsilon", solids=0).train(None)
    with pytest.raises(UserError, match="weight_floor is -1; give 0 or more"):
        replace(part, prediction="epsilon", weight_floor=-1).train(None)


def test_controls_learn_what_their_unet_predicts(family, corpus, tmp_path):
    """A control is trained towards what the family's own schedule says, not towards noise whatever the U-Net."""
    make_scheduler("v_prediction").save_pretrained(family / "scheduler")
    task = Denoising.of(TrainingContext(corpus, tmp_path / "arrays", family, torch.device("cpu")))
    assert task.scheduler.config.prediction_type == "v_prediction"


def test_pictures_depend_on_the_seed_and_on_the_prediction(family):
    draw = partial(draw_pictures, family, ["a red box"] * 2)
    once = draw(Sampling(2, 3.0))
    assert once.shape == (2, 3, 64, 64) and once.dtype == torch.uint8
    assert torch.equal(once, draw(Sampling(2, 3.0)))
    assert not torch.equal(once, draw(Sampling(2, 3.0, seed=1)))
    DDPMScheduler.from_pretrained(family / "scheduler", prediction_type="v_prediction").save_pretrained(
        family / "scheduler"
    )
    assert not torch.equal(once, draw(Sampling(2, 3.0)))


def test_a_family_is_compared_with_itself(family, corpus, tmp_path, monkeypatch):
    """Two names of one family get the same numbers, and the real pictures are the floor."""
    monkeypatch.setattr(trials, "LOSS_BATCHES", 4)
    look = load_map_networks(family)["scorer"]
    clip = family / "scorers" / "clip"
    measures = compare_generators({"one": family, "two": family}, corpus, look, clip, Sampling(2, 3.0), tmp_path / "a")
    one, two = (
        [(each.measure, each.interval.value) for each in measures if each.part == name] for name in ("one", "two")
    )
    assert len(one) == 4 and one == two
    distance = {each.part: each.interval.value for each in measures if each.measure.startswith("FD-CLIP")}
    assert distance[FLOOR] < distance["one"]
    again = held_out_loss(family, corpus, tmp_path / "a")
    assert 1000 * again.mean() == pytest.approx(measures[0].interval.value)


def test_a_unet_that_reads_nothing_minds_no_wrong_kind(family, tmp_path):
    """Where the text has no effect a wrong kind costs nothing; where it has, it costs something."""
    scenes = render_corpus(24, 9977, 64, tmp_path)
    alone = [captions[0] for captions in scenes.captions if lone_kind(captions[0])]
    grown = wrong_kind(family, scenes, tmp_path / "a")
    assert grown.shape == (len(alone),) and len(alone) and (grown != 0).all()
    unet = UNet2DConditionModel.from_pretrained(family / "unet")
    for name, parameter in unet.named_parameters():
        if "attn2.to_v" in name:
            torch.nn.init.zeros_(parameter)
    unet.save_pretrained(family / "unet")
    np.testing.assert_allclose(wrong_kind(family, scenes, tmp_path / "a"), 0)


def how(family, tmp_path):
    clip = family / "scorers/clip"
    return ["--scenes", str(SCENES), "--steps", "2", "--clip", str(clip), "--folder", str(tmp_path / "work")]


def test_the_page_says_how_each_was_trained(family, tmp_path):
    output = tmp_path / "results" / "v3.1"
    assert main([str(family), *how(family, tmp_path), "--output", str(output)]) == 0
    page = (tmp_path / "results" / "v3.1.md").read_text()
    assert "| family | 16 32 | epsilon | 6 | 2 | 0.1 | 0.9 | 0.0 | 1.0 | 7 |" in page
    assert "of version 2 of the world" in page and "`scorers/clip@" in page
    assert set(pd.read_csv(tmp_path / "results" / "v3.1.csv").part) == {FLOOR, "family"}


MISTAKES = {
    "no history of its unet": lambda family: (family / "histories" / "unet.json").unlink(),
    "no history of its vae": lambda family: (family / "histories" / "vae.json").unlink(),
    "has no unet; name a folder": lambda family: shutil.rmtree(family / "unet"),
    "maps has no weights": lambda family: shutil.rmtree(family / "scorers" / "maps"),
    "clip has no weights": lambda family: shutil.rmtree(family / "scorers" / "clip"),
    "no version 9 of the world": lambda family: write_history(
        family, "vae", {**read_history(family, "vae"), "data": {"world": 9}}
    ),
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_what_is_lacking_is_one_sentence(sentence, family, tmp_path, capsys):
    MISTAKES[sentence](family)
    assert main([str(family), *how(family, tmp_path), "--output", str(tmp_path / "page")]) == 2
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said
    assert not list(tmp_path.glob("page*"))


def test_families_of_different_worlds_are_not_compared(family, tmp_path, capsys):
    other = shutil.copytree(family, tmp_path / "other")
    for path in (other / "histories").glob("*.json"):
        write_history(other, path.stem, {**read_history(other, path.stem), "data": {"world": 3}})
    words = [str(family), str(other), *how(family, tmp_path), "--output", str(tmp_path / "page")]
    assert main(words) == 2
    assert "(family 2, other 3); compare those of one" in capsys.readouterr().err


def test_a_family_without_a_choice_of_prediction_predicts_noise(family):
    assert recipe_of(family)["pictures seen"] == 6
    said = read_history(family, "unet")
    del said["part"]["prediction"]  # of histories that were written before there was a choice
    write_history(family, "unet", said)
    assert recipe_of(family)["prediction"] == "epsilon"
