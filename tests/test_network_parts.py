"""The layers of the networks, against plain Flax, `jax.lax` and NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from networks import assert_trees_close, bidirectional, flax_cells, jit, max_pool, normal

from crnn_jax.models.bilstm import BiLSTM
from crnn_jax.models.ops import pooling, winograd
from crnn_jax.models.ops.batch_norm import MaskedBatchNorm
from crnn_jax.models.ops.channels import spread_channels, sum_to_channels
from crnn_jax.models.ops.dropout import Dropout
from crnn_jax.models.ops.layers import Conv, Dense
from crnn_jax.models.ops.pooling import max_pool_2x1, max_pool_2x2

# --- sums to channels, and layers with them ---


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (7, 3), (1, 1)])
def test_a_sum_to_channels_and_its_gradient(shape: tuple[int, ...], dtype: jnp.dtype) -> None:
    x, cotangent = jnp.asarray(normal(*shape), dtype), normal(shape[-1], seed=1)
    total, pullback = jax.vjp(sum_to_channels, x)
    assert total.dtype == jnp.float32
    exact = np.asarray(x, np.float64).reshape(-1, shape[-1]).sum(0)
    np.testing.assert_allclose(total, exact, rtol=1e-5, atol=1e-6)
    (gradient,) = pullback(jnp.asarray(cotangent))
    assert gradient.dtype == dtype
    expected = np.broadcast_to(np.asarray(jnp.asarray(cotangent, dtype)), shape)
    np.testing.assert_array_equal(gradient, expected)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(3, 2, 5, 4), (7, 3), (1, 1)])
def test_values_spread_over_features_and_their_gradient(
    shape: tuple[int, ...], dtype: jnp.dtype
) -> None:
    values = jnp.asarray(normal(shape[-1]), dtype)
    cotangent = jnp.asarray(normal(*shape, seed=1), dtype)
    features, pullback = jax.vjp(partial(spread_channels, shape=shape), values)
    np.testing.assert_array_equal(features, np.broadcast_to(np.asarray(values), shape))
    (gradient,) = pullback(cotangent)
    assert gradient.dtype == dtype
    exact = np.asarray(cotangent, np.float64).reshape(-1, shape[-1]).sum(0)
    rounding = 1e-5 if dtype == jnp.float32 else 2**-8
    np.testing.assert_allclose(gradient.astype(jnp.float32), exact, rtol=rounding, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "flax"),
    [
        (Conv(4, (3, 3), padding="SAME"), nn.Conv(4, (3, 3), padding="SAME")),
        (Conv(4, (2, 2), padding="VALID"), nn.Conv(4, (2, 2), padding="VALID")),
        (Dense(4), nn.Dense(4)),
    ],
    ids=["same", "valid", "dense"],
)
def test_layers_are_those_of_flax(ours: nn.Module, flax: nn.Module) -> None:
    x = normal(2, 4, 5, 3)
    fresh = [layer.init(jax.random.key(0), x) for layer in (ours, flax)]
    assert_trees_close(fresh[0], fresh[1], rtol=0)
    params = {"kernel": fresh[0]["params"]["kernel"], "bias": normal(4, seed=1)}

    def step(layer: nn.Module) -> Any:
        y, pullback = jax.vjp(lambda params, x: layer.apply({"params": params}, x), params, x)
        return y, pullback(normal(*y.shape, seed=2))

    assert_trees_close(jit(partial(step, ours))(), jit(partial(step, flax))(), rtol=1e-5)


@pytest.mark.parametrize("height", [1, 3, 4, 8, 9])
@pytest.mark.parametrize("width", [1, 4, 6, 25])
def test_convolutions_by_winograd_are_plain_ones(height: int, width: int) -> None:
    x, kernel = normal(2, height, width, 5), normal(3, 3, 5, 7, seed=1)
    cotangent = normal(2, height, width, 7, seed=2)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        axes = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=axes)

    actual = value_and_pullback(winograd.convolve_3x3, cotangent, x, kernel)
    expected = value_and_pullback(plain, cotangent, x, kernel)
    assert_trees_close(actual, expected, rtol=2e-5)


def test_winograd_is_for_many_channels_in_float32() -> None:
    def pays(*shape: int, kernel: tuple[int, ...], dtype: jnp.dtype = jnp.float32) -> bool:
        arrays = (jax.ShapeDtypeStruct(s, dtype) for s in (shape, kernel))
        return winograd.pays(*arrays)

    assert pays(32, 8, 24, 128, kernel=(3, 3, 128, 256))
    assert not pays(32, 8, 24, 128, kernel=(3, 3, 128, 256), dtype=jnp.bfloat16)
    assert not pays(1, 8, 24, 128, kernel=(3, 3, 128, 256))
    assert not pays(32, 8, 24, 64, kernel=(3, 3, 64, 64))
    assert not pays(32, 2, 24, 512, kernel=(2, 2, 512, 512))


def test_a_layer_that_it_suits_is_that_of_flax() -> None:
    x = normal(4, 8, 32, 128)
    ours, flax = Conv(128, (3, 3)), nn.Conv(128, (3, 3))
    params = flax.init(jax.random.key(0), x)
    assert winograd.pays(x, params["params"]["kernel"])
    apply = jit(lambda layer, params: layer.apply(params, x), static_argnums=0)
    actual, expected = apply(ours, params), apply(flax, params)
    assert not np.array_equal(actual, expected)  # so it is by Winograd
    assert_trees_close(actual, expected, rtol=2e-5)


# --- batch normalization ---


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


@pytest.mark.parametrize("training", [True, False])
def test_a_pool_inside_batch_norm_is_one_behind_it(training: bool) -> None:
    norm, variables = MaskedBatchNorm(), norm_variables(6)
    scale = variables["params"]["scale"]
    assert (scale < 0).any() and (
        scale > 0
    ).any()  # where it is negative, largest and smallest swap
    x = normal(3, 4, 6, 6) * 2 + 1
    mask = np.ones((3, 1, 6, 1), bool)

    def apply(params: Any, x: jax.Array, **settings: Any) -> jax.Array:
        y, _ = norm.apply(
            {**variables, "params": params},
            x,
            mask,
            use_running_average=not training,
            mutable=["batch_stats"],
            **settings,
        )
        return y

    def inside(params: Any, x: jax.Array) -> jax.Array:
        return apply(params, x, pool=max_pool_2x2)

    def behind(params: Any, x: jax.Array) -> jax.Array:
        return max_pool(apply(params, x), (2, 2), 0)

    cotangent = normal(3, 2, 3, 6, seed=9)
    actual = value_and_pullback(inside, cotangent, variables["params"], x)
    expected = value_and_pullback(behind, cotangent, variables["params"], x)
    assert_trees_close(actual, expected, rtol=1e-5)
    for pool in (None, max_pool_2x2):
        _, changed = norm.apply(variables, x, mask, not training, pool, mutable=["batch_stats"])
        moved = 0.99 * variables["batch_stats"]["mean"] + 0.01 * x.mean((0, 1, 2))
        mean = moved if training else variables["batch_stats"]["mean"]
        np.testing.assert_allclose(changed["batch_stats"]["mean"], mean, rtol=1e-5)


def test_of_equals_the_first_takes_the_gradient_of_a_pool() -> None:
    _, (gradient,) = value_and_pullback(
        max_pool_2x2, np.ones((1, 1, 1, 1), np.float32), np.ones((1, 2, 2, 1), np.float32)
    )
    assert gradient.ravel().tolist() == [1, 0, 0, 0]


# --- dropout ---


def test_dropout_on_four_devices_is_that_of_one() -> None:
    x, rate, key = normal(8, 50, 40), 0.3, jax.random.key(7)
    expected = Dropout(rate, deterministic=False).apply({}, x, rngs={"dropout": key})
    dropped = np.asarray(expected) == 0
    # Three of ten, in each sample, and not the same ones: the standard deviation is 0.01.
    np.testing.assert_allclose(dropped.mean((1, 2)), rate, atol=0.05)
    overlap = (dropped[:, None] & dropped[None]).mean((2, 3))
    np.testing.assert_allclose(overlap[~np.eye(8, dtype=bool)], rate**2, atol=0.04)
    np.testing.assert_allclose(expected, np.where(dropped, 0, x / (1 - rate)), rtol=1e-6)

    layer = Dropout(rate, deterministic=False, axis_name="devices")
    on_device = jax.pmap(
        lambda x, key: layer.apply({}, x, rngs={"dropout": key}),
        axis_name="devices",
        in_axes=(0, None),
        devices=jax.devices()[:4],
    )
    shards = on_device(x.reshape(4, 2, 50, 40), key)
    np.testing.assert_allclose(np.asarray(shards).reshape(x.shape), expected, rtol=1e-6, atol=0)


def test_dropout_that_drops_nothing_needs_no_key() -> None:
    x = normal(2, 3)
    for layer in (Dropout(0.3, deterministic=True), Dropout(0.0, deterministic=False)):
        np.testing.assert_array_equal(layer.apply({}, x), x)


# --- recurrence ---


class FlaxBiLSTM(nn.Module):
    """`bidirectional` as a module of its own."""

    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, lengths: jax.Array) -> jax.Array:
        return bidirectional(self.hidden, "layer")(x, seq_lengths=lengths)


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


# --- pooling ---


def value_and_pullback(function: Callable[..., jax.Array], cotangent: Any, *arguments: Any) -> Any:
    """The value of a function, and the gradients that a gradient of its value leads to."""

    @jit
    def run(cotangent: jax.Array, *arguments: jax.Array) -> Any:
        value, pullback = jax.vjp(function, *arguments)
        return value, pullback(cotangent)

    return run(cotangent, *arguments)


@pytest.fixture(params=["pairs", "windows"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools as they are computed here, and as on a TPU."""
    if request.param == "windows":
        monkeypatch.setattr(pooling, "_pooled", lambda x, of_pairs, of_windows: of_windows(x))


@pytest.mark.usefixtures("form")
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


@pytest.mark.usefixtures("form")
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
