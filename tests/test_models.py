"""Tests of the networks: against the paper's arithmetic, plain Flax, NumPy, and themselves padded.

Pictures are padded with random bytes throughout: what lies beyond a picture's width must count
for nothing, in values, gradients and running statistics.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from crnn_jax import models
from crnn_jax.errors import ConfigError
from crnn_jax.models.batch_norm import MaskedBatchNorm
from crnn_jax.models.bilstm import BiLSTM
from crnn_jax.models.conv_stack import ConvStack, max_pool_2x1, max_pool_2x2, num_time_steps
from crnn_jax.models.convolution import convolution
from crnn_jax.models.crnn import normalize_images

# Compilation is nearly all of the time these tests take, and this more than halves it.
jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

SMALL = {"channels": (4, 4, 8, 8, 8, 8, 8), "hidden": 8}
CLASSES = 5


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small_model(**settings: Any) -> nn.Module:
    return models.create("crnn", CLASSES, {**SMALL, **settings})


def random_variables(model: nn.Module, channels: int = 1, seed: int = 0) -> dict[str, Any]:
    """Parameters and statistics in which nothing is 0 or 1, so that nothing goes unnoticed."""
    rng = np.random.default_rng(seed)

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name == "kernel":
            values = rng.normal(size=leaf.shape) * math.sqrt(2 / math.prod(leaf.shape[:-1]))
        elif name in ("scale", "var"):
            values = rng.uniform(0.5, 2, leaf.shape)
        else:
            values = rng.normal(size=leaf.shape) * 0.3
        return jnp.asarray(values, leaf.dtype)

    images = jax.ShapeDtypeStruct((1, 32, 32, channels), jnp.uint8)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, jnp.array([32]))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def picture(width: int, channels: int = 1) -> np.ndarray:
    """The one picture there is of this width, uint8 (32, width, channels)."""
    return np.random.default_rng(width).integers(0, 256, (32, width, channels), np.uint8)


def padded(widths: Sequence[int], to: int, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """The pictures of these widths with random bytes on their right, and the widths."""
    garbage = np.random.default_rng(to)
    images = garbage.integers(0, 256, (len(widths), 32, to, channels), np.uint8)
    for image, width in zip(images, widths, strict=True):
        image[:, :width] = picture(width, channels)
    return images, np.array(widths, np.int32)


def assert_trees_close(actual: Any, expected: Any, rtol: float) -> None:
    """Each array within `rtol` of its largest element, and within a hundredth of that of all."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))

    def check(path: Any, a: jax.Array, b: jax.Array) -> None:
        scale = max(float(jnp.abs(b).max()), largest / 100)
        np.testing.assert_allclose(
            a, b, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
        )

    jax.tree_util.tree_map_with_path(check, actual, expected)


# --- size ---


def crnn_parameters(
    channels: Sequence[int], hidden: int, normalized: Sequence[int], inputs: int, classes: int
) -> int:
    """The count of Shi et al. 2015, table 1, layer by layer; `normalized` counts from 1."""
    total = 0
    features = inputs
    for layer, outputs in enumerate(channels, start=1):
        side = 2 if layer == 7 else 3
        total += side * side * features * outputs + outputs
        total += 2 * outputs if layer in normalized else 0
        features = outputs
    for outputs in (hidden, classes):
        # Both directions: four gates with weights for input and state, and one bias.
        total += 2 * 4 * ((features + hidden) * hidden + hidden)
        total += 2 * hidden * outputs + outputs
        features = outputs
    return total


PAPER = (64, 128, 256, 256, 512, 512, 512)
HALF = (32, 64, 128, 128, 256, 256, 256)


