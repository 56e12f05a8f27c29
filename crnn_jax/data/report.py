"""The report of the data checks, in lines for a person and as JSON for a program."""

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from crnn_jax.data.buckets import padding_share
from crnn_jax.data.checks import SEVERITIES, Finding, Severity
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.text.alphabet import Alphabet

SHOWN = 5  # offenders that a finding names to people; JSON has them all


@dataclass(frozen=True)
class Report:
    """Findings, the worst first, and metrics on the images of each split."""

    findings: Sequence[Finding]
    splits: Mapping[str, PreparedSplit]
    alphabet: Alphabet
    buckets: Sequence[int]

    @property
    def severity(self) -> Severity:
        """That of the worst finding; a note if there is none."""
        worst = max((SEVERITIES.index(one.severity) for one in self.findings), default=0)
        return SEVERITIES[worst]

    def lines(self) -> list[str]:
        """The report for a person."""
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        lengths = np.array([length for split in self.splits.values() for length in _lengths(split)])
        widths = np.concatenate([split.widths for split in self.splits.values()])
        characters = self._characters().most_common()
        rarest = ", ".join(f"{character!r} {count:,}" for character, count in characters[:-6:-1])
        lines = [
            f"images: {sizes}",
            *sizes_of_parts(self.splits),
            f"labels:   {_spread(lengths)} characters",
            f"widths:   {_spread(widths)} px, at the height of the network",
            f"buckets:  {', '.join(map(str, self.buckets))} px; {100 * self._padding():.1f} % of "
            "what is computed is padding",
            f"alphabet: {len(self.alphabet.characters)} characters {self.alphabet.characters}",
            f"          rarest: {rarest}",
        ]
        for finding in self.findings:
            lines.append(f"{finding.severity}: {finding.kind}: {finding.message}")
            lines += [f"    {sample}" for sample in finding.samples[:SHOWN]]
            if len(finding.samples) > SHOWN:
                lines.append(f"    and {len(finding.samples) - SHOWN:,} more (--json names them)")
        return lines if self.findings else [*lines, "nothing is wrong with them"]

    def to_dict(self) -> dict[str, Any]:
        """The report in JSON types, with all offenders and full distributions."""
        return {
            "severity": self.severity,
            "findings": [
                {key: value for key, value in asdict(finding).items() if key != "places"}
                for finding in self.findings
            ],
            "splits": {
                name: {
                    "images": len(split),
                    "label_lengths": _counts(_lengths(split)),
                    "widths": _counts(split.widths.tolist()),
                }
                for name, split in self.splits.items()
            },
            "characters": dict(sorted(self._characters().items())),
            "alphabet": self.alphabet.characters,
            "buckets": list(self.buckets),
            "padding_share": self._padding(),
        }

    def _characters(self) -> Counter[str]:
        labels = (label for split in self.splits.values() for label in split.split.labels)
        return Counter(
            character for label in labels for character in self.alphabet.normalize(label)
        )

    def _padding(self) -> float:
        widths = np.concatenate([split.widths for split in self.splits.values()])
        return float(padding_share(widths, self.buckets))


def sizes_of_parts(splits: Mapping[str, PreparedSplit]) -> list[str]:
    """A line for each part of a mixture: how many images each split has of it."""
    counts = {name: Counter(split.split.parts) for name, split in splits.items()}
    parts = sorted(set(itertools.chain.from_iterable(counts.values())))
    return [
        f"  {part}: "
        + ", ".join(f"{count[part]:,} {name}" for name, count in counts.items() if count[part])
        for part in parts
    ]


def _lengths(split: PreparedSplit) -> list[int]:
    return [len(label) for label in split.split.labels]


def _counts(values: Sequence[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _spread(values: np.ndarray) -> str:
    low, middle, high = values.min(), int(np.median(values)), values.max()
    return f"{low}" if low == high else f"{low} to {high}, half of them up to {middle}"
