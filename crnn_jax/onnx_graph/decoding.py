"""What is read of logits, as ONNX nodes: the best path, and how likely its text is.

The results are those of `decoding.paths.BestPath` and `CharsetPath`, where the reasons are given.
"""

from dataclasses import dataclass

import numpy as np

from crnn_jax.onnx_graph.nodes import Graph
from crnn_jax.text.alphabet import BLANK
from crnn_jax.text.constraints import SIZE_WEIGHT
from crnn_jax.text.reliability import LEAST, MOST

TINY = np.float32(1e-30)  # in place of probabilities that have vanished, so that no sum does


@dataclass(frozen=True, eq=False)
class Charsets:
    """The sets of characters that the texts of a model are likely to be of.

    Attributes:
      allowed: (S, K) bool, the characters of each set; the blank is not one.
      log_priors: (S,), how likely each set is before an image is seen.
    """

    allowed: np.ndarray
    log_priors: np.ndarray


@dataclass(frozen=True)
class Reading:
    """Names of tensors.

    Attributes:
      path: (B, T) int64, the class of each time step; blanks after the valid ones.
      log_probabilities: (B, T) float32, those of the classes among those that may be read; 0 after
        the valid time steps.
      log_share: (B,) float32, the logarithm of the probability of the text.
    """

    path: str
    log_probabilities: str
    log_share: str


def decoded(graph: Graph, logits: str, lengths: str, charsets: Charsets | None) -> Reading:
    """Adds the reading of logits (B, T, K) of the lengths (B,)."""
    log_probabilities = graph("LogSoftmax", logits, axis=-1)
    steps = graph.range(graph.size(logits, 1))
    valid = graph("Less", steps, graph("Unsqueeze", lengths, np.array([1])))  # (B, T)
    if charsets is None:
        path = _where_valid(graph, valid, graph("ArgMax", logits, axis=-1, keepdims=0), BLANK)
        of_path = graph("ReduceMax", log_probabilities, np.array([-1]), keepdims=0)
        of_path = _where_valid(graph, valid, of_path, np.float32(0))
        frames = _frames(graph, log_probabilities, valid)
        share = _text_log_probability(graph, frames, path, _starts(graph, path))
    else:
        path, of_path = _best_of_sets(graph, log_probabilities, valid, charsets)
        frames = _frames(graph, log_probabilities, valid)
        share = _log_posterior(graph, frames, path, charsets)
    return Reading(path, of_path, graph("Min", share, np.float32(0)))


def confidence(graph: Graph, log_share: str, intercept: float, slope: float) -> str:
    """Adds the calibrated probability (B,); see `recognition.calibration`."""
    share = graph("Exp", graph.cast(log_share, np.float64))
    clipped = graph("Min", graph("Max", share, np.float64(LEAST)), np.float64(MOST))
    odds = graph("Log", graph("Div", clipped, graph("Sub", np.float64(1), clipped)))
    odds = graph("Add", graph("Mul", odds, np.float64(slope)), np.float64(intercept))
    possible = graph("Greater", share, np.float64(0))
    return graph.cast(graph("Where", possible, graph("Sigmoid", odds), np.float64(0)), np.float32)


def _best_of_sets(
    graph: Graph, log_probabilities: str, valid: str, charsets: Charsets
) -> tuple[str, str]:
    """The best path within the set that explains an image best, and its log probabilities."""
    allowed = charsets.allowed.copy()
    allowed[:, BLANK] = True
    forbidden = np.where(allowed, 0, -np.inf).astype(np.float32)[:, None, None]
    of_sets = graph("Add", log_probabilities, forbidden)  # (S, B, T, K)
    best = graph("ReduceMax", of_sets, np.array([-1]), keepdims=0)  # (S, B, T)
    paths = _where_valid(graph, valid, graph("ArgMax", of_sets, axis=-1, keepdims=0), BLANK)
    score = _where_valid(graph, valid, best, np.float32(0))
    score = graph("ReduceSum", score, np.array([2]), keepdims=0)  # (S, B)
    weights = _log_weights(charsets)[:, None]
    characters = _count(graph, _starts(graph, paths), 2)
    evidence = graph("Add", score, graph("Mul", characters, weights))
    evidence = graph("Add", evidence, charsets.log_priors.astype(np.float32)[:, None])
    chosen = graph("ArgMax", evidence, axis=0, keepdims=1)  # (1, B)
    among = graph("Sub", best, graph("ReduceLogSumExp", of_sets, np.array([-1]), keepdims=0))
    among = _where_valid(graph, valid, among, np.float32(0))
    # (1, B, T), so that each image has the elements of its set.
    place = graph("Unsqueeze", chosen, np.array([2]))
    place = graph("Expand", place, graph("Shape", valid))
    path, among = (
        graph("Squeeze", graph("GatherElements", values, place, axis=0), np.array([0]))
        for values in (paths, among)
    )
    return path, among


