# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Variance maps
#
# MaxFusion (Nair et al., ECCV 2024) reads how much a control has to say at a place from the spread of its features over
# the channels (Figs. 3 and 4 of the paper). This notebook looks at that number, the *saliency*, and at who wins where
# when two controls meet.

# %%
import matplotlib.pyplot as plt
import numpy as np

import maxbench
from maxbench.fusion import MaxFusion

# %% tags=["parameters"]
NUMBER = 7  # of the example
SEED = 0
DELTA = 0.7

# %%
pipe = maxbench.load("miniature", controls=["hed", "depth"])
picture, prompt = maxbench.example(NUMBER)
maps = {name: maxbench.annotate(picture, name, pipe) for name in pipe.conditions}
print(prompt)

# %% [markdown]
# ## Each control alone
#
# Saliency of what each control gives the U-Net, at the first and at the last step, in the order of the forward pass:
# bright where the control has most to say. Each map has a scale of its own, since sizes differ from layer to layer by
# more than a picture could show.

# %%
rows = {}
for name in maps:
    made = pipe(prompt, {name: maps[name]}, seed=SEED, decisions=2)
    saliency = made.decisions.at("saliency")
    for step in sorted({step for step, _ in saliency}):
        rows[f"{name}, step {step + 1}"] = [maps[name], made.images[0]] + [
            array[0, 0].astype(float) for (at, _), array in saliency.items() if at == step
        ]


# %%
def show(rows: dict[str, list], titles: list[str], **drawn) -> plt.Figure:
    """Rows of maps, each under its name."""
    most = max(map(len, rows.values()))
    figure, axes = plt.subplots(
        len(rows), most, figsize=(1.1 * most, 1.25 * len(rows)), dpi=80, layout="constrained", squeeze=False
    )
    for line, (name, arrays) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=7)
        for place, axis in enumerate(line):
            axis.set_xticks([])
            axis.set_yticks([])
            if place < len(arrays):
                gray = {"cmap": "gray", "vmin": 0, "vmax": 255}
                axis.imshow(arrays[place], **(gray if place < 2 else drawn), interpolation="nearest")
    for axis, title in zip(axes[0], titles, strict=False):
        axis.set_title(title, fontsize=7)
    return figure


outputs = len(next(iter(rows.values()))) - 2
show(rows, ["given", "picture", *(f"output {place}" for place in range(outputs))], cmap="viridis")
plt.show()

# %% [markdown]
# ## Two controls
#
# Where their features agree (similarity above delta) they are averaged, elsewhere the relatively more salient one is
# taken. Blue: soft edges win, orange: depth wins, white: averaged.

# %%
made = pipe(prompt, maps, MaxFusion(delta=DELTA), seed=SEED, decisions=3)
winners, merged = made.decisions.at("winner"), made.decisions.at("merged")
colours = np.array([[86, 180, 233], [230, 159, 0], [245, 245, 245]], np.uint8)  # of Okabe and Ito
rows = {}
for step in sorted({step for step, _ in winners}):
    rows[f"step {step + 1}"] = [maps["hed"], maps["depth"]] + [
        colours[np.where(merged[key][0] > 0, 2, winner[0])] for key, winner in winners.items() if key[0] == step
    ]
show(rows, ["soft edges", "depth", *(f"output {place}" for place in range(outputs))])
plt.show()

# %% [markdown]
# The same over all steps and places, as numbers: how often they are averaged, how alike they are, and who wins.

# %%
table = made.decisions.table
table[table.kind == "output"].groupby("place")[["merged", "rho", "wins/hed", "wins/depth"]].mean().round(2)
