"""Tests of the CTC loss against an independent float64 reference, values and gradients."""

import itertools
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from crnn_jax.training.losses import ctc_loss


@pytest.fixture(autouse=True)
def strict_ranks() -> Iterator[None]:
    with jax.numpy_rank_promotion("raise"):
        yield


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def enumerated(logits: np.ndarray, label: Sequence[int]) -> float:
    """The definition: the probabilities of all paths that collapse to the label, added up."""
    probabilities = np.exp(log_softmax(logits))
    steps, classes = logits.shape
    total = 0.0
    for path in itertools.product(range(classes), repeat=steps):
        if [k for k, _ in itertools.groupby(path) if k] == list(label):
            total += np.prod([probabilities[t, k] for t, k in enumerate(path)])
    return -np.log(total)


def recursed(logits: np.ndarray, label: Sequence[int]) -> float:
    """Forward variables over the label with blanks between (Graves et al. 2006, eq. 6 to 8)."""
    scores = log_softmax(logits)
    symbols = [0]
    for k in label:
        symbols += [k, 0]
    alpha = np.full(len(symbols), -np.inf)
    alpha[:2] = [scores[0, k] for k in symbols[:2]]
    for row in scores[1:]:
        before = alpha
        alpha = np.full_like(before, -np.inf)
        for s, k in enumerate(symbols):
            skips = s > 1 and k not in (0, symbols[s - 2])
            earlier = before[max(0, s - 2 if skips else s - 1) : s + 1]
            alpha[s] = np.logaddexp.reduce(earlier) + row[k]
    return -np.logaddexp.reduce(alpha[-2:])


def differences(logits: np.ndarray, label: Sequence[int], step: float = 1e-5) -> np.ndarray:
    """Gradient of `recursed` by central differences."""
    gradient = np.zeros_like(logits)
    for at in np.ndindex(*logits.shape):
        ahead, behind = logits.copy(), logits.copy()
        ahead[at] += step
        behind[at] -= step
        gradient[at] = (recursed(ahead, label) - recursed(behind, label)) / (2 * step)
    return gradient


