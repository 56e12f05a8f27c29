"""Captchas of many styles: what the pretrained model was trained on.

    python -m crnn_jax.main --config configs/pretrained.py --workdir runs/pretrained \
        --config.data.parts.pku.dir=DIR --config.data.parts.taiwan.dir=DIR
    python scripts/package_model.py runs/pretrained captcha --replace

Each run goes on from the one before it; the first began with `--config.init_from=runs/captcha`,
which knows one font. Besides captchas drawn in random styles (`pip install ".[render]"`) it is
trained on two sets whose licenses allow it: github.com/zhongxinghong/PKUElectiveCaptcha (MIT) and
github.com/linsamtw/TaiwanTrainVerificationCode2text (Apache-2.0).
"""

import ml_collections

from configs import captcha


def get_config() -> ml_collections.ConfigDict:
    """The recipe of fine-tuning, from the one before it, on a mixture of captchas."""
    config = captcha.get_config("fine_tune")
    config.update(
        data={"source": "mixture", "validation_fraction": 0.02, "buckets": 6},
        epochs=4,
        # Captchas in styles by chance need less of it than a few of one style.
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
