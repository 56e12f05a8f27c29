"""Seconds, not minutes: short numbers and a narrow network, to try that everything runs.

python -m crnn_jax.main --config configs/tiny.py
"""

import ml_collections

from configs import captcha


def get_config() -> ml_collections.ConfigDict:
    """The default recipe of configs/captcha.py on 256 generated numbers."""
    config = captcha.get_config()
    config.update(
        epochs=4,
        min_steps=0,
        model={
            "name": "crnn",
            "channels": (16, 32, 48, 48, 64, 64, 64),
            "hidden": 64,
            "space_to_depth": 1,
        },
        data={"variant": "tiny", "height": 32, "buckets": 1},
        augment={"affine": 0.0, "contrast": 0.0},
        optimizer={"learning_rate": 2e-3, "boundaries": (), "factors": ()},
        log_every=4,
    )
    return config
