"""Measures decoding: from logits to texts, by the best path and by beam search."""

from functools import partial

import jax
import numpy as np
from plain_beam import plain_beam
from timing import take_turns
from workload import LETTERS, SEED, Workload

from crnn_jax.architecture import Architecture
from crnn_jax.decoding import Decoder
from crnn_jax.decoding.options import make_decoder
from crnn_jax.recognition.alternatives import find_alternatives
from crnn_jax.recognition.jax_backend import apply_network, decode
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.options import BEAM_WIDTH

NETWORK, BEAM, PLAIN = "network", f"beam {BEAM_WIDTH}", f"beam {BEAM_WIDTH} in plain Python"


def measure_decoding(workload: Workload, rounds: int) -> dict[str, dict[str, float]]:
    """Measures decoders on the same random logits, and the network that logits come from.

    Returns:
      For each the images per second, their spread, and its time as a share of that of reading:
      of the network and the decoder together.
    """
    logits = random_logits(workload)
    batch, network = workload.batch(), workload.network()
    variables = jax.device_put(workload.state(network).variables)
    on_device, steps = jax.device_put((logits, np.full(len(logits), logits.shape[1])))
    alphabet = Alphabet(LETTERS)

    def read(decoder: Decoder) -> object:
        decoding = decode(decoder, on_device, steps)
        texts = alphabet.decode_batch(np.asarray(decoding.path), np.asarray(steps))
        return texts, find_alternatives(decoding, alphabet)

    def read_plainly() -> object:
        log_probabilities = np.asarray(jax.nn.log_softmax(on_device)).tolist()
        found = [plain_beam(image, BEAM_WIDTH) for image in log_probabilities]
        return [["".join(LETTERS[k - 1] for k in text) for text, _ in image] for image in found]

    timings = take_turns(
        {
            NETWORK: lambda: jax.block_until_ready(
                apply_network(network, variables, batch["images"], batch["widths"])
            ),
            "best path": partial(read, make_decoder(alphabet, {})),
            BEAM: partial(read, make_decoder(alphabet, {}, beam_width=BEAM_WIDTH)),
            PLAIN: read_plainly,
        },
        rounds,
    )
    seconds = timings[NETWORK].median
    shares = {name: timing.median / (timing.median + seconds) for name, timing in timings.items()}
    return {
        name: {
            "images_per_second": len(logits) / timing.median,
            "spread": timing.spread,
            "share_of_reading": 1.0 if name == NETWORK else shares[name],
        }
        for name, timing in timings.items()
    }


def random_logits(workload: Workload) -> np.ndarray:
    """Logits (B, T, K) with peaks, as those of networks have."""
    rng = np.random.default_rng(SEED)
    count, steps = workload.batch_size, Architecture().time_steps(workload.width)
    logits = rng.normal(size=(count, steps, len(LETTERS) + 1)).astype(np.float32)
    logits[..., 0] += rng.choice([0, 8], (count, steps), p=[0.3, 0.7])  # most time steps are blank
    return logits
