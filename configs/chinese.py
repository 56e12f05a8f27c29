"""Lines of Chinese with English and numbers in them; number plates.

    python -m crnn_jax.main --config configs/chinese.py

renders 100,000 lines and trains on them (fonts and word lists: `pip install "crnn_jax[render]"`).
With your own images:

    python -m crnn_jax.main --config configs/chinese.py \
        --config.data.source=folder --config.data.dir=DIR --workdir runs/chinese_mine
"""

import ml_collections

import crnn_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the default recipe with the following changes."""
    config = crnn_jax.get_config("captcha")
    config.update_from_flattened_dict(
        {
            # The pretrained model reads captchas, and knows no Chinese.
            "init_from": "",
            # 100,000 rendered lines; with a GPU or a TPU, chinese/1000000. The alphabet is that of
            # the labels: here 3,755 Chinese characters, punctuation and printable ASCII; 45
            # characters on number plates.
            "data.variant": "chinese",
            # Pixels: lines and number plates of this size are common, and take less time.
            "data.height": 32,
            # The space to depth that goes with this height.
            "model.space_to_depth": 1,
            # A second head for thousands of characters would add half of the arithmetic of a step.
            "model.shortcut": False,
            # 100,000 lines need fewer epochs than 8,000 captchas.
            "epochs": 8,
            # Photographs and scans are a little askew, and differ in light and sharpness. The
            # changes are mild, so that the strokes of a dense character do not merge.
            "augment.strength": 0.5,
            "augment.affine": 0.3,
            "augment.perspective": 0.2,
            "augment.blur": 0.2,
            "augment.noise": 0.2,
            "augment.contrast": 0.3,
        }
    )
    return config
