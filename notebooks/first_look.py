# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # A first look
#
# Two controls, soft edges and depth, for one picture: what a text alone gives, what each control gives alone, and what
# three rules make of both. Everything here runs on a processor with the embedded miniature suite, whose pictures are of
# a rendered world and 64 pixels wide.

# %%
import matplotlib.pyplot as plt

import maxbench
from maxbench.fusion import GatedSum, MaxFusion

pipe = maxbench.load("miniature", controls=["hed", "depth"])
pipe

# %% tags=["parameters"]
NUMBER = 7  # of the example
SEED = 0


# %%
def show(**pictures):
    """Pictures in a row, each under its name."""
    _, axes = plt.subplots(1, len(pictures), figsize=(1.7 * len(pictures), 2), dpi=80, layout="constrained")
    for axis, (name, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_title(name.replace("_", " "), fontsize=9)
        axis.set_axis_off()
    plt.show()


# %% [markdown]
# A picture of the world that no part of the suite was trained on, its caption, and the two maps that are drawn from it.

# %%
picture, prompt = maxbench.example(NUMBER)
maps = {name: maxbench.annotate(picture, name, pipe) for name in pipe.conditions}
print(prompt)
show(picture=picture, soft_edges=maps["hed"], depth=maps["depth"])

# %% [markdown]
# The same noise in every picture. Without maps the text decides alone; a control whose map is not given does not run.

# %%
made = {
    "text": pipe(prompt, seed=SEED).images[0],
    "hed": pipe(prompt, {"hed": maps["hed"]}, seed=SEED).images[0],
    "depth": pipe(prompt, {"depth": maps["depth"]}, seed=SEED).images[0],
    "sum": pipe(prompt, maps, "sum", seed=SEED).images[0],
    "gated_sum": pipe(prompt, maps, GatedSum(power=2.0), seed=SEED).images[0],
    "maxfusion": pipe(prompt, maps, MaxFusion(delta=0.7), seed=SEED).images[0],
}
show(**made)

# %% [markdown]
# How far both maps hold in each picture: they are measured again in it, by other networks than those that drew them.
# More is better of `hed_ssim` and of `clip_score`, less of `depth_rmse`. One picture says little about a rule; a run
# measures many, with intervals.

# %%
names = ["hed_ssim", "depth_rmse", "clip_score"]
scores = maxbench.score(list(made.values()), maps, prompt, suite=pipe)
table = scores.pivot(index="picture", columns="metric", values="value")[names]
table.set_axis(list(made), axis="index").round(3)
