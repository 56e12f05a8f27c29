"""Imports the weights of a CRNN that was trained in PyTorch.

    python -m crnn_jax.import_weights CHECKPOINT --alphabet FILE --out DIR

CHECKPOINT is a .pth or .pt file of torch.save, or a .safetensors file. FILE has the characters in
the order of the classes, in UTF-8, without the blank of CTC. DIR becomes a model folder: every
command takes it as --model, and --config.init_from=DIR trains it further.

The variant is found from the names and shapes of the tensors, if --variant does not name it:

  crnn_pytorch  meijieru/crnn.pytorch and its descendants
  dtrb          clovaai/deep-text-recognition-benchmark: None-VGG-BiLSTM-CTC
  easyocr       EasyOCR, second generation, such as english_g2
  nano_ocr      nano-ocr
  paper         Shi et al. 2015, table 1

Images are prepared as the variant was trained: gray or color as its first convolution says, and of
its size, which --height and --width change.

`crnn-jax import` does the same.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from crnn_jax.commands import print_result, run
from crnn_jax.errors import ConfigError, DataError

FLAGS = flags.FlagValues()
VARIANT = flags.DEFINE_string(
    "variant", None, "The network; by default the one that fits.", flag_values=FLAGS
)
ALPHABET = flags.DEFINE_string(
    "alphabet", None, "A file of the characters in the order of the classes.", flag_values=FLAGS
)
BLANK = flags.DEFINE_enum(
    "blank", "first", ("first", "last"), "The place of the blank class.", flag_values=FLAGS
)
HEIGHT = flags.DEFINE_integer(
    "height",
    None,
    "Height of the images in pixels; by default that of the variant.",
    lower_bound=1,
    flag_values=FLAGS,
)
WIDTH = flags.DEFINE_integer(
    "width",
    None,
    "Width that all images are squashed to; 0 keeps the ratio.",
    lower_bound=0,
    flag_values=FLAGS,
)
OUT = flags.DEFINE_string("out", None, "The folder for the model.", flag_values=FLAGS)


def main(arguments: Sequence[str]) -> None:
    """Writes the model folder, and prints what was imported.

    Raises:
      ConfigError, CheckpointError: the weights, the alphabet and the network do not fit.
    """
    if len(arguments) != 2:
        raise DataError("name one checkpoint to import, such as crnn.pth")
    if not ALPHABET.value:
        raise ConfigError("--alphabet is missing; name a file of the characters")
    if not OUT.value:
        raise ConfigError("--out is missing; name the folder for the model")
    from crnn_jax.exporting.importing import write_imported

    line = write_imported(
        Path(arguments[1]),
        Path(ALPHABET.value),
        Path(OUT.value),
        variant=VARIANT.value,
        blank_last=BLANK.value == "last",
        height=HEIGHT.value,
        width=WIDTH.value,
    )
    print_result(line)


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
