"""Seconds, not minutes: short numbers and a narrow network, to try that everything runs.

python -m crnn_jax.main --config configs/tiny.py
"""

import ml_collections

from configs import captcha


def get_config() -> ml_collections.ConfigDict:
    """The default recipe of configs/captcha.py on 256 generated numbers."""
    config = captcha.get_config()
    config.epochs = 4
    config.min_steps = 0
    config.model.name = "crnn"
    config.model.channels = (16, 32, 48, 48, 64, 64, 64)
    config.model.hidden = 64
    config.data.variant = "tiny"
    config.data.buckets = 1
    config.optimizer.update(learning_rate=2e-3, boundaries=(), factors=())
    config.log_every = 4
    return config
