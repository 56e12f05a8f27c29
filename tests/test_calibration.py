"""Probabilities of texts against brute force; calibration against hand arithmetic and scipy."""

import hashlib
import itertools
import json
import math
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
import pytest
from scipy.special import expit, logit

from crnn_jax.decoding import Decoder
from crnn_jax.decoding.forward import text_log_probability
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import ConfigError
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.pretrained import PRETRAINED_DIR
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.reliability import (
    brier_score,
    chance_calibration_error,
    expected_calibration_error,
    risk_coverage,
    threshold,
)
from tests.test_recipes import GOLDEN

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import calibrate

IMAGES = Path(__file__).parent / "data" / "captcha_keras_v2"
ALPHABET = Alphabet("01aA")
STEPS = 5


@jax.jit
def decode(decoder: Decoder, logits: jax.Array, lengths: jax.Array) -> Any:
    return decoder(logits, lengths)


def text_probabilities(logits: np.ndarray, alphabet: Alphabet = ALPHABET) -> dict[str, float]:
    """The probability of each text, by adding up all paths."""
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    texts: defaultdict[str, float] = defaultdict(float)
    for path in itertools.product(range(logits.shape[1]), repeat=len(logits)):
        texts[alphabet.decode(path)] += math.prod(probabilities[t, k] for t, k in enumerate(path))
    return texts


def random_logits(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(0, 2, (count, STEPS, ALPHABET.num_classes)).astype(np.float32)


def test_the_probability_of_a_text_is_that_of_the_ctc_loss() -> None:
    rng = np.random.default_rng(0)
    logits, lengths = (
        rng.normal(0, 2, (6, 12, 5)).astype(np.float32),
        np.array([12, 9, 1, 12, 4, 0]),
    )
    valid = np.arange(12) < lengths[:, None]
    # Also a text with equal neighbors, and none at all.
    paths = np.where(
        valid, [[1, 1, 0, 1, 2, 2, 0, 0, 2, 3, 4, 4], [1, 2, 3] * 4] + [[0] * 12] * 4, 0
    )
    paths[3], paths[4, :4] = 2, [3, 0, 3, 4]
    log_probabilities = jax.nn.log_softmax(logits)
    found = jax.jit(text_log_probability)(log_probabilities, valid, paths)
    labels = np.zeros((6, 12), int)
    for row, path, length in zip(labels, paths, lengths, strict=True):
        classes = [k for k, _ in itertools.groupby(path[:length]) if k]
        row[: len(classes)] = classes
    expected = -optax.ctc_loss(logits, 1.0 - valid, labels, 1.0 * (labels == 0))
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({}, lambda text: True),
        ({"alphabet": "digits"}, lambda text: set(text) <= set("01")),
        ({"length": (2, 3)}, lambda text: 2 <= len(text) <= 3),
        ({"alphabet": "01a", "length": 2}, lambda text: len(text) == 2 and "A" not in text),
    ],
)
def test_a_posterior_is_the_share_among_the_allowed_texts(options: Any, allowed: Any) -> None:
    logits, lengths = random_logits(6, 1), np.array([5, 4, 5, 3, 5, 4])
    decoding = decode(make_decoder(ALPHABET, {}, **options), logits, lengths)
    texts = ALPHABET.decode_batch(decoding.path, lengths)
    for row, length, text, found in zip(
        logits, lengths, texts, decoding.log_posterior, strict=True
    ):
        probabilities = text_probabilities(row[:length])
        every = sum(value for other, value in probabilities.items() if allowed(other))
        assert math.exp(found) == pytest.approx(probabilities[text] / every, abs=1e-5)


def test_a_posterior_over_sets_follows_bayes_rule() -> None:
    priors = {"digits": 0.5, "letters": -0.25, "alphanumeric": -1.0}
    members = {"digits": "01", "letters": "aA", "alphanumeric": "01aA"}

    def weight(text: str) -> float:
        sets = [name for name, known in members.items() if set(text) <= set(known)]
        # The square root, as a set's size counts half in the choice of the set.
        return sum(math.exp(priors[s]) * (4 / len(members[s])) ** (len(text) / 2) for s in sets)

    logits, lengths = random_logits(8, 2), np.array([5, 4, 5, 3] * 2)
    decoding = decode(make_decoder(ALPHABET, priors), logits, lengths)
    texts = ALPHABET.decode_batch(decoding.path, lengths)
    assert {text.isdigit() for text in texts} == {True, False}
    for row, length, text, found in zip(
        logits, lengths, texts, decoding.log_posterior, strict=True
    ):
        probabilities = text_probabilities(row[:length])
        every = sum(value * weight(other) for other, value in probabilities.items())
        assert math.exp(found) == pytest.approx(
            probabilities[text] * weight(text) / every, abs=1e-5
        )


