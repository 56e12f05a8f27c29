"""The networks, against the arithmetic of the paper, plain Flax, and themselves with padding."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import (
    CLASSES,
    SMALL,
    PlainCRNN,
    assert_trees_close,
    image,
    jit,
    normal,
    padded,
    plain_variables,
    random_variables,
    small_model,
)

from crnn_jax import models
from crnn_jax.architecture import Architecture
from crnn_jax.errors import ConfigError
from crnn_jax.models.conv_stack import ConvStack, finer_kernel
from crnn_jax.models.crnn import normalize_images

# --- size ---


def crnn_parameters(
    channels: Sequence[int], hidden: int, normalized: Sequence[int], inputs: int, classes: int
) -> int:
    """The parameters by Shi et al. 2015, table 1, layer by layer; `normalized` counts from 1."""
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
SMALLEST = (48, 64, 96, 96, 160, 160, 192)  # crnn_small, whose first layer sees 2 x 2 x 3 inputs


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
        (
            "crnn_small",
            {"batch_norm": "all"},
            3,
            37,
            crnn_parameters(SMALLEST, 128, range(8), 12, 37),
        ),
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
    assert Architecture().time_steps(width) == steps


# Every remainder that could matter to the strides, and a sample of the widths up to 600.
@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("first_pool", [True, False])
@pytest.mark.parametrize("widths", [range(8, 40), range(40, 601, 37)], ids=["narrow", "wide"])
def test_time_steps_of_all_widths(widths: range, first_pool: bool, factor: int) -> None:
    stack = ConvStack((1,) * 7, "none", space_to_depth=factor, first_pool=first_pool)

    def shape(width: int) -> tuple[int, ...]:
        images = jax.ShapeDtypeStruct((1, 32 * factor, width, 1), jnp.float32)
        call = partial(stack.init_with_output, train=False)
        (features, _), _ = jax.eval_shape(call, jax.random.key(0), images, jnp.array([width]))
        return features.shape

    steps = [width // (4 * factor) + 1 for width in widths]
    assert [shape(width) for width in widths] == [(1, 1, count, 1) for count in steps]
    described = Architecture(first_pool=first_pool, space_to_depth=factor)
    assert [described.time_steps(width) for width in widths] == steps


def test_the_height_alone_changes_no_space_to_depth() -> None:
    images = jax.ShapeDtypeStruct((1, 64, 100, 1), jnp.float32)
    stack = ConvStack((1,) * 7, "none")
    call = partial(stack.init_with_output, train=False)
    (features, _), _ = jax.eval_shape(call, jax.random.key(0), images, jnp.array([100]))
    assert features.shape == (1, 3, 26, 1)


# --- padding ---

# All combinations of leaky and per_image, and all variants of batch_norm.
NETWORKS = [
    {"batch_norm": "all", "leaky": True, "per_image": True},
    {"batch_norm": "bgshih", "leaky": False, "per_image": False},
    {"batch_norm": "paper", "leaky": True, "per_image": False},
    {"batch_norm": "none", "leaky": False, "per_image": True},
    {"batch_norm": "all", "leaky": False, "per_image": True, "first_pool": False},
]
RAGGED = (8, 13, 26, 31, 37)


# One width for each network, as each is compiled. All remainders of a division by 4 occur.
@pytest.mark.parametrize(
    ("settings", "place", "height"),
    [
        *zip(NETWORKS, (3, 1, 2, 0, 3), (32,) * 5, strict=True),
        ({**NETWORKS[0], "space_to_depth": 2}, 1, 64),
        ({**NETWORKS[4], "space_to_depth": 2}, 3, 70),
    ],
    ids=["all-31", "bgshih-13", "paper-26", "none-8", "small-31", "high-13", "small-high-31"],
)
def test_an_image_has_the_same_logits_alone_and_padded(
    settings: Mapping[str, Any], place: int, height: int
) -> None:
    model = small_model(**settings)
    apply = jit(partial(model.apply, random_variables(model, height=height)))
    logits, lengths = apply(*padded(RAGGED, 37, height=height))
    # width // 4 + 1, or of 64 and 70 rows width // 8 + 1
    assert lengths.tolist() == ([3, 4, 7, 8, 10] if height == 32 else [2, 2, 4, 4, 5])
    wider, same_lengths = apply(*padded(RAGGED, 52, height=height))
    assert same_lengths.tolist() == lengths.tolist()
    for i, steps in enumerate(lengths):
        np.testing.assert_allclose(wider[i, :steps], logits[i, :steps], atol=1e-5)
    alone, _ = apply(*padded(RAGGED[place : place + 1], RAGGED[place], height=height))
    assert alone.shape[1] == lengths[place]
    np.testing.assert_allclose(alone[0], logits[place, : lengths[place]], atol=1e-5)
    # Constant logits would pass the checks above.
    assert float(jnp.std(logits)) > 0.1
    assert float(jnp.std(logits[:, 0], axis=0).min()) > 1e-3


# The networks with the most that padding could affect.
@pytest.mark.parametrize("settings", [NETWORKS[0], NETWORKS[4]], ids=["all", "small"])
def test_training_is_the_same_however_wide_the_padding(settings: Mapping[str, Any]) -> None:
    model = small_model(**settings)
    variables = random_variables(model)
    weights = normal(len(RAGGED), Architecture().time_steps(64), CLASSES)

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
    # A blank image has no contrast to amplify.
    blank = np.full(images.shape, 200, np.uint8)
    assert abs(normalize(blank, mask, True)).max() < 1e-3


# --- the whole network ---


@pytest.mark.parametrize(
    ("settings", "normalized", "slope", "height", "depth"),
    [
        ({"batch_norm": "bgshih"}, (3, 5, 7), 0.0, 32, 1),
        ({"batch_norm": "paper", "leaky": True}, (5, 6), 0.2, 32, 1),
        ({"batch_norm": "paper", "first_pool": False}, (5, 6), 0.0, 32, 2),
        ({"batch_norm": "bgshih", "space_to_depth": 2}, (3, 5, 7), 0.0, 64, 2),
        ({"batch_norm": "paper", "space_to_depth": 2, "first_pool": False}, (5, 6), 0.0, 64, 4),
    ],
)
def test_the_network_is_that_of_the_paper(
    settings: Mapping[str, Any], normalized: tuple[int, ...], slope: float, height: int, depth: int
) -> None:
    model = small_model(**settings)
    variables = random_variables(model, channels=3, height=height)
    first_pool = settings.get("first_pool", True)
    plain = PlainCRNN(
        SMALL["channels"], SMALL["hidden"], CLASSES, normalized, slope, depth, first_pool
    )
    # 42 pixels wide for 32 rows, and in proportion for more.
    images = image(42 * height // 32, 3, height)
    images = np.stack([images, 255 - images])
    logits, lengths = jit(model.apply)(variables, images, np.full(2, images.shape[2]))
    expected = jit(plain.apply)(plain_variables(variables), images)
    assert logits.shape == expected.shape == (2, 11, CLASSES)
    assert lengths.tolist() == [11, 11]
    np.testing.assert_allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize("first_pool", [True, False])
def test_the_finer_kernel_reads_each_two_by_two_pixels_as_one(first_pool: bool) -> None:
    model = small_model(first_pool=first_pool)
    finer_model = small_model(first_pool=first_pool, space_to_depth=2)
    variables = random_variables(model, channels=3)
    images = np.stack([image(42, 3), 255 - image(42, 3)])
    expected, _ = jit(model.apply)(variables, images, np.array([42, 42]))
    first = variables["params"]["conv_stack"]["conv1"]
    first["kernel"] = finer_kernel(np.asarray(first["kernel"]), 3)
    larger = images.repeat(2, axis=1).repeat(2, axis=2)
    logits, _ = jit(finer_model.apply)(variables, larger, np.array([84, 84]))
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_logits_are_float32_whatever_the_activations() -> None:
    model, half = small_model(), small_model(dtype="bfloat16")
    variables = random_variables(model)
    shapes = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), random_variables(half))
    assert shapes == jax.tree.map(lambda leaf: (leaf.shape, jnp.dtype("float32")), variables)
    images = padded((29, 40), 40)
    expected, _ = jit(model.apply)(variables, *images)
    logits, _ = jit(half.apply)(variables, *images)
    assert expected.dtype == logits.dtype == jnp.float32
    # The last layer computes in float32, so its results are not bfloat16 numbers.
    rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
    assert (logits != rounded).mean() > 0.9
    # bfloat16 has 8 bits: an error of a percent or so. No error would mean that it was not used.
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
    with pytest.raises(ConfigError, match=r"'crm' .*crnn, crnn_half, crnn_small"):
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


def test_the_summary_of_a_network() -> None:
    model = models.create("crnn_half", 63, {"batch_norm": "bgshih"})
    table = models.summary(model, (32, 100, 1))
    total = crnn_parameters(HALF, 128, (3, 5, 7), 1, 63)
    assert f"{total:,} (" in table
    # Rows in the order of the forward pass, each with its output: 26 columns of 256 features.
    places = [table.index(f"\n {name} ") for name in ("conv_stack", "bilstm1", "bilstm2", "head")]
    assert places == sorted(places)
    assert "float32[1,1,26,256]" in table and "float32[1,26,63]" in table
    assert max(map(len, table.splitlines())) <= 100 and "\x1b" not in table
