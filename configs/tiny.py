"""Short numbers and a narrow network, to see in seconds that everything runs.

    python -m crnn_jax.main --config configs/tiny.py

trains on 256 generated numbers for four epochs, which is too short to read anything.
"""

import ml_collections

import crnn_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the default recipe with the following changes."""
    config = crnn_jax.get_config("captcha")
    config.update(
        epochs=4,
        min_steps=0,
        init_from="",
        stop_on_plateau=False,
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