def _log_posterior(graph: Graph, frames: str, path: str, charsets: Charsets) -> str:
    """The log probability (B,) of the texts of paths among all texts, by Bayes' rule."""
    weights, priors = _log_weights(charsets), charsets.log_priors.astype(np.float32)
    allowed = charsets.allowed.copy()
    allowed[:, BLANK] = True
    starts = _starts(graph, path)
    outside = graph("Gather", (~allowed).astype(np.float32), path, axis=1)  # (S, B, T)
    outside = graph("ReduceMax", outside, np.array([2]), keepdims=0)
    prior = graph("Add", graph("Mul", _count(graph, starts, 1), weights[:, None]), priors[:, None])
    prior = graph("Add", prior, graph("Mul", outside, np.float32(-1e30)))
    own = graph("ReduceLogSumExp", prior, np.array([0]), keepdims=0)
    own = graph("Add", own, _text_log_probability(graph, frames, path, starts))
    every = graph("Add", _sets_log_probability(graph, frames, allowed, weights), priors)
    every = graph("ReduceLogSumExp", every, np.array([1]), keepdims=0)
    return graph("Sub", own, every)


def _log_weights(charsets: Charsets) -> np.ndarray:
    """The logarithm of the weight of each character of a text of a set, (S,)."""
    sizes = charsets.allowed.sum(1)
    classes = charsets.allowed.shape[1]
    return (SIZE_WEIGHT * (np.log(classes - 1) - np.log(sizes))).astype(np.float32)


def _where_valid(graph: Graph, valid: str, values: str, other: int | np.float32) -> str:
    return graph("Where", valid, values, np.asarray(other))


def _starts(graph: Graph, paths: str) -> str:
    """At which time steps of paths (..., T) a character begins, bool."""
    ends = np.array([-1])
    before = graph("Slice", paths, np.array([0]), ends, ends)
    first = graph("Slice", paths, np.array([0]), np.array([1]), ends)
    before = graph("Concat", graph("Mul", first, np.int64(0)), before, axis=-1)
    changed = graph("Not", graph("Equal", paths, before))
    return graph("And", changed, graph("Not", graph("Equal", paths, np.int64(BLANK))))


def _count(graph: Graph, flags: str, axis: int) -> str:
    return graph("ReduceSum", graph.cast(flags, np.float32), np.array([axis]), keepdims=0)


def _frames(graph: Graph, log_probabilities: str, valid: str) -> str:
    """Probabilities (T, B, K), by which each time step that is not valid is a blank."""
    probabilities = graph("Exp", graph("Transpose", log_probabilities, perm=[1, 0, 2]))
    valid = graph("Unsqueeze", graph("Transpose", valid, perm=[1, 0]), np.array([2]))
    classes = graph.range(graph.size(log_probabilities, 2))
    blank = graph.cast(graph("Equal", classes, np.int64(BLANK)), np.float32)
    return graph("Max", graph("Where", valid, probabilities, blank), TINY)


