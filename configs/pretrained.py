"""Captchas of many styles: the recipe of the pretrained model `captcha`.

    python -m crnn_jax.main --config configs/pretrained.py --workdir runs/pretrained \
        --config.data.parts.pku.dir=DIR --config.data.parts.taiwan.dir=DIR
    python scripts/package_model.py runs/pretrained captcha --replace

A run takes an hour on two cores, and starts from the pretrained model of the package. The first of
them started from a run of configs/captcha.py, with `--config.init_from=runs/captcha`. The images
are captchas in random styles (`pip install "crnn_jax[render]"`) and two sets whose licenses permit
it: github.com/zhongxinghong/PKUElectiveCaptcha (MIT) and
github.com/linsamtw/TaiwanTrainVerificationCode2text (Apache-2.0). The model reads 35 % of the
random styles, some of which no eye can read, and 93 and 71 % of the test images of the two sets.
"""

import ml_collections

import crnn_jax


def get_config() -> ml_collections.ConfigDict:
    """Returns the recipe `captcha:fine_tune` for a mixture of captchas."""
    config = crnn_jax.get_config("captcha:fine_tune")
    config.update(
        data={"source": "mixture", "validation_fraction": 0.02, "buckets": 6},
        epochs=4,
        # Captchas of random styles need fewer changes than a few hundred of one style.
        augment={"affine": 0.3, "perspective": 0.0, "curve": 0.0, "contrast": 0.3, "erase": 0.0},
        model={"dropout": 0.0},
    )
    parts = {
        "styles": {"source": "generated", "variant": "styles", "weight": 6.0},
        "cased": {"source": "generated", "variant": "cased"},
        "lower": {"source": "generated", "variant": "lower"},
        "pku": {"source": "folder", "dir": "data/captcha_pku_elective", "weight": 0.8},
        "taiwan": {"source": "folder", "dir": "data/captcha_taiwan_rail", "weight": 0.8},
    }
    config.update(data={"parts": parts})
    return config
