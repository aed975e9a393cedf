"""Scoring holds a few batches of maps at a time, whatever the number of images, and reads a map once for all rows."""

import hashlib
import tracemalloc
from collections import Counter

import numpy as np
import pytest
import torch

from evaluation.test_law import CONDITIONS, NETWORKS, SIDE, depth, edges
from maxbench import images as im
from maxbench.data.pairing import Sample
from maxbench.evaluation import scoring
from maxbench.evaluation.scoring import Measuring, Pictures, Scorers, Scoring, Target
from maxbench.generation.executors.local import LocalExecutor
from maxbench.generation.networks import Networks
from maxbench.store.artefacts import Artefact
from maxbench.store.scores import Scores

NAMES = ("depth", "hed")
ROWS = ("real", "first", "second")


class Pool:
    """A text-image scorer: the mean colours of the picture's quarters."""

    def images(self, pictures):
        return torch.nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1)

    def texts(self, prompts):
        return torch.tensor([[float(len(prompt) + place) for place in range(12)] for prompt in prompts])


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of every row 48 pictures, and of every condition the maps of the real ones."""
    folder, generator, found = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0), {}
    for row in ROWS:
        found[row] = []
        for place in range(48):
            picture = generator.integers(256, size=(8, 8, 3), dtype=np.uint8).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
            content = im.encode_png(picture)
            path = folder / f"{row}-{place}.png"
            path.write_bytes(content)
            found[row].append(Artefact(path.name, hashlib.sha256(content).hexdigest(), path))
    for name in NAMES:
        for place, file in enumerate(found["real"]):
            (own,) = CONDITIONS[name].draw(im.read_images([file.path], SIDE), NETWORKS[name])
            (folder / f"{name}-{place}.png").write_bytes(im.encode_png(own.numpy()))
    return folder, found


def score(*arguments, **settings):
    """The rows of the first images, and real pictures against others' maps, scored from nothing."""
    own, asked = prepared(*arguments, **settings)
    return own.measure(asked)


def prepared(files, scores, count, batch_size=4, rows=ROWS, read=None):
    """What scores `count` images, and what is asked."""
    folder, found = files
    read = read or (lambda path: im.read_maps([path])[0])
    targets = {
        name: [
            Target(lambda path=path: read(path), None, CONDITIONS[name].rulers, path.name)
            for path in (folder / f"{name}-{place}.png" for place in range(count))
        ]
        for name in NAMES
    }
    scorers = Scorers(features=("clip",), identity=lambda kind, name: [kind, name], device="cpu")
    conditions, networks = {name: CONDITIONS[name] for name in NAMES}, {"depth": depth, "hed": edges}.get
    executor = LocalExecutor(Networks(conditions, load_clip=Pool, load_scorer=networks, load_self_consistency=networks))
    measuring = Measuring(conditions, scorers, frozenset(NAMES), Scores(scores), batch_size, executor)
    images = [(Sample(f"s{place:03d}", "a" * (1 + place % 5), {}), 0) for place in range(count)]
    own = Scoring(measuring, images, targets, SIDE)
    pictures = {row: Pictures({name: tuple(found[row][:count]) for name in NAMES}, same=True) for row in rows}
    asked = {row: own.of(each) for row, each in pictures.items()}
    return own, {**asked, "shuffled": own.against_others(pictures["real"])}


def growth(files, folder):
    """By how much more is held at most for 32 images than for 8, and by how much what is kept is larger, in bytes.

    As Python and NumPy count, above what was there before.
    """
    score(files, folder / "warm", 4, 2, ROWS[:1])  # what is loaded and cached once
    peaks, kept = [], []
    for count in (8, 32):
        own, asked = prepared(files, folder / str(count), count, 2, ROWS[:2])
        tracemalloc.start()
        try:
            found = own.measure(asked)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        kept.append(sum(each.nbytes for row in found.values() for each in row.values()))
    return peaks[1] - peaks[0], kept[1] - kept[0]


MAPS = 24 * len(NAMES) * SIDE * SIDE
"""Bytes of the maps that 32 images have more than 8."""


def test_memory_grows_by_what_is_kept_and_not_by_maps(files, tmp_path):
    more, kept = growth(files, tmp_path)
    assert kept < MAPS / 8  # else this test could not tell
    assert more < kept + MAPS / 2


def test_memory_that_holds_all_maps_is_seen(files, tmp_path, monkeypatch):
    """So that the test above can fail."""
    monkeypatch.setattr(scoring, "BATCHES_AT_A_TIME", 1000)
    more, _ = growth(files, tmp_path)
    assert more > MAPS


def test_a_map_is_read_once_for_all_rows_and_by_scorer_and_annotator(files, tmp_path):
    reads = Counter()

    def read(path):
        reads[path.name] += 1
        return im.read_maps([path])[0]

    score(files, tmp_path, 24, read=read)
    once = 24 * len(NAMES)
    assert len(reads) == once
    # The last picture of each of two blocks is held against the first map of the next one.
    assert sum(reads.values()) == once + 2 * len(NAMES)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_uneven_batches_and_blocks_are_the_whole(batch_size, files, tmp_path):
    whole, parts = score(files, tmp_path / "a", 10, batch_size=10), score(files, tmp_path / "b", 10, batch_size)
    assert list(whole) == list(parts) == [*ROWS, "shuffled"]
    for row, own in whole.items():
        assert set(own) == set(parts[row])
        for label, each in own.items():
            assert parts[row][label].dtype == each.dtype and len(each) == 10
            np.testing.assert_allclose(parts[row][label], each, rtol=1e-5, atol=1e-6, err_msg=label)  # float32 networks
    assert not np.allclose(whole["real"]["hed/hed_ssim"], whole["shuffled"]["hed/hed_ssim"])


def test_rows_that_are_scored_together_are_those_scored_alone(files, tmp_path):
    together = score(files, tmp_path / "a", 12)
    for row in ROWS[1:]:
        alone = score(files, tmp_path / row, 12, rows=("real", row))
        for label, each in together[row].items():
            np.testing.assert_array_equal(alone[row][label], each)


def test_counts_of_pixels_are_kept_small_and_are_never_cut():
    found = {}
    for start, value in ((0, 7), (2, 2**31 - 1), (4, 2**31)):
        scoring._keep(found, {"counts": np.full((2, 3), value, np.int64), "score": np.ones(2)}, start, 6)
        assert found["counts"].dtype == (np.int64 if value == 2**31 else np.int32)
    np.testing.assert_array_equal(found["counts"][:, 0], [7, 7, 2**31 - 1, 2**31 - 1, 2**31, 2**31])
    assert found["score"].dtype == np.float64
