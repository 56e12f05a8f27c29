"""Compares ways of decoding on labeled sets: exact match, and images per second.

    python scripts/decoders.py captcha DATA/captcha_mixed_10k --caseless \\
        --alphabet digits+lower --length 4-8
    python scripts/decoders.py runs/iiit5k DATA/iiit5k --caseless --lexicons 50 1000

The network reads each test image once, and all decoders get the same logits: the best path, a beam
of 10, what is known of the texts if it is named, the images as those of one source, and lexicons.
Images per second are those of the network and the decoder together, at a batch size of 32.

The lexicon of an image has its label and words drawn from the other labels of the set, with a
seed. Published lexicons are made in the same way, but have other words. Labels that the model
cannot write count as wrong. With --caseless case does not count.
"""

import argparse
import random
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from crnn_jax.data.buckets import bucket_width, choose_buckets
from crnn_jax.data.images import pad_batch
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.dataset import load_benchmark
from crnn_jax.decoding import Decoder
from crnn_jax.decoding.caseless import Caseless
from crnn_jax.decoding.lexicon import OwnLexicons
from crnn_jax.decoding.options import make_decoder
from crnn_jax.errors import CrnnError
from crnn_jax.recognition.jax_backend import apply_network, decode
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.trained_model import TrainedModel
from crnn_jax.scoring import SCORE_BUCKETS
from crnn_jax.text.constraints import parse_length
from crnn_jax.text.options import DecodingOptions

BATCH_SIZE, BEAM = 32, 10
SEED = 0


def run_network(
    model: TrainedModel, prepared: PreparedSplit
) -> tuple[list[tuple[list[int], jax.Array, jax.Array]], float]:
    """The samples, logits and time steps of each full batch, and the seconds of an image."""
    readable = [i for i in range(len(prepared)) if i not in prepared.failures]
    order = sorted(readable, key=lambda i: prepared.widths[i])
    buckets = choose_buckets(prepared.widths, SCORE_BUCKETS)
    batches, seconds = [], 0.0
    for start in range(0, len(order), BATCH_SIZE):
        places = order[start : start + BATCH_SIZE]
        padded = (places * BATCH_SIZE)[:BATCH_SIZE]
        images = [image for i in padded if (image := prepared.image(i)) is not None]
        width = bucket_width(max(image.shape[1] for image in images), buckets)
        inputs = (model.network, model.variables, *pad_batch(images, width))
        jax.block_until_ready(apply_network(*inputs))  # compiled, if it is the first of its width
        begin = time.perf_counter()
        logits, lengths = jax.block_until_ready(apply_network(*inputs))
        seconds += time.perf_counter() - begin
        batches.append((places, logits, lengths))
    return batches, seconds / (BATCH_SIZE * len(batches))


def compare(
    decoders: Iterable[Decoder],
    batches: Sequence[tuple[list[int], jax.Array, jax.Array]],
    labels: Sequence[str],
    model: TrainedModel,
    caseless: bool,
) -> tuple[float, float]:
    """The exact match of a decoder for each batch, and the seconds of an image."""
    right, seconds = 0, 0.0
    for decoder, (places, logits, lengths) in zip(decoders, batches, strict=False):
        jax.block_until_ready(decode(decoder, logits, lengths))
        begin = time.perf_counter()
        decoding = jax.block_until_ready(decode(decoder, logits, lengths))
        seconds += time.perf_counter() - begin
        texts = model.alphabet.decode_batch(np.asarray(decoding.path), np.asarray(lengths))
        read = [text.lower() if caseless else text for text in texts]
        right += sum(text == labels[i] for text, i in zip(read, places, strict=False))
    return right / len(labels), seconds / (BATCH_SIZE * len(batches))


def lexicon_decoder(
    places: Sequence[int], labels: Sequence[str], size: int, model: TrainedModel, caseless: bool
) -> Decoder:
    """The decoder of a batch: for each image its label, and other words of the set."""
    words = sorted({label for label in labels if label and not model.alphabet.unseen(label)})
    drawn = []
    for place in (list(places) * BATCH_SIZE)[:BATCH_SIZE]:
        own = [word for word in labels[place : place + 1] if word in words]
        others = random.Random(f"{SEED} {place}").sample(words, min(size, len(words)))
        drawn.append([*own, *(word for word in others if word not in own)][:size])
    decoder = OwnLexicons.create(drawn, model.alphabet, caseless)
    return Caseless.create(decoder, model.alphabet) if caseless else decoder


def rows(
    model: TrainedModel, folder: Path, known: DecodingOptions, sizes: Sequence[int]
) -> Iterable[tuple[str, float, float]]:
    """Name, exact match and images per second of each way of decoding."""
    caseless = known.get("caseless", False)
    prepared = load_benchmark(
        folder, model.alphabet, model.preprocessing, model.architecture.time_steps
    )
    labels = [label.lower() if caseless else label for label in prepared.labels]
    batches, of_network = run_network(model, prepared)

    def row(name: str, decoders: Iterable[Decoder]) -> tuple[str, float, float]:
        exact, of_decoder = compare(decoders, batches, labels, model, caseless)
        return name, exact, 1 / (of_network + of_decoder)

    def make(**options: Any) -> list[Decoder]:
        made = make_decoder(model.alphabet, model.charsets, caseless=caseless, **options)
        return [made] * len(batches)

    yield row("best path", make(alphabet="all"))
    if model.charsets:
        yield row("best path, set of characters chosen", make())
    yield row(f"beam of {BEAM}", make(alphabet="all", beam_width=BEAM))
    images = (prepared.split.read(i) for i in range(len(prepared)) if i not in prepared.failures)
    source = Recognizer(model, backend="jax", caseless=caseless).adapt(images).decoder
    yield row("one source", [source] * len(batches))
    told = {key: value for key, value in known.items() if key != "caseless" and value is not None}
    if told:
        name = ", ".join(f"{key} {value}" for key, value in told.items())
        yield row(name, make(**told))
        yield row(f"{name}, beam of {BEAM}", make(**told, beam_width=BEAM))
    for size in sizes:
        own = (lexicon_decoder(places, labels, size, model, caseless) for places, _, _ in batches)
        yield row(f"lexicon of {size:,}", own)


def main() -> None:
    """Prints a table for each set that the command line names."""
    parser = argparse.ArgumentParser(description="Compares ways of decoding.")
    parser.add_argument("model", help="a workdir, or the name of a pretrained model")
    parser.add_argument("folders", type=Path, nargs="+", help="labeled sets")
    parser.add_argument("--alphabet", help="see crnn-jax predict")
    parser.add_argument("--length", type=parse_length, help="see crnn-jax predict")
    parser.add_argument("--shape", help="see crnn-jax predict")
    parser.add_argument("--caseless", action="store_true", help="read and compare in lower case")
    parser.add_argument("--lexicons", type=int, nargs="*", default=[], help="sizes of lexicons")
    arguments = parser.parse_args()
    known: DecodingOptions = {
        "alphabet": arguments.alphabet,
        "length": arguments.length,
        "shape": arguments.shape,
        "caseless": arguments.caseless,
    }
    try:
        model = TrainedModel.load(arguments.model)
        for folder in arguments.folders:
            table = Table(f"{model.name} on {folder.name}", box=None, pad_edge=False)
            for heading in ("exact match", "images/s"):
                table.add_column(heading, justify="right", no_wrap=True)
            for name, exact, speed in rows(model, folder, known, arguments.lexicons):
                table.add_row(name, f"{exact:.1%}", f"{speed:.0f}")
            Console(width=None if sys.stdout.isatty() else 120).print(table)
    except CrnnError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
