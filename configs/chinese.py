"""Lines of Chinese, with English and numbers between; number plates.

    python -m crnn_jax.main --config configs/chinese.py

trains on lines that it renders (fonts and word lists: `pip install ".[render]"`). With images of
your own:

    python -m crnn_jax.main --config configs/chinese.py \
        --config.data.source=folder --config.data.dir=DIR --workdir runs/chinese_mine
"""

import ml_collections

from configs import captcha


def get_config() -> ml_collections.ConfigDict:
    """The recipe of configs/captcha.py, but for what follows."""
    config = captcha.get_config()
    config.update_from_flattened_dict(
        {
            # Rendered lines, 100,000 of them; `chinese/1000000` if you have a GPU or a TPU. Their
            # alphabet, as that of any images, is what their labels are written in: 3,755 Chinese
            # characters, punctuation and printable ASCII here, 45 characters on number plates.
            "data.variant": "chinese",
            # Pixels: lines and number plates of this size are common, and take less time.
            "data.height": 32,
            # That which goes with this height.
            "model.space_to_depth": 1,
            # A second head for thousands of characters would take half a step's arithmetic again.
            "model.shortcut": False,
            # 100,000 lines need not be gone through as often as 8,000 captchas.
            "epochs": 8,
            # Photographs and scans lie a little askew, and light and lenses differ. Mildly, as the
            # strokes of a dense character are soon one.
            "augment.strength": 0.5,
            "augment.affine": 0.3,
            "augment.perspective": 0.2,
            "augment.blur": 0.2,
            "augment.noise": 0.2,
            "augment.contrast": 0.3,
        }
    )
    return config
