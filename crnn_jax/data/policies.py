"""Policies: what is done about samples that have something wrong with them."""

import dataclasses
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from crnn_jax.data.checks import EMPTY, SEVERITIES, UNREADABLE, UNSEEN, Finding
from crnn_jax.data.labels import Labels
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.sources import MIXTURE, flags_of
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.messages import escape
from crnn_jax.text.alphabet import Alphabet

logger = logging.getLogger(__name__)

POLICIES = {EMPTY: "on_empty_label", UNSEEN: "on_unseen", UNREADABLE: "on_unreadable"}
"""Kind of finding -> the setting that says what is done about it: error, drop or map."""


def judge(findings: Iterable[Finding], settings: Mapping[str, Any]) -> list[Finding]:
    """Returns the findings, the worst first; those that a policy tolerates become warnings."""
    judged = [
        dataclasses.replace(finding, severity="warning")
        if (policy := POLICIES.get(finding.kind)) and settings[policy] != "error"
        else finding
        for finding in findings
    ]
    return sorted(judged, key=lambda one: SEVERITIES.index(one.severity), reverse=True)


def enforce(findings: Iterable[Finding], settings: Mapping[str, Any]) -> None:
    """Raises DataError if one of the findings is an error."""
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        more = f" ({len(errors) - 1} more problem(s))" if len(errors) > 1 else ""
        raise DataError(
            f"{errors[0].message}: {errors[0].samples[0]}{more}; for the whole list run"
            f" {_check_command(settings)}"
        )


def warn(findings: Iterable[Finding]) -> None:
    """Logs the findings that are more than notes."""
    for finding in findings:
        if finding.severity != "note":
            logger.warning("%s; the first: %s", finding.message, escape(finding.samples[0]))


def map_unseen(
    split: Split, labels: Labels, alphabet: Alphabet, settings: Mapping[str, Any]
) -> Split:
    """Returns the split with `map_to` in place of each character that the alphabet lacks.

    Raises:
        ConfigError: the alphabet lacks `map_to`.
    """
    map_to = settings["map_to"]
    if alphabet.unseen(map_to):
        raise ConfigError(
            f"data.map_to={map_to!r} is not in the alphabet; set a character that is, or '' to"
            " leave unseen characters out"
        )
    texts = list(labels.texts)
    for index, unseen in labels.unseen.items():
        texts[index] = texts[index].translate(str.maketrans(dict.fromkeys(unseen, map_to)))
    return dataclasses.replace(split, labels=tuple(texts))


def usable(train: PreparedSplit, settings: Mapping[str, Any]) -> PreparedSplit:
    """Returns the samples that can be trained on.

    Raises:
        DataError: there are none, or more than the share `max_dropped` is dropped.
    """
    dropped = {*train.failures, *train.unseen}
    dropped.update(index for index, label in enumerate(train.labels) if not label)
    if len(dropped) > settings["max_dropped"] * len(train):
        raise DataError(
            f"{len(dropped)} of {len(train)} training images cannot be used, which is more than the"
            f" share data.max_dropped={settings['max_dropped']}; look at them with"
            f" {_check_command(settings)}"
        )
    kept = [index for index in range(len(train)) if train.mask[index] and index not in dropped]
    if not kept:
        raise DataError(
            "no training label fits into its image: all need more time steps than the images have;"
            " are they the labels of these images?"
        )
    return train.select(kept)


def _check_command(settings: Mapping[str, Any]) -> str:
    command = "python -m crnn_jax.check_data"
    if settings["source"] == MIXTURE:
        return f"{command} with the same --config"
    return f"{command} {flags_of(settings)}"