def test_a_posterior_of_both_cases() -> None:
    logits = random_logits(4, 3)
    decoding = decode(make_decoder(ALPHABET, {}, caseless=True), logits, np.full(4, STEPS))
    for row, path, found in zip(logits, decoding.path, decoding.log_posterior, strict=True):
        lower: defaultdict[str, float] = defaultdict(float)
        odds = np.exp(row)
        merged = np.concatenate([odds[:, :3], odds[:, 3:].sum(1, keepdims=True)], 1)
        lower.update(text_probabilities(np.log(merged), Alphabet("01a")))
        assert math.exp(found) == pytest.approx(lower[ALPHABET.decode(path)], abs=1e-5)


def test_a_posterior_of_a_lexicon_is_the_share_among_its_words() -> None:
    words = ["0", "01", "aA", "A1a", "1111"]
    logits, lengths = random_logits(6, 5), np.array([5, 4, 5, 3, 5, 4])
    decoding = decode(make_decoder(ALPHABET, {}, lexicon=words), logits, lengths)
    texts = ALPHABET.decode_batch(decoding.path, lengths)
    shares = np.exp(decoding.log_posterior)
    for row, length, text, share in zip(logits, lengths, texts, shares, strict=True):
        probabilities = text_probabilities(row[:length])
        assert share == pytest.approx(
            probabilities[text] / sum(probabilities[word] for word in words), abs=1e-5
        )


def test_a_text_that_cannot_be_has_no_confidence() -> None:
    decoding = decode(make_decoder(ALPHABET, {}, length=4), random_logits(2, 4), np.array([3, 0]))
    assert np.exp(decoding.log_posterior).tolist() == [0, 0]
    assert Calibration(intercept=9.0).confidence([0.0]) == 0
    # Where all that is allowed is out of the question, rounding leaves no share to speak of.
    sure = np.full((1, STEPS, 5), -200, np.float32)
    sure[:, :, 0] = 0
    decoding = decode(make_decoder(ALPHABET, {}, length=4), sure, np.array([STEPS]))
    assert np.exp(decoding.log_posterior).tolist() == [0]


def test_calibration_error_by_hand() -> None:
    # Bins of width 0.5: {0.1, 0.5} of which one is right, and {0.75, 0.9, 1.0} of which two are.
    confidences, right = [0.1, 0.5, 0.75, 0.9, 1.0], [False, True, True, False, True]
    assert expected_calibration_error(confidences, right, 2) == pytest.approx(
        abs(0.6 - 1) / 5 + abs(2.65 - 2) / 5
    )
    assert brier_score(confidences, right) == pytest.approx((0.01 + 0.25 + 0.0625 + 0.81 + 0) / 5)
    assert expected_calibration_error([0.0, 1.0], [False, True]) == 0


def test_what_chance_alone_gives() -> None:
    """One text of confidence 1/2 is 1/2 off whatever it is; of two, half of the draws are right."""
    assert chance_calibration_error([0.5], draws=10) == pytest.approx(0.5)
    assert chance_calibration_error([0.5, 0.5], draws=4000) == pytest.approx(0.25, abs=0.02)
    assert chance_calibration_error([1.0, 0.0]) == 0


def test_abstain_curve_by_hand() -> None:
    kept, wrong = risk_coverage([0.9, 0.5, 0.9, 0.2], [True, False, False, True])
    assert kept.tolist() == [0.5, 0.75, 1.0]
    assert wrong.tolist() == pytest.approx([1 / 2, 2 / 3, 2 / 4])


def test_threshold_is_the_least_that_suffices() -> None:
    rng = np.random.default_rng(0)
    for target in (0.5, 0.8, 0.9):
        for _ in range(20):
            confidences = rng.integers(0, 20, 40) / 20  # with ties
            right = rng.random(40) < confidences
            suffices = [
                value
                for value in confidences
                if (~right[confidences >= value]).sum() + 1
                <= (1 - target) * ((confidences >= value).sum() + 1) + 1e-9
            ]
            assert threshold(confidences, right, target) == min(suffices, default=None)
    assert threshold(np.linspace(0.5, 1, 98), np.ones(98), 0.99) is None
    assert threshold(np.linspace(0.5, 1, 99), np.ones(99), 0.99) == 0.5
    assert threshold([], [], 0.9) is None