@pytest.mark.parametrize(
    ("name", "settings", "inputs", "classes", "expected"),
    [
        ("crnn", {}, 1, 63, 8_340_543),
        ("crnn", {}, 1, 63, crnn_parameters(PAPER, 256, (3, 5, 7), 1, 63)),
        ("crnn", {"batch_norm": "paper"}, 1, 37, crnn_parameters(PAPER, 256, (5, 6), 1, 37)),
        ("crnn", {"batch_norm": "all"}, 3, 37, crnn_parameters(PAPER, 256, range(8), 3, 37)),
        ("crnn", {"batch_norm": "none"}, 3, 2, crnn_parameters(PAPER, 256, (), 3, 2)),
        ("crnn", {"hidden": 96}, 1, 11, crnn_parameters(PAPER, 96, (3, 5, 7), 1, 11)),
        ("crnn_half", {}, 1, 63, crnn_parameters(HALF, 128, (3, 5, 7), 1, 63)),
        ("crnn_half", {"batch_norm": "all"}, 3, 37, crnn_parameters(HALF, 128, range(8), 3, 37)),
    ],
)
def test_parameter_counts(
    name: str, settings: Mapping[str, Any], inputs: int, classes: int, expected: int
) -> None:
    model = models.create(name, classes, {"batch_norm": "bgshih", **settings})
    images = jax.ShapeDtypeStruct((1, 32, 100, inputs), jnp.uint8)
    variables = jax.eval_shape(model.init, jax.random.key(0), images, jnp.array([100]))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == expected


@pytest.mark.parametrize(("width", "steps"), [(100, 26), (160, 41), (280, 71), (8, 3), (11, 3)])
def test_time_steps_of_the_network(width: int, steps: int) -> None:
    model = small_model()
    variables = jax.eval_shape(partial(random_variables, model))
    images = jax.ShapeDtypeStruct((2, 32, width, 1), jnp.uint8)
    logits, lengths = jax.eval_shape(model.apply, variables, images, jnp.array([8, width]))
    assert logits.shape == (2, steps, CLASSES)
    assert lengths.shape == (2,)
    assert num_time_steps(width) == steps


