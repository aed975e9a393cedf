import numpy as np
import pytest
import torch
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from maxbench.errors import UserError
from maxbench.metrics.statistics import Interval
from maxbench.miniature.annotators import HEADS, OUTPUTS
from maxbench.miniature.corpus import VALIDATION_SEED, render_corpus
from maxbench.miniature.quality import (
    BOTH,
    ERRORS,
    Maps,
    Measure,
    autoencoder_quality,
    compare_errors,
    compare_maps,
    exact_maps,
    format_interval,
    found,
    measure_parts,
    parts_tables,
    read_maps,
    require,
    tidy,
)
from maxbench.miniature.world import CLASSES


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return render_corpus(6, VALIDATION_SEED, 64, tmp_path_factory.mktemp("scenes"))


def test_an_observer_that_draws_the_exact_maps_is_perfect(corpus):
    exact = exact_maps(corpus)
    output = torch.zeros(len(corpus), OUTPUTS, 64, 64)
    output[:, HEADS["depth"]] = exact.depth
    output[:, HEADS["hed"]] = exact.edges.logit(eps=1e-6)
    output[:, HEADS["seg"]].scatter_(1, exact.classes[:, None].long(), 9.0)
    seen = read_maps(lambda images: output, torch.from_numpy(np.array(corpus.images)), "perfect")
    values = {each.measure: each.interval.value for each in compare_maps("perfect", "renderings", exact, seen)}
    assert values["depth RMSE, 0-255, fitted"] == pytest.approx(0, abs=1e-4)
    assert values["depth RMSE, 0-255, as is"] == 0
    assert values["mIoU x100"] == values["mIoU x100 of solids"] == 100
    assert values["edge SSIM"] == pytest.approx(1, abs=1e-4)


def test_only_the_depth_error_as_it_is_knows_of_scale_and_shift(corpus):
    exact = exact_maps(corpus)
    paler = Maps(exact.depth * 0.5 + 0.25, exact.edges, exact.classes)
    fitted, as_is, overlap, *_ = (each.interval for each in compare_maps("pale", "renderings", exact, paler))
    assert fitted.value == pytest.approx(0, abs=1e-4)
    error = 255 * (0.25 - 0.5 * exact.depth).square().mean((1, 2, 3)).sqrt()
    assert as_is.value == pytest.approx(float(error.mean()), rel=1e-5)
    assert as_is.low < as_is.value < as_is.high and as_is.n == len(corpus)
    blind = Maps(exact.depth, exact.edges, torch.ones_like(exact.classes))  # all is sky
    whole, solids = (each.interval.value for each in compare_maps("blind", "renderings", exact, blind)[2:4])
    assert 0 == solids < whole < overlap.value == 100


def test_errors_that_are_the_same_correlate_and_those_of_other_draws_do_not(corpus):
    generator = torch.Generator().manual_seed(3)
    exact = exact_maps(corpus)

    def erring(generator):
        """Noise on both levels, and a fifth of the classes drawn anew."""
        noise = [0.1 * torch.randn(exact.depth.shape, generator=generator) for _ in range(2)]
        drawn = torch.randint(len(CLASSES), exact.classes.shape, generator=generator).byte()
        anew = torch.rand(exact.classes.shape, generator=generator) < 0.2
        return Maps(exact.depth + noise[0], exact.edges + noise[1], torch.where(anew, drawn, exact.classes))

    one, two = erring(generator), erring(generator)
    same = {each.measure: each.interval for each in compare_errors("renderings", exact, one, one)}
    other = {each.measure: each.interval for each in compare_errors("renderings", exact, one, two)}
    names = ["correlation, depth", "correlation, edges", "phi, classes", "the same wrong class, %"]
    assert list(same) == list(other) == names
    assert [same[name].value for name in names] == pytest.approx([1, 1, 1, 100])
    assert [other[name].value for name in names[:3]] == pytest.approx([0, 0, 0], abs=0.03)
    assert other[names[3]].value == pytest.approx(100 / (len(CLASSES) - 1), abs=2)  # by chance, of those not right
    mirrored = Maps(exact.depth - (one.depth - exact.depth), one.edges, one.classes)
    against = compare_errors("renderings", exact, one, mirrored)[0].interval.value
    assert against == pytest.approx(-1)
    perfect = compare_errors("renderings", exact, exact, one)
    assert np.isnan([each.interval.value for each in perfect]).all()  # who never errs


def test_the_autoencoders_numbers_are_those_of_torchmetrics(corpus):
    images = torch.from_numpy(np.array(corpus.images))
    decoded = images.roll(1, -1)
    psnr, ssim = (each.interval.value for each in autoencoder_quality(images, decoded))
    one, two = images.float() / 255, decoded.float() / 255
    assert psnr == pytest.approx(float(peak_signal_noise_ratio(two, one, data_range=1.0)), rel=1e-5)
    assert ssim == pytest.approx(float(structural_similarity_index_measure(two, one, data_range=1.0)), rel=1e-4)


def test_a_caption_is_found_where_none_is_nearer():
    texts = torch.eye(4)
    assert found(texts, texts, among=4).tolist() == [True] * 4
    assert found(texts[[1, 0, 2, 3]], texts, among=4).tolist() == [False, False, True, True]
    shared = texts[[0, 0, 2, 3]]
    assert found(shared, shared, among=4).all()
    assert len(found(texts, texts, among=3)) == 3  # the fourth has no group
    assert len(found(texts, texts, among=64)) == 4


def test_every_part_of_a_family_is_measured_on_every_kind_of_picture(small_suite, corpus):
    measures = measure_parts(small_suite, corpus)
    assert [each.part for each in measures].count("vae") == 2
    for part in ("annotator", "scorer", BOTH, ERRORS):
        assert {each.on for each in measures if each.part == part} == {"renderings", "VAE reconstructions"}
    for each in measures:
        assert each.interval.n == len(corpus) and each.better in ("higher", "lower")
        assert each.interval.low <= each.interval.value <= each.interval.high
    table = tidy(measures)
    assert list(table.columns) == ["part", "measure", "value", "low", "high", "n", "better"]
    assert len(table) == len(measures) and not table.duplicated(["part", "measure"]).any()
    text = parts_tables(measures)
    for word in ("PSNR, dB ↑", "own caption", "mIoU", "as is ↓", "| scorer | VAE reconstructions |"):
        assert word in text
    assert text.count("| part | on |") == 4  # autoencoder, captions, all map networks in one, and their errors


def test_an_incomplete_family_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="lacks vae, annotators, scorers/maps, scorers/clip"):
        require(tmp_path)


def test_numbers_are_told_with_about_three_digits():
    assert format_interval(Interval(27.312, 27.1, 27.55, 9)) == "27.3 [27.1, 27.6]"
    assert format_interval(Interval(0.91234, 0.9, 0.92, 9)) == "0.912 [0.900, 0.920]"
    assert format_interval(Interval(4.5, np.nan, np.nan, 1)) == "4.50"
    assert format_interval(None) == format_interval(Interval(np.nan, np.nan, np.nan, 3)) == "-"
    ssim = Measure("vae", "SSIM", "renderings", Interval(0.5, 0.4, 0.6, 7), "higher")
    assert parts_tables([ssim]).splitlines() == [
        "| part | on | SSIM ↑ | N |",
        "| --- | --- | --- | --- |",
        "| vae | renderings | 0.500 [0.400, 0.600] | 7 |",
    ]