def test_a_fit_finds_the_odds_that_the_texts_were_drawn_from() -> None:
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(0.01, 0.99, 20_000)
    truth = expit(-0.7 + 0.6 * logit(probabilities))
    right = rng.random(20_000) < truth
    found = Calibration.fit(probabilities, right)
    assert (found.intercept, found.slope) == pytest.approx((-0.7, 0.6), abs=0.06)
    assert found == Calibration.fit(probabilities, right)
    np.testing.assert_allclose(found.confidence(probabilities), truth, atol=0.02)
    before = expected_calibration_error(probabilities, right)
    after = expected_calibration_error(found.confidence(probabilities), right)
    assert after < 0.02 < 0.1 < before


def test_the_fit_has_the_least_loss() -> None:
    """Against a grid around it, with the penalty as it is documented."""
    rng = np.random.default_rng(1)
    probabilities = rng.uniform(0.05, 0.95, 150)
    right = rng.random(150) < probabilities**2
    found = Calibration.fit(probabilities, right)

    def loss(intercept: float, slope: float) -> float:
        sure = expit(intercept + slope * logit(probabilities))
        penalty = 1.5 * (intercept**2 + (slope - 1) ** 2)
        return float(-np.log(np.where(right, sure, 1 - sure)).sum() + penalty)

    best = loss(found.intercept, found.slope)
    for change in itertools.product((-0.02, 0, 0.02), repeat=2):
        assert best <= loss(found.intercept + change[0], found.slope + change[1]) + 1e-6


@pytest.mark.parametrize(("count", "wrong"), [(99, 40), (400, 4), (400, 396), (0, 0)])
def test_too_little_is_known_to_change_the_probability(count: int, wrong: int) -> None:
    probabilities = np.linspace(0.02, 0.98, count)
    found = Calibration.fit(probabilities, np.arange(count) >= wrong)
    assert (found.intercept, found.slope, found.images) == (0, 1, count)
    np.testing.assert_allclose(found.confidence(probabilities), probabilities)


def test_more_confidence_never_means_less() -> None:
    """Also where the probable texts are wrong, as in a set with wrong labels."""
    probabilities = np.linspace(0.01, 0.99, 200)
    found = Calibration.fit(probabilities, probabilities < 0.5)
    assert np.all(np.diff(found.confidence(probabilities)) > 0)


def test_a_calibration_is_saved_as_json() -> None:
    found = Calibration(-0.25, 0.875, 0.96, 1200, 900)
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found
    assert Calibration.from_dict(None) == Calibration()


def test_the_least_confidence_that_is_asked_for() -> None:
    assert Calibration(min_confidence=0.75).threshold("auto") == 0.75
    assert Calibration().threshold("0.9") == 0.9
    for wanted in ("", "1.5", "nan", "-1", "Auto"):
        with pytest.raises(ConfigError, match="is no confidence; write auto, or a number"):
            Calibration().threshold(wanted)
    with pytest.raises(ConfigError, match="validated on 13 images; write a number"):
        Calibration(images=13).threshold("auto")


def test_a_script_calibrates_a_model_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run, and a pretrained model with the digest of its manifest."""
    shutil.copytree(GOLDEN, tmp_path / "run")
    packaged = Path(shutil.copytree(PRETRAINED_DIR, tmp_path / "pretrained")) / "captcha"
    monkeypatch.setattr(calibrate, "PRETRAINED_DIR", packaged.parent)
    train = calibrate.training_images(IMAGES)
    labels = [line.split("\t")[1] for line in (IMAGES / "train.tsv").read_text().splitlines()]
    assert sorted(train.labels) == sorted(labels)
    for folder in (tmp_path / "run", packaged):
        model = TrainedModel.load(folder)
        probabilities, right = calibrate.read(model, train.select(range(8)), False)
        found = calibrate.calibrate(str(folder), [("images", train.select(range(8)), False)])
        assert found == Calibration.fit(probabilities, right) and found.images == 8
        assert TrainedModel.load(folder).calibration == found
    sums = (packaged.parent / "SHA256SUMS").read_text(encoding="utf-8")
    assert hashlib.sha256((packaged / "manifest.json").read_bytes()).hexdigest() in sums
