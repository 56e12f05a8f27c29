"""Random changes to images: each does what its name says."""

from pathlib import Path

import numpy as np
import pytest

from crnn_jax.data.augment import Augmentation, augment, drawn_changes
from crnn_jax.data.images import Preprocessing, prepare
from crnn_jax.errors import ConfigError

IMAGES = sorted((Path(__file__).parent / "data" / "captcha_keras_v2" / "images").iterdir())[:4]
CHANGES = list(Augmentation().shares)


@pytest.fixture(scope="module", params=[1, 3])
def images(request: pytest.FixtureRequest) -> list[np.ndarray]:
    preprocessing = Preprocessing(channels=request.param)
    return [prepare(path.read_bytes(), preprocessing, path.name) for path in IMAGES]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def ruled(height: int = 32, width: int = 160) -> np.ndarray:
    """A black line, three pixels thick, through the middle of a white image."""
    image = np.full((height, width, 3), 255, np.uint8)
    image[height // 2 - 1 : height // 2 + 2] = 0
    return image


def heights_of_the_line(image: np.ndarray) -> np.ndarray:
    """The row of the center of mass of the ink in each column."""
    ink = 255.0 - image.mean(-1)
    ink = ink[:, ink.sum(0) > 100]
    return (np.arange(len(ink))[:, None] * ink).sum(0) / ink.sum(0)


def test_the_changes_that_are_named_are_made(images: list[np.ndarray]) -> None:
    both = Augmentation(invert=0.5, curve=0.5, strength=0.01)  # too weak to bend anything
    named = set()
    for seed in range(40):
        changed = augment(images[0], both, rng(seed))
        names = drawn_changes(both, rng(seed))
        named.add(tuple(names))
        expected = 255 - images[0] if "invert" in names else images[0]
        np.testing.assert_allclose(changed.astype(int), expected.astype(int), rtol=0, atol=8)
    assert named == {(), ("curve",), ("invert",), ("curve", "invert")}


def test_without_shares_nothing_changes(images: list[np.ndarray]) -> None:
    assert not Augmentation().active
    for image in images:
        np.testing.assert_array_equal(augment(image, Augmentation(), rng()), image)


@pytest.mark.parametrize("change", CHANGES)
def test_each_change_keeps_shape_and_type_and_depends_only_on_the_generator(
    change: str, images: list[np.ndarray]
) -> None:
    augmentation = Augmentation(**{change: 1.0})
    assert augmentation.active
    for image in images:
        before = image.copy()
        first, again = (augment(image, augmentation, rng(1)) for _ in range(2))
        np.testing.assert_array_equal(image, before)  # cached images are not written to
        np.testing.assert_array_equal(first, again)
        assert first.shape == image.shape and first.dtype == np.uint8
        assert not np.array_equal(first, image)
        if change != "invert":
            assert not np.array_equal(first, augment(image, augmentation, rng(2)))


def test_the_share_of_changed_images_is_the_setting() -> None:
    image = ruled()
    augmentation = Augmentation(invert=0.3)
    changed = [augment(image, augmentation, rng(seed))[0, 0, 0] == 0 for seed in range(2_000)]
    # Four standard deviations of a binomial with 2,000 draws at 0.3.
    assert abs(np.mean(changed) - 0.3) < 4 * (0.3 * 0.7 / 2_000) ** 0.5


def test_invert_is_its_own_inverse(images: list[np.ndarray]) -> None:
    augmentation = Augmentation(invert=1.0)
    for image in images:
        once = augment(image, augmentation, rng())
        np.testing.assert_array_equal(once.astype(int) + image, 255)


def test_a_curved_line_bends_and_stays_one_line() -> None:
    augmentation = Augmentation(curve=1.0)
    for seed in range(20):
        rows = heights_of_the_line(augment(ruled(), augmentation, rng(seed)))
        assert len(rows) == 160
        # The wave stays within a fifth of half the height of the middle row.
        assert np.abs(rows - 16).max() <= 0.2 * 16 + 1.0
        assert np.abs(np.diff(rows)).max() < 1.0
    bends = [np.ptp(heights_of_the_line(augment(ruled(), augmentation, rng(s)))) for s in range(20)]
    assert max(bends) > 2


def test_an_affine_change_keeps_a_line_straight() -> None:
    for seed in range(20):
        rows = heights_of_the_line(augment(ruled(), Augmentation(affine=1.0), rng(seed)))
        # The ends of the line may have left the image.
        rows = rows[8:-8]
        places = np.arange(len(rows))
        line = np.polyval(np.polyfit(places, rows, 1), places)
        assert np.abs(rows - line).max() < 0.75


def test_blur_keeps_the_mean_and_lowers_the_contrast(images: list[np.ndarray]) -> None:
    for image in images:
        blurred = augment(image, Augmentation(blur=1.0), rng())
        assert abs(blurred.mean() - image.mean()) < 2
        assert blurred.std() < image.std()


def test_noise_has_the_stated_strength_and_no_bias() -> None:
    gray = np.full((32, 400, 3), 128, np.uint8)
    deviations = []
    for seed in range(20):
        noisy = augment(gray, Augmentation(noise=1.0), rng(seed)).astype(float)
        assert abs(noisy.mean() - 128) < 0.5
        deviations.append(noisy.std())
    assert min(deviations) >= 2 and max(deviations) <= 16.5


def test_erasing_changes_small_rectangles_only() -> None:
    image = ruled()
    for seed in range(20):
        erased = augment(image, Augmentation(erase=1.0), rng(seed))
        changed = (erased != image).any(-1)
        assert (erased[changed] == 255).all()  # the color of the border
        assert changed.sum() <= 2 * 3 * 10  # two rectangles of at most 9 columns on three rows


def test_strength_scales_the_changes() -> None:
    reach = {
        strength: np.mean(
            [
                np.abs(
                    augment(
                        ruled(), Augmentation(strength=strength, contrast=1.0), rng(seed)
                    ).astype(int)
                    - ruled()
                ).mean()
                for seed in range(10)
            ]
        )
        for strength in (0.2, 1.0)
    }
    assert reach[0.2] < 0.5 * reach[1.0]


@pytest.mark.parametrize("width", [8, 9, 31, 1024])
def test_the_narrowest_and_the_widest_image(width: int) -> None:
    image = np.full((32, width, 1), 200, np.uint8)
    everything = Augmentation(strength=3.0, **dict.fromkeys(CHANGES, 1.0))
    for seed in range(5):
        assert augment(image, everything, rng(seed)).shape == (32, width, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"blur": 1.5}, r"augment\.blur=1\.5.*0 to 1"),
        ({"jpeg": -0.1}, r"augment\.jpeg=-0\.1.*0 to 1"),
        ({"strength": 0}, r"augment\.strength=0.*above 0"),
        ({"start": 1.1}, r"augment\.start=1\.1.*0 to 1"),
    ],
)
def test_a_share_outside_its_range_is_named(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Augmentation.from_config(settings)