@jax.jit
def loss_and_gradient(
    logits: jax.Array, lengths: jax.Array, labels: jax.Array, label_lengths: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Losses (B,), their gradients (B, T, K), feasible (B,)."""

    def total(x: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        losses, feasible = ctc_loss(x, lengths, labels, label_lengths)
        return losses.sum(), (losses, feasible)

    gradient, (losses, feasible) = jax.grad(total, has_aux=True)(logits)
    return losses, gradient, feasible


Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def batch_of(
    labels: Sequence[Sequence[int]], lengths: Sequence[int], steps: int, classes: int, width: int
) -> Batch:
    rng = np.random.default_rng(0)
    padded = np.zeros((len(labels), width), np.int32)
    for row, label in zip(padded, labels, strict=True):
        row[: len(label)] = label
    logits = rng.normal(0, 3, (len(labels), steps, classes)).astype(np.float32)
    return (
        logits,
        np.array(lengths, np.int32),
        padded,
        np.array([len(label) for label in labels], np.int32),
    )


# Ragged lengths, repeats, labels that fill their time steps exactly, and the empty label.
LABELS = [[1, 2, 3], [4, 4], [2], [], [1, 1, 1, 2, 2], [3, 1, 3, 1, 3, 1, 2], [4, 2, 2]]
LENGTHS = [12, 3, 7, 5, 8, 7, 12]


def run(batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    losses, gradient, feasible = loss_and_gradient(*map(jnp.asarray, batch))
    return np.asarray(losses), np.asarray(gradient), np.asarray(feasible)


@pytest.mark.parametrize("label", [[], [1], [2, 1], [1, 1], [1, 2, 1], [2, 2, 1], [1, 2, 1, 2]])
@pytest.mark.parametrize("steps", [4, 5])
def test_value_is_the_sum_over_all_paths(label: list[int], steps: int) -> None:
    batch = batch_of([label], [steps], steps, 3, 4)
    expected = enumerated(batch[0][0].astype(np.float64), label)
    losses, _, feasible = run(batch)
    assert feasible.all()
    assert losses[0] == pytest.approx(expected, rel=1e-5)
    assert recursed(batch[0][0].astype(np.float64), label) == pytest.approx(expected, rel=1e-12)


def test_values_and_gradients_of_a_ragged_batch() -> None:
    batch = batch_of(LABELS, LENGTHS, 12, 5, 8)
    losses, gradient, feasible = run(batch)
    assert losses.dtype == np.float32
    assert feasible.all()
    for i, (label, length) in enumerate(zip(LABELS, LENGTHS, strict=True)):
        logits = batch[0][i, :length].astype(np.float64)
        assert losses[i] == pytest.approx(recursed(logits, label), rel=1e-5)
        np.testing.assert_allclose(gradient[i, :length], differences(logits, label), atol=2e-5)
        assert not gradient[i, length:].any()


def test_a_sample_has_the_same_loss_alone() -> None:
    batch = batch_of(LABELS, LENGTHS, 12, 5, 8)
    losses, gradient, _ = run(batch)
    for i in (4, 5):
        logits, lengths, labels, label_lengths = (array[i : i + 1] for array in batch)
        alone = logits[:, : LENGTHS[i]], lengths, labels[:, : len(LABELS[i])], label_lengths
        loss, slope, _ = run(alone)
        assert loss[0] == pytest.approx(losses[i], rel=1e-6)
        np.testing.assert_allclose(slope[0], gradient[i, : LENGTHS[i]], atol=1e-6)


@pytest.mark.parametrize("rubbish", [100.0, np.inf, np.nan])
def test_what_is_behind_the_true_lengths_counts_for_nothing(rubbish: float) -> None:
    batch = batch_of(LABELS, LENGTHS, 12, 5, 8)
    logits, lengths, labels, label_lengths = (array.copy() for array in batch)
    logits[np.arange(12) >= lengths[:, None]] = rubbish
    labels[np.arange(8) >= label_lengths[:, None]] = 3
    for got, expected in zip(
        run((logits, lengths, labels, label_lengths)), run(batch), strict=True
    ):
        np.testing.assert_allclose(got, expected, atol=1e-6)


def test_repeats_behind_the_label_need_no_time_steps() -> None:
    # The padding repeats the last letter: counted, these would make the label too long.
    batch = batch_of([[1, 2]], [2], 4, 3, 4)
    batch[2][0, 2:] = 2
    assert run(batch)[2].all()


@pytest.mark.parametrize(
    ("label", "needed"), [([], 0), ([1], 1), ([1, 2], 2), ([1, 1], 3), ([2, 2, 2, 1, 1], 8)]
)
def test_feasible_from_length_plus_repeats_on(label: list[int], needed: int) -> None:
    lengths = list(range(10))
    losses, gradient, feasible = run(batch_of([label] * 10, lengths, 10, 3, 5))
    np.testing.assert_array_equal(feasible, np.array(lengths) >= needed)
    assert np.isfinite(losses).all()
    assert np.isfinite(gradient).all()
    assert losses.max() < 200  # optax gives 1e5 to what does not fit
    assert not losses[~feasible].any()
    assert not gradient[~feasible].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_infeasible_labels_leave_the_others_alone(value: float) -> None:
    batch = batch_of([*LABELS, [1, 1, 2]], [*LENGTHS, 3], 12, 5, 8)
    batch[0][-1] = value
    losses, gradient, feasible = run(batch)
    assert feasible.tolist() == [True] * len(LABELS) + [False]
    assert losses[-1] == 0
    assert not gradient[-1].any()
    expected, slope, _ = run(batch_of(LABELS, LENGTHS, 12, 5, 8))
    np.testing.assert_allclose(losses[:-1], expected, rtol=1e-6)
    np.testing.assert_allclose(gradient[:-1], slope, atol=1e-6)


def test_diverged_logits_of_a_feasible_label_show() -> None:
    batch = batch_of([[1, 2]], [4], 4, 3, 2)
    batch[0][0, 1, 1] = np.nan
    assert np.isnan(run(batch)[0][0])


def test_order_of_the_batch_is_free() -> None:
    batch = batch_of(LABELS, LENGTHS, 12, 5, 8)
    order = np.random.default_rng(1).permutation(len(LABELS))
    logits, lengths, labels, label_lengths = (array[order] for array in batch)
    shuffled = logits, lengths, labels, label_lengths
    for got, expected in zip(run(shuffled), run(batch), strict=True):
        np.testing.assert_allclose(got, expected[order], rtol=1e-6, atol=1e-7)


def test_half_precision_logits_are_widened_first() -> None:
    logits, *rest = map(jnp.asarray, batch_of(LABELS, LENGTHS, 12, 5, 8))
    half = logits.astype(jnp.bfloat16)
    losses, gradient, _ = loss_and_gradient(half, *rest)
    assert (losses.dtype, gradient.dtype) == (jnp.float32, jnp.bfloat16)
    expected, _, _ = loss_and_gradient(half.astype(jnp.float32), *rest)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_under_pmap() -> None:
    devices = jax.local_device_count()
    batch = batch_of(LABELS, LENGTHS, 12, 5, 8)
    stacked = [jnp.stack([jnp.asarray(array)] * devices) for array in batch]
    losses, gradient, _ = jax.pmap(loss_and_gradient)(*stacked)
    expected, slope, _ = run(batch)
    for device in range(devices):
        np.testing.assert_allclose(losses[device], expected, rtol=1e-6)
        np.testing.assert_allclose(gradient[device], slope, atol=1e-6)
