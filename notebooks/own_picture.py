# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Two controls on your own picture
#
# Set `PICTURE` to a file of yours and `PROMPT` to what it shows. Without a file a picture is drawn here. With
# photographs take `SUITE = "sd15"`, once its weights have been [fetched](../docs/sd15.md): the miniature knows rendered
# scenes of spheres, boxes, cones and cylinders alone.

# %%
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFilter

import maxbench

# %% tags=["parameters"]
SUITE = "miniature"
PICTURE = None
PROMPT = "a red sphere on grass under a clear sky"
SEEDS = [0, 1, 2]


# %%
def drawn() -> Image.Image:
    """A picture that nobody rendered: a disc with a light side, and the ground that it stands on."""
    image = Image.new("RGB", (384, 288), (130, 180, 235))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 150, 384, 288), fill=(80, 140, 60))
    draw.ellipse((140, 80, 260, 200), fill=(170, 25, 25))
    draw.ellipse((160, 90, 220, 150), fill=(225, 70, 60))
    return image.filter(ImageFilter.GaussianBlur(3))


def show(rows: dict[str, list], width: float = 1.6) -> None:
    """Rows of pictures, each row under its name."""
    most = max(map(len, rows.values()))
    _, axes = plt.subplots(
        len(rows), most, figsize=(width * most, (width + 0.2) * len(rows)), dpi=80, layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (name, pictures) in zip(axes, rows.items(), strict=True):
        line[0].set_title(name, fontsize=9, loc="left")
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    plt.show()


# %% [markdown]
# A picture is cut to the square in its middle and resized to the suite's resolution before maps are drawn from it, as
# every source picture of a run is.

# %%
pipe = maxbench.load(SUITE, controls=["hed", "depth"])
picture = Image.open(PICTURE).convert("RGB") if PICTURE else drawn()
maps = {name: pipe.annotate(picture, name) for name in pipe.conditions}
show({"picture, soft edges, depth": [picture, *maps.values()]}, 2)

# %% [markdown]
# Several seeds at once: a list of seeds and as many prompts are a batch.

# %%
prompts = [PROMPT] * len(SEEDS)
made = {
    "text alone": pipe(prompts, seed=SEEDS).images,
    "sum": pipe(prompts, maps, "sum", seed=SEEDS).images,
    "maxfusion": pipe(prompts, maps, "maxfusion", seed=SEEDS).images,
}
show(made)

# %% [markdown]
# ## Strengths and windows
#
# One number for `controlnet_conditioning_scale` is the strength of what was merged. A list gives each control its own,
# as with several ControlNets in diffusers. `control_guidance_end` lets a control stop early.

# %%
usual = pipe.suite.control_scale
show(
    {
        "edges strong, depth weak": pipe(
            prompts, maps, "sum", seed=SEEDS, controlnet_conditioning_scale=[usual, usual / 4]
        ).images,
        "edges weak, depth strong": pipe(
            prompts, maps, "sum", seed=SEEDS, controlnet_conditioning_scale=[usual / 4, usual]
        ).images,
        "depth in the first third of the steps alone": pipe(
            prompts, maps, "sum", seed=SEEDS, control_guidance_end={"depth": 0.34}
        ).images,
    }
)

# %% [markdown]
# ## A map in a part of the picture
#
# A mask says where a map is given. Outside it the map has the value that says nothing, as in a run whose conditions
# share a picture. Here soft edges are given in the left half and depth in the right one.

# %%
left = np.zeros((pipe.resolution, pipe.resolution), bool)
left[:, : pipe.resolution // 2] = True
masks = {"hed": left, "depth": ~left}
halves = pipe(prompts, maps, "maxfusion", masks=masks, seed=SEEDS).images
show({"edges on the left, depth on the right": halves})

# %%
table = maxbench.score(halves, maps, PROMPT, masks=masks, suite=pipe)
table[table.metric.isin(["hed_ssim", "depth_rmse", "clip_score"])].pivot(
    index="picture", columns="metric", values="value"
).round(3)