# Every remainder that the strides could care about, and a sample of the rest up to 600.
@pytest.mark.parametrize("widths", [range(8, 40), range(40, 601, 37)], ids=["narrow", "wide"])
def test_time_steps_of_all_widths(widths: range) -> None:
    stack = ConvStack((1,) * 7, "none")

    def shape(width: int) -> tuple[int, ...]:
        images = jax.ShapeDtypeStruct((1, 32, width, 1), jnp.float32)
        call = partial(stack.init_with_output, train=False)
        (features, _), _ = jax.eval_shape(call, jax.random.key(0), images, jnp.array([width]))
        return features.shape

    assert [shape(width) for width in widths] == [(1, 1, width // 4 + 1, 1) for width in widths]
    assert [num_time_steps(width) for width in widths] == [width // 4 + 1 for width in widths]


# --- padding ---

# Each value of leaky and of per_image occurs with the other's, each variant of batch_norm once.
NETWORKS = [
    {"batch_norm": "all", "leaky": True, "per_image": True},
    {"batch_norm": "bgshih", "leaky": False, "per_image": False},
    {"batch_norm": "paper", "leaky": True, "per_image": False},
    {"batch_norm": "none", "leaky": False, "per_image": True},
]
RAGGED = (8, 13, 26, 31, 37)


# One width alone for each network, as each is compiled: all remainders of a division by 4 occur.
@pytest.mark.parametrize(
    ("settings", "place"),
    list(zip(NETWORKS, (3, 1, 2, 0), strict=True)),
    ids=["all-31", "bgshih-13", "paper-26", "none-8"],
)
def test_a_picture_has_the_same_logits_alone_and_padded(
    settings: Mapping[str, Any], place: int
) -> None:
    model = small_model(**settings)
    apply = jit(partial(model.apply, random_variables(model)))
    logits, lengths = apply(*padded(RAGGED, 37))
    assert lengths.tolist() == [3, 4, 7, 8, 10]  # width // 4 + 1
    wider, same_lengths = apply(*padded(RAGGED, 52))
    assert same_lengths.tolist() == lengths.tolist()
    for i, steps in enumerate(lengths):
        np.testing.assert_allclose(wider[i, :steps], logits[i, :steps], atol=1e-5)
    alone, _ = apply(*padded(RAGGED[place : place + 1], RAGGED[place]))
    assert alone.shape[1] == lengths[place]
    np.testing.assert_allclose(alone[0], logits[place, : lengths[place]], atol=1e-5)
    # Logits that were all alike would pass.
    assert float(jnp.std(logits)) > 0.1
    assert float(jnp.std(logits[:, 0], axis=0).min()) > 1e-3


def test_training_is_the_same_however_wide_the_padding() -> None:
    model = small_model(**NETWORKS[0])  # the one with the most to be spoilt by padding
    variables = random_variables(model)
    weights = normal(len(RAGGED), num_time_steps(64), CLASSES)

    @jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params: Any, images: jax.Array, widths: jax.Array) -> tuple[jax.Array, Any]:
        (logits, lengths), changed = model.apply(
            {**variables, "params": params}, images, widths, train=True, mutable=["batch_stats"]
        )
        steps = logits.shape[1]
        valid = (jnp.arange(steps)[None, :] < lengths[:, None])[..., None]
        return jnp.where(valid, jnp.tanh(logits) * weights[:, :steps], 0).sum(), changed

    tight = loss(variables["params"], *padded(RAGGED, 37))
    wide = loss(variables["params"], *padded(RAGGED, 50))
    (value, changed), gradients = tight
    assert abs(float(value)) > 0.1
    np.testing.assert_allclose(wide[0][0], value, rtol=1e-4)
    assert_trees_close(wide[0][1], changed, rtol=1e-4)
    assert_trees_close(wide[1], gradients, rtol=1e-4)
    for before, after in zip(
        jax.tree.leaves(variables["batch_stats"]), jax.tree.leaves(changed), strict=True
    ):
        assert (before != after).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_scales_of_pixels(channels: int) -> None:
    widths = (9, 16, 12)
    images, _ = padded(widths, 16, channels)
    images[2] = images[2] // 8 + 100  # faint, but well above the floor
    mask = np.arange(16)[None, None, :, None] < np.array(widths)[:, None, None, None]
    normalize = jit(normalize_images, static_argnums=2)
    fixed, relative = (np.asarray(normalize(images, mask, per)) for per in (False, True))
    for i, width in enumerate(widths):
        valid = images[i, :, :width].astype(np.float64)
        np.testing.assert_allclose(fixed[i, :, :width], valid / 255 * 2 - 1, atol=1e-6)
        expected = (valid - valid.mean()) / valid.std()
        np.testing.assert_allclose(relative[i, :, :width], expected, rtol=0.02)
        assert not fixed[i, :, width:].any()
        assert not relative[i, :, width:].any()
    # A blank picture has no contrast that could be raised.
    blank = np.full(images.shape, 200, np.uint8)
    assert abs(normalize(blank, mask, True)).max() < 1e-3


# --- batch normalisation ---


def normalize(
    norm: nn.Module, variables: Any, x: jax.Array, *mask: jax.Array
) -> tuple[jax.Array, Any]:
    return norm.apply(variables, x, *mask, use_running_average=False, mutable=["batch_stats"])


def norm_variables(features: int) -> dict[str, Any]:
    return {
        "params": {"scale": normal(features, seed=1), "bias": normal(features, seed=2)},
        "batch_stats": {
            "mean": normal(features, seed=3),
            "var": np.exp(normal(features, seed=4)),
        },
    }


def test_masked_batch_norm_without_padding_is_that_of_flax() -> None:
    ours, flax = MaskedBatchNorm(momentum=0.9), nn.BatchNorm(momentum=0.9)
    mask = jnp.ones((3, 1, 5, 1), bool)
    cotangent = normal(3, 2, 5, 4, seed=9)

    @partial(jit, static_argnums=0)
    def step(masked: bool, variables: Any, x: jax.Array) -> Any:
        def forward(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            norm, more = (ours, (mask,)) if masked else (flax, ())
            return normalize(norm, {**variables, "params": params}, x, *more)

        y, pullback, changed = jax.vjp(forward, variables["params"], x, has_aux=True)
        return y, pullback(cotangent), changed

    variables = [norm_variables(4), norm_variables(4)]
    batches = [normal(3, 2, 5, 4, seed=seed) * 2 + 1 for seed in range(3)]
    for x in batches:
        results = [step(masked, v, x) for masked, v in zip((True, False), variables, strict=True)]
        assert_trees_close(results[0], results[1], rtol=1e-5)
        variables = [{**v, **result[2]} for v, result in zip(variables, results, strict=True)]
    x = batches[0]
    inference = [
        ours.apply(variables[0], x, mask, use_running_average=True),
        flax.apply(variables[1], x, use_running_average=True),
    ]
    np.testing.assert_allclose(inference[0], inference[1], rtol=1e-5, atol=1e-6)
    fresh = [ours.init(jax.random.key(0), x, mask, False), flax.init(jax.random.key(0), x, False)]
    assert_trees_close(fresh[0], fresh[1], rtol=0)


def test_masked_batch_norm_is_that_of_the_valid_part() -> None:
    widths = (7, 3, 0, 5)
    x = normal(4, 2, 7, 3) * 3 + 1
    mask = np.arange(7)[None, None, :, None] < np.array(widths)[:, None, None, None]
    variables = norm_variables(3)
    y, changed = jit(partial(normalize, MaskedBatchNorm(momentum=0.8)))(variables, x, mask)

    columns = [x[i, :, :width].reshape(-1, 3) for i, width in enumerate(widths)]
    valid = np.concatenate(columns).astype(np.float64)
    mean, var = valid.mean(0), valid.var(0)
    params, stats = variables["params"], variables["batch_stats"]
    for i, width in enumerate(widths):
        expected = (x[i, :, :width] - mean) / np.sqrt(var + 1e-5)
        expected = expected * params["scale"] + params["bias"]
        np.testing.assert_allclose(y[i, :, :width], expected, rtol=1e-5, atol=1e-5)
    changed = changed["batch_stats"]
    np.testing.assert_allclose(changed["mean"], 0.8 * stats["mean"] + 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(changed["var"], 0.8 * stats["var"] + 0.2 * var, rtol=1e-5)


def test_masked_batch_norm_on_four_devices_is_that_of_one() -> None:
    widths = np.array([6, 6, 1, 2, 5, 1, 0, 0])  # the last device has padding alone
    x = normal(8, 2, 6, 3) * 2 + 1
    mask = np.arange(6)[None, None, :, None] < widths[:, None, None, None]
    cotangent = np.where(mask, normal(8, 2, 6, 3, seed=9), 0)
    variables = norm_variables(3)

    def step(norm: nn.Module, variables: Any, x: Any, mask: Any, cotangent: Any) -> Any:
        def forward(params: Any, x: jax.Array) -> tuple[jax.Array, Any]:
            return normalize(norm, {**variables, "params": params}, x, mask)

        y, pullback, changed = jax.vjp(forward, variables["params"], x, has_aux=True)
        params_gradient, x_gradient = pullback(cotangent)
        return jnp.where(mask, y, 0), x_gradient, params_gradient, changed

    def on_device(*arguments: Any) -> Any:
        y, x_gradient, params_gradient, changed = step(
            MaskedBatchNorm(axis_name="devices"), *arguments
        )
        return y, x_gradient, lax.psum(params_gradient, "devices"), changed

    expected = jit(partial(step, MaskedBatchNorm()))(variables, x, mask, cotangent)
    devices = jax.devices()[:4]
    shards = [array.reshape(4, 2, *array.shape[1:]) for array in (x, mask, cotangent)]
    pmapped = jax.pmap(on_device, axis_name="devices", in_axes=(None, 0, 0, 0), devices=devices)(
        variables, *shards
    )
    y, x_gradient, params_gradient, changed = jax.tree.map(np.asarray, pmapped)
    for device in range(4):
        actual = (
            y.reshape(x.shape),
            x_gradient.reshape(x.shape),
            *jax.tree.map(lambda leaf, device=device: leaf[device], (params_gradient, changed)),
        )
        assert_trees_close(actual, expected, rtol=1e-5)


# --- recurrence ---


def flax_cell(direction: str, params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of `nn.OptimizedLSTMCell` that are those of a direction of a BiLSTM."""
    inputs = params[f"{direction}_input"]
    recurrent = params[direction]["recurrent"]["kernel"]
    cell: dict[str, Any] = {}
    for place, gate in enumerate("ifgo"):
        hidden = recurrent.shape[0]
        columns = slice(place * hidden, (place + 1) * hidden)
        cell[f"i{gate}"] = {"kernel": inputs["kernel"][:, columns]}
        cell[f"h{gate}"] = {"kernel": recurrent[:, columns], "bias": inputs["bias"][columns]}
    return cell


def bidirectional(hidden: int, name: str) -> nn.Module:
    """The layer as plain Flax has it; its cells are called <name>_forward and <name>_backward."""
    return nn.Bidirectional(
        nn.RNN(nn.OptimizedLSTMCell(hidden, name=f"{name}_forward")),
        nn.RNN(nn.OptimizedLSTMCell(hidden, name=f"{name}_backward")),
    )


class FlaxBiLSTM(nn.Module):
    """`bidirectional` as a module of its own."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        return bidirectional(self.hidden, "layer")(x, seq_lengths=lengths)


def flax_cells(name: str, params: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{name}_{way}": flax_cell(way, params) for way in ("forward", "backward")}


def test_bilstm_is_that_of_flax() -> None:
    ours, flax = BiLSTM(4), FlaxBiLSTM(4)
    lengths = jnp.array([6, 1, 3, 5])
    x = normal(4, 6, 3)
    valid = (jnp.arange(6)[None, :] < lengths[:, None])[..., None]
    cotangent = jnp.where(valid, normal(4, 6, 8, seed=9), 0)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), x, lengths)["params"]
    leaves, tree = jax.tree.flatten(shapes)
    params = jax.tree.unflatten(
        tree, [normal(*leaf.shape, seed=seed) for seed, leaf in enumerate(leaves)]
    )

    @partial(jit, static_argnums=0)
    def run(module: nn.Module, params: Any) -> Any:
        y, pullback = jax.vjp(lambda p, x: module.apply({"params": p}, x, lengths), params, x)
        return jnp.where(valid, y, 0), pullback(cotangent)

    y, (params_gradient, x_gradient) = run(ours, params)
    actual = (y, (flax_cells("layer", params_gradient), x_gradient))
    assert_trees_close(actual, run(flax, flax_cells("layer", params)), rtol=1e-5)


# --- convolution and pooling ---


def value_and_pullback(function: Callable[..., jax.Array], cotangent: Any, *arguments: Any) -> Any:
    """The value of a function, and the gradients that a gradient of its value leads to."""

    @jit
    def run(cotangent: jax.Array, *arguments: jax.Array) -> Any:
        value, pullback = jax.vjp(function, *arguments)
        return value, pullback(cotangent)

    return run(cotangent, *arguments)


@pytest.mark.parametrize("inputs", [1, 3, 16])
@pytest.mark.parametrize(("side", "padding"), [(3, "SAME"), (2, "VALID")])
def test_convolution_is_that_of_lax(side: int, padding: str, inputs: int) -> None:
    x, kernel = normal(2, 5, 7, inputs), normal(side, side, inputs, 6, seed=1)
    cotangent = normal(*((2, 5, 7, 6) if padding == "SAME" else (2, 4, 6, 6)), seed=2)

    def reference(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    actual = value_and_pullback(lambda x, k: convolution(x, k, padding), cotangent, x, kernel)
    expected = value_and_pullback(reference, cotangent, x, kernel)
    assert_trees_close(actual, expected, rtol=1e-5)


def max_pool(x: jax.Array, strides: tuple[int, int], border: int) -> jax.Array:
    return nn.max_pool(x, (2, 2), strides, ((0, 0), (border, border)))


@pytest.mark.parametrize(("height", "width"), [(4, 6), (5, 6), (4, 7), (3, 3)])
def test_max_pools_are_those_of_flax(height: int, width: int) -> None:
    x = normal(2, height, width, 3)
    cotangent = normal(2, height // 2, width // 2, 3, seed=1)
    actual = value_and_pullback(max_pool_2x2, cotangent, x)
    expected = value_and_pullback(lambda x: max_pool(x, (2, 2), 0), cotangent, x)
    jax.tree.map(np.testing.assert_array_equal, actual, expected)

    cotangent = normal(2, height // 2, width + 1, 3, seed=2)
    mask = jnp.ones((2, 1, width, 1), bool)
    actual = value_and_pullback(lambda x: max_pool_2x1(x, mask), cotangent, x)
    expected = value_and_pullback(lambda x: max_pool(x, (2, 1), 1), cotangent, x)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), actual, expected)


def test_max_pool_2x1_of_padded_features_is_that_of_the_valid_part() -> None:
    widths = (6, 2, 5)
    x = normal(3, 4, 6, 2) - 1  # mostly negative, so that a border of zeros would show
    cotangent = normal(3, 2, 7, 2, seed=1)
    mask = np.arange(6)[None, None, :, None] < np.array(widths)[:, None, None, None]
    # What comes of padding counts for nothing, in values and in gradients.
    reach = np.arange(7)[None, None, :, None] <= np.array(widths)[:, None, None, None]
    y, (gradient,) = value_and_pullback(
        lambda x: max_pool_2x1(x, mask), np.where(reach, cotangent, 0), x
    )
    for i, width in enumerate(widths):
        expected, (slope,) = value_and_pullback(
            lambda x: max_pool(x, (2, 1), 1),
            cotangent[i : i + 1, :, : width + 1],
            x[i : i + 1, :, :width],
        )
        np.testing.assert_array_equal(y[i, :, : width + 1], expected[0])
        np.testing.assert_allclose(gradient[i, :, :width], slope[0], rtol=1e-6)
        assert not gradient[i, :, width:].any()


# --- the whole network ---


class PlainCRNN(nn.Module):
    """The network of the paper as one would write it in Flax, for pictures of equal width."""

    channels: Sequence[int]
    hidden: int
    classes: int
    normalized: Sequence[int]
    slope: float  # of the activation, below 0

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        x = images.astype(jnp.float32) / 127.5 - 1
        for layer in range(1, 8):
            size, padding = ((2, 2), "VALID") if layer == 7 else ((3, 3), "SAME")
            x = nn.Conv(self.channels[layer - 1], size, padding=padding, name=f"conv{layer}")(x)
            if layer in self.normalized:
                x = nn.BatchNorm(use_running_average=True, name=f"norm{layer}")(x)
            x = jnp.where(x > 0, x, self.slope * x)
            if layer in (1, 2):
                x = max_pool(x, (2, 2), 0)
            if layer in (4, 6):
                x = max_pool(x, (2, 1), 1)
        x = x.reshape(x.shape[0], x.shape[2], -1)
        x = bidirectional(self.hidden, "bilstm1")(x)
        x = nn.Dense(self.hidden, name="between")(x)
        x = bidirectional(self.hidden, "bilstm2")(x)
        return nn.Dense(self.classes, name="head")(x)


@pytest.mark.parametrize(
    ("settings", "normalized", "slope"),
    [
        ({"batch_norm": "bgshih"}, (3, 5, 7), 0.0),
        ({"batch_norm": "paper", "leaky": True}, (5, 6), 0.2),
    ],
)
def test_the_network_is_that_of_the_paper(
    settings: Mapping[str, Any], normalized: tuple[int, ...], slope: float
) -> None:
    model = small_model(**settings)
    variables = random_variables(model, channels=3)
    params = variables["params"]
    plain = PlainCRNN(SMALL["channels"], SMALL["hidden"], CLASSES, normalized, slope)
    plain_variables = {
        "params": {
            **params["conv_stack"],
            **flax_cells("bilstm1", params["bilstm1"]),
            **flax_cells("bilstm2", params["bilstm2"]),
            "between": params["between"],
            "head": params["head"],
        },
        "batch_stats": variables["batch_stats"]["conv_stack"],
    }
    images = np.stack([picture(42, 3), 255 - picture(42, 3)])
    logits, lengths = jit(model.apply)(variables, images, np.array([42, 42]))
    expected = jit(plain.apply)(plain_variables, images)
    assert logits.shape == expected.shape == (2, 11, CLASSES)
    assert lengths.tolist() == [11, 11]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_logits_are_float32_whatever_the_activations() -> None:
    model, half = small_model(), small_model(dtype="bfloat16")
    variables = random_variables(model)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), random_variables(half))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype("float32")), variables)
    pictures = padded((29, 40), 40)
    expected, _ = jit(model.apply)(variables, *pictures)
    logits, _ = jit(half.apply)(variables, *pictures)
    assert expected.dtype == logits.dtype == jnp.float32
    # The last layer adds up in float32, too: its sums are no bfloat16 numbers.
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert (logits != rounded).mean() > 0.9
    # bfloat16 has 8 bits: a percent or so, and not nothing, else it was not used.
    error = jnp.abs(logits - expected).max() / jnp.abs(expected).max()
    assert 1e-4 < error < 0.1


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_stack_keeps_its_statistics(frozen: bool) -> None:
    model = small_model(batch_norm="all", freeze_conv_stack=frozen)
    variables = random_variables(model)
    images, widths = padded(RAGGED, 40)
    train = jit(partial(model.apply, train=True, mutable=["batch_stats"]))
    (logits, lengths), changed = train(variables, images, widths)
    moved = jax.tree.map(
        lambda a, b: bool((a != b).any()), variables["batch_stats"], changed["batch_stats"]
    )
    assert set(jax.tree.leaves(moved)) == {not frozen}
    evaluated, _ = jit(model.apply)(variables, images, widths)
    valid = np.arange(logits.shape[1]) < np.asarray(lengths)[:, None]
    assert np.allclose(logits[valid], evaluated[valid], atol=1e-5) == frozen


# --- the registry ---


def test_the_registry_names_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError, match=r"'crm' .*crnn, crnn_half"):
        models.create("crm", CLASSES, {})
    with pytest.raises(ConfigError, match=r"'crnn_half' .*'hiden'"):
        models.create("crnn_half", CLASSES, {"hiden": 8})
    with pytest.raises(ConfigError, match=r"'crnn' .*float31"):
        models.create("crnn", CLASSES, {"dtype": "float31"})


def test_the_registry_leaves_the_settings_alone() -> None:
    settings = {"dtype": "bfloat16", "channels": [2] * 7}  # lists, as they come out of JSON
    model = models.create("crnn_half", CLASSES, settings, axis_name="devices")
    assert settings == {"dtype": "bfloat16", "channels": [2] * 7}
    assert (model.num_classes, model.axis_name, model.hidden) == (CLASSES, "devices", 128)
    assert tuple(model.channels) == (2,) * 7
    assert model.dtype == jnp.bfloat16
