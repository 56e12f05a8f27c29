"""Words in photographs: signs, labels, book covers.

    python -m crnn_jax.main --config configs/scene_text.py

renders 100,000 words and trains on them (fonts and word lists: `pip install "crnn_jax[render]"`).
With your own images, or a public set:

    python -m crnn_jax.main --config configs/scene_text.py \
        --config.data.source=folder --config.data.dir=DIR --workdir runs/scene_text_mine

The variant `benchmarks` trains on rendered words and on the training images of IIIT5K and ICDAR
2015, from which the validation images are. It takes an hour and a half on two cores:

    python -m crnn_jax.main --config configs/scene_text.py:benchmarks \
        --config.data.parts.iiit5k.dir=DIR --config.data.parts.icdar15.dir=DIR

The variant `fine_tune` starts from the weights of nano-ocr (MIT), a CRNN that was trained in
PyTorch on two million words:

    pip install "crnn_jax[torch,render]"
    pip download --no-deps nano-ocr==0.1.0 && unzip nano_ocr-0.1.0-py3-none-any.whl
    crnn-jax import nano_ocr/model/nano_ocr_ftr.pth --alphabet ALPHABET --out runs/nano_ocr
    python -m crnn_jax.main --config configs/scene_text.py:fine_tune \
        --config.data.parts.iiit5k.dir=DIR --config.data.parts.icdar15.dir=DIR

A model is scored on the folders or databases of the benchmarks with

    python -m crnn_jax.score --model runs/scene_text DIR...

and trained on other images with `--config.init_from=runs/scene_text`.
"""

import ml_collections

import crnn_jax

VARIANTS = {
    "default": "The recipe as it is.",
    "benchmarks": "With the training images of IIIT5K and ICDAR 2015: an hour and a half.",
    "fine_tune": "The same from imported weights: 40 minutes.",
}


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """Returns the default recipe with the following changes, or one of its VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = crnn_jax.get_config("captcha")
    config.update_from_flattened_dict(
        {
            # The pretrained model reads captchas.
            "init_from": "",
            # 100,000 rendered words; with a GPU or a TPU, words/1000000.
            "data.variant": "words",
            # Printable ASCII, so that capitals and punctuation are read as well. Benchmarks compare
            # 36 characters: the metric exact_match_alphanumeric. The alphabet is the same for all
            # sets, so that a model of one set can be trained on a second and scored on a third.
            "alphabet.characters": (
                "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                " !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
            ),
            # The few words of public sets that have other characters, such as É, are left out of
            # training.
            "data.on_unseen": "drop",
            # Pixels: many words in photographs are no larger.
            "data.height": 32,
            # The space to depth that goes with this height.
            "model.space_to_depth": 1,
            # Passes over 100,000 images.
            "epochs": 4,
            # Smaller sets get more passes.
            "min_steps": 4_000,
            # Words in photographs are askew, and differ in light and sharpness. Light on dark is as
            # common as dark on light.
            "augment.affine": 0.3,
            "augment.perspective": 0.3,
            "augment.blur": 0.2,
            "augment.noise": 0.2,
            "augment.contrast": 0.3,
            "augment.invert": 0.2,
        }
    )
    if variant != "default":
        # Four of five images are rendered. IIIT5K and ICDAR 2015 get a dozen passes in a run.
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
    if variant == "fine_tune":
        config.init_from = "runs/nano_ocr"
        # The network of the weights, and the images that it was trained on.
        config.model.update(name="nano_ocr", batch_norm="nano_ocr", per_image=False)
        config.model.update(shortcut=False, dropout=0.2)
        config.data.update(channels=1, width=128)
        # The weights know rendered words already, so fewer than half of the images are rendered.
        # IIIT5K and ICDAR 2015 get 27 and 18 passes in a run.
        config.data.parts.words.update(variant="words/40000", weight=2.0)
        config.data.parts.icdar15.weight = 1.5
        config.epochs = 5
        config.optimizer.learning_rate = 5e-4
        config.augment.update(start=0.0, affine=0.4, curve=0.2, contrast=0.5, jpeg=0.1)
    return config