def _text_log_probability(graph: Graph, frames: str, path: str, starts: str) -> str:
    """The log probability (B,) of the text of each path, summed over its alignments.

    The states are the blanks and the characters of the text in turn, from the blank before it to
    the blank after it (Graves et al. 2006, section 4.1). The sums are scaled to 1 in each time
    step; the alignment that was the most likely one cannot vanish beside the others.

    Args:
      graph: where to.
      frames: (T, B, K), probabilities.
      path, starts: (B, T).
    """
    one, last = np.array([1]), np.array([-1])
    numbers = graph("CumSum", graph.cast(starts, np.int64), np.int64(1))
    count = graph("ReduceMax", numbers, one, keepdims=1)  # (B, 1)
    # Column n has the n-th character. Column 0 takes what is none, and is the first blank.
    place = graph("Where", starts, numbers, np.int64(0))
    room = graph("Add", graph("ReduceMax", count, np.array([0]), keepdims=0), np.int64(1))
    shape = graph("Concat", graph.size(path, 0), room, axis=0)
    labels = graph("Expand", np.int64(BLANK), shape)
    labels = graph(
        "ScatterElements", labels, place, graph("Mul", path, graph.cast(starts, np.int64)), axis=1
    )
    # (B, S): a blank after each, without the column that was no character.
    blanks = graph("Mul", labels, np.int64(0))
    stacked = graph("Concat", *(graph("Unsqueeze", x, last) for x in (labels, blanks)), axis=2)
    states = graph("Reshape", stacked, np.array([0, -1]))
    states = graph("Slice", states, one, np.array([2**31]), one)
    number = graph.range(graph.size(states, 1))  # (S,)
    inside = graph("LessOrEqual", number, graph("Mul", count, np.int64(2)))
    at_end = graph("GreaterOrEqual", number, graph("Sub", graph("Mul", count, np.int64(2)), one))
    emitted = _emitted(graph, frames, states, inside)
    transitions = _transitions(graph, states, number)
    start = graph.cast(graph("Equal", number, np.int64(0)), np.float32)
    start = graph("Expand", start, graph("Shape", graph("Unsqueeze", states, one)))

    ones = graph("Expand", np.float32(1), graph("Concat", graph.size(states, 1), one, axis=0))

    def step(body: Graph, state: str, frame: str) -> tuple[str, str]:
        found = body("Mul", body("MatMul", state, transitions), frame)
        return _scaled(body, found, ones)

    state, scales = graph.scan(step, start, emitted, ("B", 1, "S"))
    final = graph("Mul", graph("Squeeze", state, one), graph.cast(at_end, np.float32))
    total = graph("Log", graph("ReduceSum", final, one, keepdims=0))
    return graph("Add", total, _sum_of_logs(graph, scales, [0, 2, 3]))


def _emitted(graph: Graph, frames: str, states: str, inside: str) -> str:
    """The probabilities of states (B, S) in each time step, (T, B, 1, S); 0 if not `inside`."""
    place = graph("Unsqueeze", states, np.array([0]))
    shape = graph("Concat", graph.size(frames, 0), graph("Shape", states), axis=0)
    emitted = graph("GatherElements", frames, graph("Expand", place, shape), axis=2)
    emitted = graph("Mul", emitted, graph.cast(inside, np.float32))
    return graph("Unsqueeze", emitted, np.array([2]))


def _transitions(graph: Graph, states: str, number: str) -> str:
    """Which states (B, S) follow each other, (B, S, S) float32."""
    ahead = graph("Sub", number, graph("Unsqueeze", number, np.array([1])))
    near = graph(
        "And", graph("GreaterOrEqual", ahead, np.int64(0)), graph("LessOrEqual", ahead, np.int64(1))
    )
    # A character follows another one without a blank between if they differ.
    rows, columns = (graph("Unsqueeze", states, np.array([axis])) for axis in (2, 1))
    differ = graph("Not", graph("Equal", rows, columns))
    skip = graph("And", graph("Equal", ahead, np.int64(2)), differ)
    return graph.cast(graph("Or", near, skip), np.float32)


def _sets_log_probability(
    graph: Graph, frames: str, allowed: np.ndarray, log_weights: np.ndarray
) -> str:
    """The sums (B, S) over all texts of each set, each character of which has a weight.

    The states are the classes, (B, S, K): the last class of a path. A class goes on, or another one
    begins with its weight.
    """
    weights = np.exp(log_weights)[:, None] * np.ones_like(allowed, np.float32)
    weights[:, BLANK] = 1
    goes_on, begins = (allowed * (1 - weights)).astype(np.float32), (allowed * weights)
    begins = begins.astype(np.float32)
    start = np.zeros(allowed.shape, np.float32)
    start[:, BLANK] = 1
    images = graph.size(frames, 1)
    first = graph("Expand", start[None], graph("Concat", images, np.array(allowed.shape), axis=0))

    ones = graph.constant(np.ones((allowed.shape[1], 1), np.float32))

    def step(body: Graph, state: str, frame: str) -> tuple[str, str]:
        # The states sum up to 1, so the others are 1 without the class itself.
        found = body("Add", body("Mul", state, goes_on), begins)
        return _scaled(body, body("Mul", found, frame), ones)

    frames = graph("Unsqueeze", frames, np.array([2]))
    _, scales = graph.scan(step, first, frames, ("B", "Q", "K"))
    return _sum_of_logs(graph, scales, [0, 3])


def _scaled(body: Graph, found: str, ones: str) -> tuple[str, str]:
    """States whose sum is 1, and the sum that they had."""
    # For a few numbers, ReduceSum takes eight times as long as a product.
    total = body("MatMul", found, ones)
    return body("Div", found, total), total


def _sum_of_logs(graph: Graph, scales: str, axes: list[int]) -> str:
    return graph("ReduceSum", graph("Log", scales), np.array(axes), keepdims=0)
