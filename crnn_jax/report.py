"""Renders the report of an evaluation again, or compares two reports.

    crnn-jax report WORKDIR

renders report/index.html of a workdir from report/report.json, and prints where it is.

    crnn-jax report A B --output compare.html

compares two evaluations of the same images: what changed, which images only one of them reads
right, and whether that can be chance (McNemar's exact test). A and B are workdirs, folders of
reports, or files report.json. With --output a page with the images is written as well.

`crnn-jax report` does the same as `python -m crnn_jax.report`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from crnn_jax.commands import print_result, run
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.messages import escape

if TYPE_CHECKING:
    from crnn_jax.reports.comparison import Comparison

FLAGS = flags.FlagValues()
OUTPUT = flags.DEFINE_string(
    "output", None, "Writes the comparison of two reports to this HTML file.", flag_values=FLAGS
)


def main(arguments: Sequence[str]) -> None:
    """Renders one report, or compares two.

    Raises:
      ConfigError: neither one nor two are named.
      DataError: one of them cannot be read, or they have no image in common.
    """
    places = list(map(Path, arguments[1:]))
    if len(places) not in (1, 2):
        raise ConfigError("name a workdir to render its report, or two to compare them")
    if OUTPUT.value and len(places) == 1:
        raise ConfigError("--output is for the comparison of two reports; name two")

    from crnn_jax.reports.writing import PAGE, find_report, read_report, write_page

    files = list(map(find_report, places))
    reports = list(map(read_report, files))
    if len(reports) == 1:
        write_page(files[0].parent, reports[0])
        print_result(escape(str(files[0].parent / PAGE)))
        return

    from crnn_jax.reports.comparison import compare, comparison_page

    comparison = compare(*reports)
    print_result(_table(comparison))
    if OUTPUT.value:
        try:
            Path(OUTPUT.value).write_text(comparison_page(comparison), encoding="utf-8")
        except OSError as error:
            raise DataError(
                f"cannot write {OUTPUT.value!r} ({error.strerror}); name a file in an existing"
                " folder"
            ) from error


def _table(comparison: "Comparison") -> str:
    """The comparison as text: metrics in columns, then the images and the test."""
    from crnn_jax.reports.comparison import verdict

    one = comparison
    width = max(len(name) for name, *_ in one.metrics)
    lines = [f"{'':{width}}  {'A':>9}  {'B':>9}  {'change':>8}"]
    for name, first, second, _ in one.metrics:
        change = 100 * (second - first)
        lines.append(f"{name:{width}}  {100 * first:7.2f} %  {100 * second:7.2f} %  {change:+8.2f}")
    lines += [
        "",
        f"{one.images:,} images in both: only A right {one.broken:,}, only B right {one.fixed:,},"
        f" both right {one.both_right:,}, both wrong {one.both_wrong:,}",
        f"McNemar's exact test: p = {one.p_value:.2g}; {verdict(one)}",
    ]
    if one.only_first or one.only_second:
        lines.append(f"not compared: {one.only_first:,} images of A, {one.only_second:,} of B")
    lines += [
        f"{escape(name)}: {escape(first) or '(none)'} -> {escape(second) or '(none)'}"
        for name, first, second in one.changed
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    run(main, FLAGS, __doc__)
