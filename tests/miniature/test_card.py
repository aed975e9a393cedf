import pytest
from PIL import Image

from maxbench.errors import UserError
from maxbench.miniature.card import draw_losses, tasks, write_card
from maxbench.miniature.context import write_history

LOSSES = {"loss": [4.0, 0.5, 0.125], "ends": [100, 200, 250]}
RECIPE = {"steps": 250, "batch": 16, "lr": 0.002}
PARTS = {
    "vae": {"subfolder": "vae", "channels": [8, 8, 8]},
    "decoder": {"subfolder": "vae", "noise": 0.25},
    "scorer": {"subfolder": "scorers/maps", "reconstructions": 77, "noise": 0.5, "blur": 0.0, "squared": True},
    "unet": {"subfolder": "unet"},
    "controlnet_hed": {"subfolder": "controlnet_hed", "condition": "hed", "copied_lr": 0.125},
    "controlnet_canny": {"subfolder": "controlnet_canny", "condition": "canny", "copied_lr": 0.125},
    "adapter_seg": {"subfolder": "t2iadapter_seg", "condition": "seg"},
}


def history_of(part):
    fields = {"recipe": RECIPE, "seed": 31, **PARTS[part]}
    return {"key": "k", "part": fields, "device": "CPU, 3 threads", **LOSSES, "seconds": [90.0]}


@pytest.fixture(scope="module")
def card(small_suite, tmp_path_factory):
    work, weights = (tmp_path_factory.mktemp(name) for name in ("work", "weights"))
    for part in PARTS:
        write_history(weights, part, history_of(part))
    for entry in small_suite.iterdir():
        (weights / entry.name).symlink_to(entry)
    (weights / "histories" / "trials.md").write_text("# Trials\n\nOf two recipes.\n")
    (weights / "histories" / "controls.md").write_text("# Lengths\n\nOf two controls.\n")
    write_card(weights, work, list(PARTS), note="Baked twice.", scenes=5, size=64, seed=12, held_out=4)
    return weights


def test_the_card_says_what_the_histories_say(card):
    text = (card / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: diffusers\n")
    for part in PARTS:
        line = next(line for line in text.splitlines() if line.startswith(f"| {part} | 250"))
        assert line.startswith(f"| {part} | 250 | 16 | 0.002 | 31 | 1.5 | CPU, 3 threads | 4 | 0.125 |")
    for word in (
        "**Data**: 5 rendered scenes",
        "seed 12",
        "Measured on 4 scenes",
        "**Hardware**: trained on CPU, 3 threads",
    ):
        assert word in text
    for word in ("**Date**", "Baked twice.", "(losses.png)", "PSNR", "mIoU", "own caption", "steps", "loss"):
        assert word in text
    assert text.endswith("\n## Trials\n\nOf two recipes.\n\n## Lengths\n\nOf two controls.\n")
    assert "| in vae |" in text  # the decoder's weights
    assert "{" not in text


def test_the_card_says_what_was_kept_apart():
    text = "\n".join(tasks({part: history_of(part) for part in PARTS}))
    assert "**Generator**: noise prediction" in text
    moving = {**history_of("unet"), "part": {**history_of("unet")["part"], "prediction": "v_prediction"}}
    assert "**Generator**: velocity prediction" in "\n".join(tasks({"unet": moving}))
    assert "no network sees two conditions" in text and "partly blanked" in text and "t = (1 - u^3) T" in text
    assert "**ControlNets** (controlnet_hed, controlnet_canny)" in text and "at 0.125 of the rate" in text
    assert "**Adapters** (adapter_seg)" in text and "random weights" in text
    assert "**Decoder** (decoder)" in text and "deviation 0.25" in text
    assert "**Disturbed** (scorer): noise of standard deviation up to 0.5, depth by its squared error." in text
    assert "VAE reconstructions of 77 scenes" in text and "Canny" in text
    alone = "\n".join(tasks({"unet": history_of("unet")}))
    assert "ControlNet" not in alone and "Adapter" not in alone and "Min-SNR" in alone


def test_the_losses_are_a_small_picture(card, tmp_path):
    assert (card / "losses.png").stat().st_size < 150_000
    long = {
        **history_of("unet"),
        "loss": [5 / (1 + number) for number in range(40)],
        "ends": list(range(100, 4100, 100)),
    }
    draw_losses({f"part {number}": long for number in range(14)}, tmp_path / "many.png")
    assert (tmp_path / "many.png").stat().st_size < 150_000
    with Image.open(card / "losses.png") as few, Image.open(tmp_path / "many.png") as many:
        assert few.width == many.width and few.height * 2 == many.height  # two rows of panels, and four


def test_a_part_without_a_history_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="no history of vae, unet"):
        write_card(tmp_path, tmp_path, ["vae", "unet"], note="", scenes=1, size=64, seed=0)
