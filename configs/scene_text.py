"""Words in photographs: signs, labels, covers.

    python -m crnn_jax.main --config configs/scene_text.py

trains on words that it renders (fonts and word lists: `pip install ".[render]"`). With images of
your own, or one of the public sets:

    python -m crnn_jax.main --config configs/scene_text.py \
        --config.data.source=folder --config.data.dir=DIR --workdir runs/scene_text_mine

The variant `benchmarks` is trained on rendered words and from the training images of IIIT5K and
ICDAR 2015, which choose its best checkpoint, in an hour and a half on two cores:

    python -m crnn_jax.main --config configs/scene_text.py:benchmarks \
        --config.data.parts.iiit5k.dir=DIR --config.data.parts.icdar15.dir=DIR

What has been trained is scored on the benchmarks, DIR being their folders or databases, by

    python -m crnn_jax.score --model runs/scene_text DIR...

and goes on to other images with `--config.init_from=runs/scene_text`.
"""

import ml_collections

from configs import captcha


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The recipe of configs/captcha.py, but for what follows; default or benchmarks."""
    config = captcha.get_config()
    config.update_from_flattened_dict(
        {
            # Rendered words, 100,000 of them; `words/1000000` if you have a GPU or a TPU.
            "data.variant": "words",
            # All of printable ASCII, as a reader wants what is written there, capitals and commas
            # included. The benchmarks' 36 characters are a matter of scoring:
            # exact_match_alphanumeric. The same for all sets, so that what one has taught can be
            # learned on with another, and scored on a third.
            "alphabet.characters": (
                "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
            ),
            # The few words of public sets with other characters, such as É, are not trained on.
            "data.on_unseen": "drop",
            # Pixels: many words in photographs are no larger.
            "data.height": 32,
            # That which goes with this height.
            "model.space_to_depth": 1,
            # Times that 100,000 images are gone through ...
            "epochs": 4,
            # ... and smaller sets more often.
            "min_steps": 4_000,
            # Photographed words lie askew, and light and lenses differ. Light on dark is as common
            # as dark on light.
            "augment.affine": 0.3,
            "augment.perspective": 0.3,
            "augment.blur": 0.2,
            "augment.noise": 0.2,
            "augment.contrast": 0.3,
            "augment.invert": 0.2,
        }
    )
    if variant == "benchmarks":
        # Four of five images are rendered; all else there is of IIIT5K and ICDAR 2015 is gone
        # through a dozen times meanwhile.
        parts = {
            "words": {
                "source": "generated",
                "variant": "words",
                "weight": 8.0,
                "test_fraction": 0.0,
                "validation_fraction": 0.0,
            },
            "iiit5k": {"source": "folder", "dir": "data/iiit5k"},
            "icdar15": {"source": "folder", "dir": "data/icdar15"},
        }
        config.update(data={"source": "mixture", "parts": parts})
    elif variant != "default":
        raise ValueError(
            f"configs/scene_text.py:{variant}: the variants are default and benchmarks"
        )
    return config
