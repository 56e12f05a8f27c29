"""Captchas, on a machine with two cores: the default recipe.

    python -m crnn_jax.main --config configs/captcha.py

trains on captchas that it generates. With your own images (DIR holds labels.tsv, or train.tsv and
test.tsv, or images named after their texts):

    python -m crnn_jax.main --config configs/captcha.py \
        --config.data.source=folder --config.data.dir=DIR --workdir runs/mine

Variants: `configs/captcha.py:quick`, a third of the steps, to see in a few minutes that it reads;
`configs/captcha.py:fine_tune`, which starts from the pretrained model, for a few hundred to a few
thousand images; `configs/captcha.py:paper`, the network of the paper in full (four times the
arithmetic; for a GPU or TPU); `configs/captcha.py:seed`, the recipe of the PyTorch tutorial that
this project started from.
"""

import ml_collections


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """The recipe called `variant`: default, quick, fine_tune, paper or seed."""
    config = ml_collections.ConfigDict()
    # Initialization and the order of the samples.
    config.seed = 0
    # Images in one step, over all devices.
    config.batch_size = 32
    # Times that the training images are gone through.
    config.epochs = 10
    # A small set is gone through more often, until a run has at least so many steps.
    config.min_steps = 2_000

    config.model = ml_collections.ConfigDict()
    # crnn: the paper's channels; crnn_half: half of them, a quarter of the arithmetic; crnn_small:
    # five eighths of that, pixels folded by four.
    config.model.name = "crnn_half"
    # Which convolutions are followed by batch normalization: paper, bgshih, all or none. With
    # all of them CTC leaves its blank-only plateau soonest.
    config.model.batch_norm = "all"
    # How much of the old statistics of batch normalization each step keeps.
    config.model.momentum = 0.95
    # LeakyReLU(0.2) instead of ReLU.
    config.model.leaky = False
    # Each image to zero mean and unit variance, instead of a fixed scale.
    config.model.per_image = True
    # Adds a second head, which reads the column features before the LSTMs, and whose CTC loss
    # teaches the convolutions at the beginning (see optimizer.shortcut_end). It ends the
    # blank-only plateau.
    config.model.shortcut = True
    # Share of the column features left out at random in training.
    config.model.dropout = 0.0
    # Of activations: float32, or bfloat16 on a TPU. Parameters and logits stay float32.
    config.model.dtype = "float32"

    config.alphabet = ml_collections.ConfigDict()
    # The characters in order, or a UTF-8 file of them; with neither, those of the training labels.
    config.alphabet.characters = ""
    config.alphabet.file = ""
    # Reads upper and lower case as one.
    config.alphabet.ignore_case = False

    config.data = ml_collections.ConfigDict()
    # generated: images drawn at first use; folder: images in `dir`; lmdb: databases in `dir`,
    # as scene-text sets are shipped; parquet: files in `dir`, as on Hugging Face; tfds: a data set
    # of TensorFlow Datasets; mixture: all of `parts`.
    config.data.source = "generated"
    # Where the images are. With generated and tfds: where data sets are kept (default
    # ~/tensorflow_datasets).
    config.data.dir = ""
    # Of the generated set: the captchas lower (digits and lower case), cased (62 characters),
    # styles (those in many styles) or tiny, or rendered text, words or chinese; words/1000000 for
    # so many training images. With tfds: the name of the data set, such as my_words/large:1.0.0.
    config.data.variant = "lower"
    # With tfds and parquet: the features, or columns, that hold the image and its text.
    config.data.image_field = "image"
    config.data.text_field = "text"
    # With mixture: the settings of each part by its name. What a part does not set is as in `data`;
    # it can set source, dir, variant, image_field, text_field, test_fraction (0.0: it is learned
    # from only), validation_fraction (0.0: it does not choose the best checkpoint) and weight: how
    # often its images are trained on, in proportion to the weights of the other parts; 1.0 if
    # not set. With 0.0 it is evaluated only.
    config.data.parts = ml_collections.ConfigDict()
    # Data without a test set of its own is split: this share of it is the test set.
    config.data.test_fraction = 0.2
    # This share of the training images is left out of training and chooses the best checkpoint.
    config.data.validation_fraction = 0.05
    # Images that cannot be read: error stops; drop leaves them out of training. Evaluation leaves
    # out none: with drop they count as wrong.
    config.data.on_unreadable = "error"
    # Labels without a character: error or drop.
    config.data.on_empty_label = "error"
    # Labels with characters that the alphabet lacks: error, drop, or map, which puts `map_to` (a
    # character, or nothing) in their place when training.
    config.data.on_unseen = "error"
    config.data.map_to = ""
    # With drop: a larger share of the training images is an error all the same.
    config.data.max_dropped = 0.05
    # Pixels: 64, or 32, which takes a little less arithmetic. What tells 1 from I and 0 from O in
    # small print is lost at 32.
    config.data.height = 64
    # 1 for gray, 3 for color.
    config.data.channels = 3
    # Dark becomes light: for light text on dark, where a model has learned dark text on light.
    config.data.invert = False
    # 0 keeps each image's ratio; else all are squashed to this width.
    config.data.width = 0
    # Wider images are squashed to this width.
    config.data.max_width = 1024
    # Images of like width share batches; each bucket costs a compilation.
    config.data.buckets = 4
    # Processes that make batches; 0 uses threads, enough while the images fit into the cache.
    config.data.workers = 0
    # Prepared images are kept in memory up to this.
    config.data.cache_megabytes = 2_000

    # Chance changes to the training images, each with the share of images that it is made to.
    # Without, some hundred images are learned by heart.
    config.augment = ml_collections.ConfigDict()
    # Multiplies the reach of all changes.
    config.augment.strength = 1.0
    # They begin at this share of the run: unchanged images are soonest read at all.
    config.augment.start = 0.15
    # Shift, scale, rotation, shear; the corners moved; the line of text bent in a wave.
    config.augment.affine = 0.5
    config.augment.perspective = 0.0
    config.augment.curve = 0.0
    # Blur, noise; contrast, brightness and color balance; dark for light.
    config.augment.blur = 0.0
    config.augment.noise = 0.0
    config.augment.contrast = 0.3
    config.augment.invert = 0.0
    # Lines and dots, small rectangles wiped out, traces of JPEG.
    config.augment.lines = 0.0
    config.augment.erase = 0.0
    config.augment.jpeg = 0.0

    config.optimizer = ml_collections.ConfigDict()
    # Adam's.
    config.optimizer.learning_rate = 1e-3
    # Linear warm-up, as a share of the run.
    config.optimizer.warmup = 0.0625
    # From each of these shares of the run on, the rate is multiplied by the factor beside it.
    config.optimizer.boundaries = (0.6875, 0.875)
    config.optimizer.factors = (0.3, 0.1)
    # At the start the loss is the shortcut's alone; it gives way to the network's own, which is
    # alone from this share of the run on. If the LSTMs, which see the whole line, teach the
    # convolutions from the first step on, a small set is learned by heart, and slowly.
    config.optimizer.shortcut_end = 0.2
    # The gradient's largest global norm; 0 leaves it alone.
    config.optimizer.clip_norm = 5.0
    # Above 0, the model that is evaluated and saved is the exponential moving average of parameters
    # and statistics, over about 1 / (1 - ema_decay) steps. It reads far better than they do before
    # the rate falls, and no better at the end of a long run.
    config.optimizer.ema_decay = 0.0

    # A workdir, or the name of a pretrained model, to start from with other data: its parameters
    # and statistics ...
    config.init_from = ""
    # ... all of them, or the conv_stack alone. Of another alphabet the characters that both have
    # are carried over.
    config.init_parts = "all"
    # conv_stack: its parameters and statistics stay as they are.
    config.freeze = ""

    # Steps between two lines of training metrics.
    config.log_every = 50
    # Steps that jax.profiler traces into the workdir's folder `trace`, once they are compiled; 0
    # for none.
    config.trace_steps = 0
    # Epochs between two evaluations on the validation images, and two checkpoints; where
    # `min_steps` makes the run longer, these are made longer alike.
    config.eval_every = 1
    # Ends the run after so many evaluations in a row without a better exact match, from the first
    # on that read an image right; 0: never.
    config.patience = 0
    # Newest checkpoints kept; the best is kept besides.
    config.keep = 2
    # Stop after so many steps in a row whose loss or gradient was not finite.
    config.max_skipped = 20

    config.eval = ml_collections.ConfigDict()
    # The checkpoint that --mode eval restores: a step, or -1 for the best.
    config.eval.step = -1

    if variant == "quick":
        config.update(epochs=3, min_steps=700)
        config.augment.start = 1.0
    elif variant == "fine_tune":
        config.init_from = "captcha"
        # The blank-only plateau is behind it: a shortcut made a difference of one of 110 validation
        # images of captcha_sysu_cas, and none in their loss.
        config.model.shortcut = False
        config.update(epochs=8, min_steps=1_500)
        # So few images are soon learned by heart: of these 110, 95.5 % were read with what
        # follows, 94.5 % with the default changes and no dropout.
        config.model.dropout = 0.3
        config.augment.update(start=0.0, affine=0.6, perspective=0.3, curve=0.3, contrast=0.5)
        config.augment.update(noise=0.1, blur=0.1, erase=0.2)
    elif variant == "paper":
        config.model.name = "crnn"
        config.data.height = 32
    elif variant == "seed":
        # Batch 32, Adam 1e-3, hidden 256, 75 epochs, loss and accuracy every 25.
        config.model.update(name="crnn", batch_norm="bgshih", momentum=0.9)
        config.model.update(leaky=False, per_image=False, shortcut=False)
        config.data.update(channels=1, height=32, width=160)
        config.augment.update(affine=0.0, contrast=0.0)
        config.epochs = 75
        config.min_steps = 0
        config.eval_every = 25
        config.optimizer.update(warmup=0.0, boundaries=(), factors=(), clip_norm=0.0)
    elif variant != "default":
        raise ValueError(
            f"configs/captcha.py:{variant}: the variants are default, quick, fine_tune, paper and"
            " seed"
        )
    return config
