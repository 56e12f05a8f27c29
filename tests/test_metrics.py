"""Metrics, compared with a textbook edit distance and with values computed by hand."""

import random
from dataclasses import asdict
from itertools import pairwise

import pytest

from crnn_jax.errors import DataError
from crnn_jax.text.metrics import TextMetrics


def edit_distance(a: str, b: str) -> int:
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        previous, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (x != y)))
    return row[-1]


def test_hand_computed_values() -> None:
    metrics = TextMetrics.from_texts(
        ["kitten", "ABC", "", "x", "中文"],
        ["sitting", "abc", "", "", "中国"],
        loss_sum=10.0,
        loss_count=4,
        blanks=3,
        time_steps=12,
    )
    # edits 3, 3, 0, 1, 1; reference lengths 7, 3, 0, 0, 2; 1-NED 4/7, 0, 1, 0, 1/2
    assert metrics.compute() == pytest.approx(
        {
            "loss": 2.5,
            "exact_match": 1 / 5,
            "exact_match_caseless": 2 / 5,
            "exact_match_alphanumeric": 2 / 5,
            "exact_match_confusable": 2 / 5,
            "cer": 8 / 12,
            "one_minus_ned": (4 / 7 + 1 + 1 / 2) / 5,
            "blank_fraction": 0.25,
            "mean_predicted_length": 12 / 5,
            "count": 5,
        }
    )
    assert isinstance(metrics.compute()["count"], int)


def test_cer_weighs_characters_not_samples() -> None:
    assert TextMetrics.from_texts(["b", "a" * 9], ["a", "a" * 9]).compute()["cer"] == 0.1
    assert TextMetrics.from_texts(["aaa"], ["b"]).compute()["cer"] == 3.0


def test_the_caseless_match_is_that_of_unicode() -> None:
    metrics = TextMetrics.from_texts(["STRASSE", "ΟΔΟΣ", "a"], ["straße", "οδος", "b"])
    assert (metrics.exact, metrics.exact_caseless) == (0, 2)


def test_a_missing_image_is_never_right_and_costs_all_its_characters() -> None:
    missing = TextMetrics.from_texts([None, None, "ab"], ["abc", "", "ab"]).compute()
    assert missing == {
        "loss": 0,
        **dict.fromkeys(("exact_match", "exact_match_caseless"), 1 / 3),
        **dict.fromkeys(("exact_match_alphanumeric", "exact_match_confusable"), 1 / 3),
        "cer": 3 / 5,
        "one_minus_ned": 1 / 3,
        "blank_fraction": 0,
        "mean_predicted_length": 2 / 3,
        "count": 3,
    }


def test_chunks_merge_to_the_whole_and_agree_with_the_textbook() -> None:
    rng = random.Random(0)
    texts = ["".join(rng.choices("abé中", k=rng.randrange(7))) for _ in range(80)]
    predictions, references = texts[:40], texts[40:]
    whole = TextMetrics.from_texts(
        predictions, references, loss_sum=20.0, loss_count=40, blanks=40, time_steps=120
    )
    distances = list(map(edit_distance, predictions, references))
    longest = [max(map(len, pair)) for pair in zip(predictions, references, strict=True)]
    assert whole.edits == sum(distances)
    assert whole.compute()["one_minus_ned"] == pytest.approx(
        sum(1 - d / n if n else 1 for d, n in zip(distances, longest, strict=True)) / 40
    )
    for _ in range(20):
        cuts = [0, *sorted(rng.choices(range(41), k=3)), 40]  # some chunks are empty
        chunks = [
            TextMetrics.from_texts(
                predictions[start:stop],
                references[start:stop],
                loss_sum=0.5 * (stop - start),
                loss_count=stop - start,
                blanks=stop - start,
                time_steps=3 * (stop - start),
            )
            for start, stop in pairwise(cuts)
        ]
        assert asdict(sum(chunks, TextMetrics())) == pytest.approx(asdict(whole))


def test_degenerate_sets() -> None:
    with pytest.raises(DataError, match="no samples"):
        TextMetrics.from_texts([], []).compute()
    with pytest.raises(ValueError):
        TextMetrics.from_texts(["a"], [])
    empty = TextMetrics.from_texts([""], [""]).compute()
    assert (empty["cer"], empty["one_minus_ned"], empty["blank_fraction"]) == (0, 1, 0)
    assert TextMetrics.from_texts(["ab"], [""]).compute()["cer"] == 2
