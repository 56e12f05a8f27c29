"""The report of the data checks, as lines for people and as JSON for programs."""

import io
import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from crnn_jax.data.buckets import padding_share
from crnn_jax.data.checks import SEVERITIES, Finding, Severity
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.messages import escape
from crnn_jax.text.alphabet import Alphabet

SHOWN = 5  # samples listed for each finding; JSON has all of them


@dataclass(frozen=True)
class Report:
    """What the data checks found.

    Attributes:
        findings: the worst first.
        splits: all splits of the data.
        alphabet: the alphabet that training would use.
        buckets: the widths that training would pad to.
        train_command: the command that trains on this data; empty if there is none to suggest.
    """

    findings: Sequence[Finding]
    splits: Mapping[str, PreparedSplit]
    alphabet: Alphabet
    buckets: Sequence[int]
    train_command: str = ""

    @property
    def severity(self) -> Severity:
        """The severity of the worst finding; "note" if there are none."""
        worst = max((SEVERITIES.index(one.severity) for one in self.findings), default=0)
        return SEVERITIES[worst]

    def lines(self) -> list[str]:
        """Returns the report for people; what is not visible in names and labels is escaped."""
        sizes = ", ".join(f"{len(split):,} {name}" for name, split in self.splits.items())
        lengths = np.array([length for split in self.splits.values() for length in _lengths(split)])
        widths = np.concatenate([split.widths for split in self.splits.values()])
        characters = self._characters().most_common()
        rarest = ", ".join(f"{character!r} {count:,}" for character, count in characters[:-6:-1])
        lines = [
            f"images: {sizes}",
            *table_of_parts(self.splits),
            f"labels:   {_spread(lengths)} characters",
            f"widths:   {_spread(widths)} px after resizing",
            f"buckets:  {', '.join(map(str, self.buckets))} px; {100 * self._padding():.1f} % of"
            " each batch is padding",
            f"alphabet: {len(self.alphabet.characters)} characters {self.alphabet.characters}",
            f"          rarest: {rarest}",
        ]
        for finding in self.findings:
            lines.append(f"{finding.severity}: {finding.kind}: {finding.message}")
            lines += [f"    {sample}" for sample in finding.samples[:SHOWN]]
            if len(finding.samples) > SHOWN:
                lines.append(f"    and {len(finding.samples) - SHOWN:,} more (--json lists them)")
        if not self.findings:
            lines.append("nothing is wrong with these images")
        if self.train_command and self.severity != "error":
            lines.append(f"train on these images: {self.train_command}")
        return list(map(escape, lines))

    def to_dict(self) -> dict[str, Any]:
        """Returns the report in JSON types, with all samples and full distributions."""
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
        labels = itertools.chain.from_iterable(split.labels for split in self.splits.values())
        return Counter(itertools.chain.from_iterable(labels))

    def _padding(self) -> float:
        widths = np.concatenate([split.widths for split in self.splits.values()])
        return float(padding_share(widths, self.buckets))


def table_of_parts(splits: Mapping[str, PreparedSplit]) -> list[str]:
    """Returns the lines of a table: how many images each split has of each part of a mixture."""
    counts = {name: Counter(split.split.parts) for name, split in splits.items()}
    parts = sorted(set(itertools.chain.from_iterable(counts.values())))
    if not parts:
        return []
    table = Table("part", box=None, pad_edge=False)
    for name in counts:
        table.add_column(name, justify="right")
    for part in parts:
        table.add_row(part, *(f"{count[part]:,}" for count in counts.values()))
    console = Console(file=io.StringIO(), width=100, color_system=None)
    with console.capture() as capture:
        console.print(table)
    return [f"  {line.rstrip()}" for line in capture.get().splitlines()]


def _lengths(split: PreparedSplit) -> list[int]:
    return [len(label) for label in split.labels]


def _counts(values: Sequence[int]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


def _spread(values: np.ndarray) -> str:
    low, middle, high = values.min(), int(np.median(values)), values.max()
    return f"{low}" if low == high else f"{low} to {high}, median {middle}"
