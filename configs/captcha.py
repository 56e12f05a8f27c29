"""Captchas: the default recipe, for a machine with two cores.

    python -m crnn_jax.main --config configs/captcha.py

draws 10,000 captchas of 4 to 8 digits and lower-case letters, and trains on 8,000 of them. It takes
16 minutes on two cores and reads 98 % of the test images. With your own images:

    python -m crnn_jax.main --config configs/captcha.py:fine_tune \
        --config.data.source=folder --config.data.dir=DIR --workdir runs/mine

DIR has labels.tsv, or train.tsv and test.tsv, or images that are named after their texts. This
variant starts from the pretrained model. With more than about a thousand images try the recipe
without a variant, too.
"""

import ml_collections

VARIANTS = {
    "default": "The recipe as it is.",
    "quick": "A third of the steps: 95 % in five minutes.",
    "fine_tune": "For your own images, from the pretrained model: six to eight minutes.",
    "paper": "The network of the paper, with four times the arithmetic: for a GPU or TPU.",
    "seed": "The recipe of the PyTorch tutorial that this project started from.",
}


def get_config(variant: str = "default") -> ml_collections.ConfigDict:
    """Returns the recipe, or one of its VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f"there is no variant {variant!r}; choose from {', '.join(VARIANTS)}")
    config = ml_collections.ConfigDict()
    # Seed of the initialization, the order of the images, and random changes to them.
    config.seed = 0
    # Images in one step, over all devices.
    config.batch_size = 32
    # Passes over the training images.
    config.epochs = 10
    # The fewest steps of a run. A small set gets more epochs, until it has as many steps.
    config.min_steps = 2_000

    config.model = ml_collections.ConfigDict()
    # crnn: the paper's channels; crnn_half: half of them, a quarter of the arithmetic; crnn_small:
    # five eighths of that, as no layer works at full resolution. For weights of others: paper,
    # crnn_pytorch, dtrb, easyocr, nano_ocr.
    config.model.name = "crnn_half"
    # Which convolutions are followed by batch normalization: paper (5, 6), bgshih (3, 5, 7),
    # nano_ocr (3, 5, 6), all or none. With all of them CTC leaves its blank-only plateau soonest.
    config.model.batch_norm = "all"
    # The share of the old statistics of batch normalization that each step keeps.
    config.model.momentum = 0.95
    # 2: each 2 x 2 pixels of an image become one with four times the channels, before the first
    # convolution. Set 2 for a data.height of 64, and 1 (no space to depth) for 32.
    config.model.space_to_depth = 2
    # LeakyReLU(0.2) instead of ReLU.
    config.model.leaky = False
    # Scales each image to zero mean and unit variance, instead of all by the same factor.
    config.model.per_image = True
    # Adds a second head that reads the column features before the LSTMs. Its CTC loss trains the
    # convolutions at the beginning (see optimizer.shortcut_end). It ends the blank-only plateau.
    config.model.shortcut = True
    # The share of the column features that dropout sets to zero in training.
    config.model.dropout = 0.0
    # The type of activations: float32, or bfloat16 on a TPU. Parameters and logits stay float32.
    config.model.dtype = "float32"

    config.alphabet = ml_collections.ConfigDict()
    # The characters in order, or a UTF-8 file of them. Without either, the characters of the
    # training labels.
    config.alphabet.characters = ""
    config.alphabet.file = ""
    # Takes upper and lower case for the same character, and reads lower case.
    config.alphabet.ignore_case = False

    config.data = ml_collections.ConfigDict()
    # Where the images come from. generated: they are drawn at first use; folder: images in `dir`;
    # lmdb: databases in `dir`, the form of scene-text sets; parquet: files in `dir`, the form of
    # Hugging Face; tfds: a data set of TensorFlow Datasets; mixture: all of `parts`.
    config.data.source = "generated"
    # The folder of the images. With generated and tfds, the folder of all data sets, by default
    # ~/tensorflow_datasets.
    config.data.dir = ""
    # With generated: captchas, which are lower (digits and lower case), cased (62 characters),
    # styles (many styles) or tiny (numbers); or rendered text, which is words or chinese.
    # words/1000000 sets the number of training images. With tfds: the name of the data set, such as
    # my_words/large:1.0.0.
    config.data.variant = "lower"
    # With tfds and parquet: the features, or columns, that hold the image and its text.
    config.data.image_field = "image"
    config.data.text_field = "text"
    # With mixture: the settings of each part by its name. A part can set source, dir, variant,
    # image_field, text_field, test_fraction (0.0: it is only trained on), validation_fraction (0.0:
    # it has no influence on the choice of the best checkpoint) and weight. Its images are trained
    # on in proportion to its weight, which is 1.0 by default (0.0: it is only evaluated). All other
    # settings are those of `data`.
    config.data.parts = ml_collections.ConfigDict()
    # The share of the images that becomes the test set, if there is none.
    config.data.test_fraction = 0.2
    # The share of the training images that becomes the validation set. It is not trained on, and
    # chooses the best checkpoint.
    config.data.validation_fraction = 0.05
    # Images that cannot be read. error: stop; drop: do not train on them. An evaluation drops none
    # and counts them as wrong.
    config.data.on_unreadable = "error"
    # Empty labels: error or drop.
    config.data.on_empty_label = "error"
    # Labels with characters that are not in the alphabet: error, drop, or map, which replaces these
    # characters by `map_to` (a character, or nothing) in training.
    config.data.on_unseen = "error"
    config.data.map_to = ""
    # The largest share of the training images that drop may leave out. More is an error.
    config.data.max_dropped = 0.05
    # Pixels: 64, or 32 (with model.space_to_depth=1), which takes a little less arithmetic. At 32,
    # small print loses the details that tell 1 from I and 0 from O.
    config.data.height = 64
    # 1 for gray, 3 for color.
    config.data.channels = 3
    # Swaps dark and light: for light text on dark, with a model that was trained on dark text on
    # light.
    config.data.invert = False
    # Pixels. 0 keeps the aspect ratio of each image; else all images are squashed to this width.
    config.data.width = 0
    # Pixels. Wider images are squashed to this width.
    config.data.max_width = 1024
    # The number of widths that images are padded to. More of them save padding, and each costs a
    # compilation.
    config.data.buckets = 4
    # Processes that make batches. 0 uses threads, which are enough while the images fit into the
    # cache.
    config.data.workers = 0
    # Memory for prepared images. Images beyond it are prepared again in each epoch.
    config.data.cache_megabytes = 2_000

    # Random changes to the training images. Each number is the share of the images that it changes.
    # Without such changes the network memorizes a few hundred images.
    config.augment = ml_collections.ConfigDict()
    # Multiplies the strength of all changes.
    config.augment.strength = 1.0
    # The share of the run after which changes begin. The plateau ends sooner on unchanged images.
    config.augment.start = 0.15
    # Shift, scale, rotation and shear; moved corners; a line of text that is bent like a wave.
    config.augment.affine = 0.5
    config.augment.perspective = 0.0
    config.augment.curve = 0.0
    # Blur; noise; contrast, brightness and color balance; dark and light swapped.
    config.augment.blur = 0.0
    config.augment.noise = 0.0
    config.augment.contrast = 0.3
    config.augment.invert = 0.0
    # Lines and dots; small rectangles erased; traces of JPEG.
    config.augment.lines = 0.0
    config.augment.erase = 0.0
    config.augment.jpeg = 0.0

    config.optimizer = ml_collections.ConfigDict()
    # The learning rate of Adam.
    config.optimizer.learning_rate = 1e-3
    # Linear warm-up, as a share of the run.
    config.optimizer.warmup = 0.0625
    # At each boundary, a share of the run, the rate is multiplied by the factor in its place.
    config.optimizer.boundaries = (0.6875, 0.875)
    config.optimizer.factors = (0.3, 0.1)
    # The loss is at first that of the shortcut. It changes over linearly to that of the network's
    # own head, and is the latter alone from this share of the run on. If the LSTMs, which see the
    # whole line, train the convolutions from the first step, the network memorizes a small set.
    config.optimizer.shortcut_end = 0.2
    # The largest global norm of the gradient; 0 does not clip it.
    config.optimizer.clip_norm = 5.0
    # Above 0, the model that is evaluated and saved is the exponential moving average of parameters
    # and statistics, over about 1 / (1 - ema_decay) steps. It reads far better than they do before
    # the rate falls, and no better at the end of a long run.
    config.optimizer.ema_decay = 0.0

    # A workdir, or the name of a pretrained model, whose parameters and statistics a new run starts
    # from. Its alphabet may be another: characters that both have are carried over. "" starts from
    # scratch. auto starts from the pretrained model, with the settings of captcha:fine_tune, if
    # there are fewer than 2,000 training images of your own and it knows most of their characters.
    config.init_from = "auto"
    # What is carried over: all, or conv_stack alone.
    config.init_scope = "all"
    # conv_stack: its parameters and statistics do not change. "" trains everything.
    config.freeze = ""

    # Steps between two lines of training metrics.
    config.log_every = 50
    # Epochs between two evaluations on the validation images, each with a checkpoint. Where
    # `min_steps` makes a run longer, they are farther apart by the same factor.
    config.eval_every = 1
    # Ends the run after this number of evaluations in a row without a better exact match. They
    # count from the first evaluation that reads an image right. 0: the run does not end early.
    config.patience = 0
    # Ends a run from scratch that still reads nothing after two fifths of its steps, as CTC then
    # hardly ever leaves its blank-only plateau.
    config.stop_on_plateau = True
    # The number of newest checkpoints that are kept. The best one is kept as well.
    config.keep = 2
    # Stops after this number of steps in a row whose loss or gradient is not finite.
    config.max_skipped = 20
    # Records this number of steps, after compilation, with jax.profiler, into `trace` in the
    # workdir; 0 records none.
    config.trace_steps = 0

    if variant == "quick":
        config.update(epochs=3, min_steps=700)
        config.augment.start = 1.0
    elif variant == "fine_tune":
        config.init_from = "captcha"
        # The pretrained model has left the blank-only plateau. A shortcut changed the result by one
        # of 110 validation images of captcha_sysu_cas, and their loss not at all.
        config.model.shortcut = False
        config.update(epochs=8, min_steps=1_500)
        # Against memorizing a few hundred images. 95.5 % of these 110 images were read with these
        # settings, and 94.5 % with the default changes and no dropout.
        config.model.dropout = 0.3
        config.augment.update(start=0.0, affine=0.6, perspective=0.3, curve=0.3, contrast=0.5)
        config.augment.update(noise=0.1, blur=0.1, erase=0.2)
    elif variant == "paper":
        config.init_from = ""
        config.model.update(name="crnn", space_to_depth=1)
        config.data.height = 32
    elif variant == "seed":
        # Batch 32, Adam 1e-3, hidden 256, 75 epochs, loss and accuracy every 25.
        config.model.update(name="crnn", batch_norm="bgshih", momentum=0.9)
        config.model.update(space_to_depth=1, leaky=False, per_image=False, shortcut=False)
        config.data.update(channels=1, height=32, width=160)
        config.augment.update(affine=0.0, contrast=0.0)
        config.init_from = ""
        config.epochs = 75
        config.min_steps = 0
        config.eval_every = 25
        config.optimizer.update(warmup=0.0, boundaries=(), factors=(), clip_norm=0.0)
    return config
