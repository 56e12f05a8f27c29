"""Reports: numbers, files, comparison and cards, against counts by hand and other libraries."""

import html
import io
import json
import math
import random
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image
from scipy.stats import binomtest

from crnn_jax import report as command
from crnn_jax.commands import parse_flags
from crnn_jax.data.images import Preprocessing
from crnn_jax.data.labels import Labels
from crnn_jax.data.prepared import PreparedSplit
from crnn_jax.data.reader import ImageReader
from crnn_jax.data.sources.split import Split
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.reports import contents, statistics, writing
from crnn_jax.reports.cards import MARKER, code, model_card
from crnn_jax.reports.comparison import compare, comparison_page, mcnemar
from crnn_jax.reports.contents import build_report, chosen, describe_model, learning_curves
from crnn_jax.reports.page import make_card, phrase, report_page, visible
from crnn_jax.reports.schema import Report, Result, Run
from crnn_jax.text.alphabet import Alphabet
from crnn_jax.text.confusions import confusions

HOSTILE = [
    *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "${x}`|*_"),
    *("a\u202eb", "\u200b", "a\x00b\x1b[2J", "\ud800", "' onclick='alert(1)", "-->", "]]>", "&lt;"),
]


def png(seed: int, width: int = 60) -> bytes:
    """A different image for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (20, width, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def make_split(
    labels: Sequence[str], names: Sequence[str] = (), parts: Sequence[str] = (), first: int = 0
) -> PreparedSplit:
    """Images in memory, all of them different, with widths of 60 to 99 pixels."""
    images = [png(first + index, 60 + index % 40) for index in range(len(labels))]
    split = Split(
        tuple(names) or tuple(f"images/{index:05}.png" for index in range(len(labels))),
        tuple(labels),
        images.__getitem__,
        tuple(parts),
    )
    alphabet = Alphabet.from_labels(["abcdefghijklmnopqrstuvwxyz0123456789"])
    reader = ImageReader(Preprocessing(height=20), cache_bytes=0)
    encoded = Labels.encode(labels, alphabet)
    encoded = Labels(tuple(labels), encoded.ids, encoded.unseen)  # surrogates are no Unicode
    return PreparedSplit(split, encoded, reader, lambda width: width // 4, max_missing=1.0)


def make_report(
    labels: Sequence[str],
    texts: Sequence[str | None],
    confidences: Sequence[float] = (),
    lines: Sequence[str] = (),
    names: Sequence[str] = (),
    parts: Sequence[str] = (),
    first: int = 0,
    model: str = "runs/mine",
) -> Report:
    described = describe_model(
        name=model,
        step=1200,
        description={"name": "crnn", "settings": {}},
        variables={"params": {"dense": np.zeros((3, 4)), "bias": np.zeros(4)}},
        alphabet=Alphabet.from_labels(["abcdefghijklmnopqrstuvwxyz0123456789"]),
        preprocessing=Preprocessing(height=20),
        config={"batch_size": 32, "data": {"dir": "a b", "parts": {}}},
        trained_on="folder /data",
    )
    run = Run(
        "2026-01-02T03:04:05+00:00", "crnn-jax eval --workdir 'runs/a b'", "1 cpu", {"jax": "1"}
    )
    splits = {
        "train": make_split([*labels, "abc"], first=first + 10_000),
        "test": make_split(labels, names, parts, first),
    }
    given = np.array(confidences or [0.5] * len(labels))
    return build_report(described, run, "folder /data", "test", splits, texts, given, lines)


def results(*pairs: tuple[str, str | None, float]) -> list[Result]:
    return [Result(str(i), f"{i}.png", *pair) for i, pair in enumerate(pairs)]


# --- numbers ---


@pytest.mark.parametrize(
    ("right", "count"), [(0, 1), (1, 1), (0, 50), (50, 50), (7, 9), (980, 2000)]
)
def test_the_interval_is_wilsons(right: int, count: int) -> None:
    share = statistics.share(right, count)
    expected = binomtest(right, count).proportion_ci(0.95, "wilson")
    assert (share.low, share.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert share.value == right / count


def test_no_images_are_no_share() -> None:
    assert statistics.share(0, 0) == statistics.Share(0, 0, 0.0, 0.0, 1.0)


def test_the_headline_counts_unreadable_images_as_wrong() -> None:
    found = statistics.headline(
        results(("ab", "ab", 1.0), ("Ab", "aB", 0.5), ("a-b", "ab", 0.5), ("abcd", None, 0.0))
    )
    assert (found.exact.right, found.caseless.right, found.alphanumeric.right) == (1, 2, 3)
    assert found.exact.count == 4 and found.unreadable == 1
    # Two substitutions, one character left out, four missing; of 2 + 2 + 3 + 4 characters.
    assert found.cer == 7 / 11
    assert found.one_minus_ned == pytest.approx((1 + 0 + 2 / 3 + 0) / 4)


def test_characters_are_counted_by_hand() -> None:
    """Of `hello`, read as `hallo1`: e is read as a, and 1 is put in."""
    read = results(("hello", "hallo1", 0.5), ("lo", "o", 0.5), ("zz", None, 0.0))
    counts = confusions((one.text, one.label) for one in read if one.text is not None)
    rows = {row.character: row for row in statistics.characters(read, counts)}
    assert sorted(rows) == sorted("helo1a")  # none of the image that is missing
    assert (rows["l"].support, rows["l"].read, rows["l"].right) == (3, 2, 2)
    assert (rows["l"].recall, rows["l"].precision) == (2 / 3, 1)
    assert (rows["e"].recall, rows["e"].precision) == (0, None)
    assert (rows["1"].recall, rows["1"].precision) == (None, 0)
    matrix = statistics.matrix(list(rows.values()), counts)
    assert matrix.characters == ["", "1", "a", "e", "l"]
    assert matrix.counts == [
        [0, 1, 0, 0, 0],  # put in
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 1, 0, 0],  # e as a
        [1, 0, 0, 0, 2],  # l left out once
    ]
    assert [(one.written, one.read) for one in statistics.most_common(counts)] == [
        *(("", "1"), ("e", "a"), ("l", ""))
    ]


def test_groups_have_all_images_once() -> None:
    draw = random.Random(3)
    numbers = [draw.randrange(400) for _ in range(1000)]
    read = results(*((str(n % 7), str(n % 5), 0.5) for n in numbers))
    groups = statistics.by_number(read, numbers)
    assert 2 <= len(groups) <= statistics.MOST_GROUPS
    assert sum(group.exact.count for group in groups) == 1000
    limits = [tuple(map(int, group.name.split(" to "))) for group in groups]
    assert limits == sorted(limits) and limits[0][0] == min(numbers)
    assert limits[-1][-1] == max(numbers)
    for group, limit in zip(groups, limits, strict=True):
        inside = [n for n in numbers if limit[0] <= n <= limit[-1]]
        assert group.exact.count == len(inside)
        assert group.exact.right == sum(n % 7 == n % 5 for n in inside)
    few = statistics.by_number(read[:3], [5, 9, 5])
    assert [(group.name, group.exact.count) for group in few] == [("5", 2), ("9", 1)]


@pytest.mark.parametrize(("text", "expected"), [("", False), ("aba", False), ("abb", True)])
def test_double_characters(text: str, expected: bool) -> None:
    assert statistics.has_repeat(text) is expected


def test_calibration_against_a_loop() -> None:
    draw = random.Random(1)
    read = results(
        *(("a", "a" if draw.random() < 0.6 else "b", draw.random()) for _ in range(500)),
        *(("a", "a", 1.0), ("a", None, 0.0), ("a", "b", 0.0)),
    )
    bins, error = statistics.calibration(read)
    for place in range(10):
        inside = [
            one
            for one in read
            if one.text is not None
            and (
                place / 10 <= one.confidence < (place + 1) / 10 or (place, one.confidence) == (9, 1)
            )
        ]
        mean = sum(one.confidence for one in inside) / len(inside)
        right = sum(one.text == "a" for one in inside)
        assert bins[place].confidence == pytest.approx(mean)
        assert (bins[place].exact.right, bins[place].exact.count) == (right, len(inside))
    gaps = [0.0] * 15
    for one in read:
        if one.text is not None:
            gaps[min(int(one.confidence * 15), 14)] += one.confidence - (one.text == "a")
    assert error == pytest.approx(sum(map(abs, gaps)) / 502)
    assert statistics.calibration(results(("a", None, 0.0))) == ([], None)


def test_the_abstain_curve_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "MIN_KEPT", 1)
    # Two images of one confidence are kept together; the missing one is never kept.
    read = results(
        ("a", "a", 0.9), ("a", "b", 0.5), ("a", "a", 0.5), ("a", "a", 0.7), ("a", None, 0)
    )
    curve, thresholds = statistics.abstain(read)
    found = [(one.confidence, one.coverage, one.accuracy) for one in curve]
    assert found == [(0.9, 0.2, 1), (0.7, 0.4, 1), (0.5, 0.8, 0.75)]
    assert {target: one.confidence for target, one in thresholds.items()} == {
        **{"0.9": 0.7, "0.95": 0.7, "0.99": 0.7, "0.999": 0.7}
    }


def test_curves_are_those_of_the_metrics_file() -> None:
    lines = [
        *('{"step": 4, "split": "train", "loss": 3}', '{"step": 8, "split": "train", "loss": 2}'),
        '{"step": 8, "split": "train", "loss": 2.5}',  # the step again, after a kill
        '{"step": 8, "split": "validation", "loss": 1, "exact_match": 0.25, "cer": 0.5}',
        *("", "no JSON", "[1]", '{"step": "x", "split": "train"}', '{"step": 9, "split": []}'),
        *(
            '{"step": 9, "split": "train", "loss": NaN}',
            '{"step": 9, "split": "train", "loss": "1"}',
        ),
    ]
    assert [(one.split, one.metric, one.points) for one in learning_curves(lines)] == [
        ("train", "loss", [(4, 3.0), (8, 2.5)]),
        ("validation", "loss", [(8, 1.0)]),
        ("validation", "exact_match", [(8, 0.25)]),
        ("validation", "cer", [(8, 0.5)]),
    ]
    thinned = statistics.thinned(range(5000))
    assert (len(thinned), thinned[0], thinned[-1]) == (statistics.MOST_POINTS, 0, 4999)


def test_the_images_to_show_are_few_and_the_telling_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "MOST_WRONG", 30)
    monkeypatch.setattr(contents, "RIGHT", 5)
    wrong = [("abcd", "abcx" if i else "wxyz", i / 100) for i in range(100)]
    read = results(*wrong, *(("a", "a", i / 50) for i in range(50)), ("a", None, 0.0))
    places = chosen(read)
    assert places == sorted(set(places)) and len(places) == 35
    assert {*range(90, 100), 0} <= set(places)  # the most confident, and the one with most edits
    assert {100, 149} <= set(places) and 150 not in places
    assert len(chosen(read[:20])) == 20


# --- files ---


def test_a_report_is_read_as_it_was_written(tmp_path: Path) -> None:
    written = make_report(["ab", "cd", "ee"], ["ab", "ce", None], [0.9, 0.4, 0.0])
    writing.write_report(tmp_path / "run" / "report", written)
    assert writing.find_report(tmp_path / "run") == tmp_path / "run" / "report" / "report.json"
    read = writing.read_report(tmp_path / "run" / "report" / "report.json")
    assert read == written
    assert sorted(path.name for path in (tmp_path / "run" / "report").iterdir()) == [
        *("index.html", "report.json")
    ]
    assert read.model.parameters == 16
    assert read.model.settings == {"batch_size": 32, "data.dir": "a b"}
    assert [group.name for group in read.repeats] == ["no", "yes"]
    assert read.splits["test"].lengths == {"2": 3}


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"shown": [{"index": 99, "image": "data:image/jpeg;base64,aa", "width": 1, "height": 1}]},
        {"shown": [{"index": 0, "image": "https://example.org/x.png", "width": 1, "height": 1}]},
        {"shown": [{"index": 0, "image": "data:image/svg+xml,<svg/>", "width": 1, "height": 1}]},
        {"headline": {}},
        {"results": 5},
    ],
)
def test_what_is_no_report_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    content = {**msgspec.to_builtins(make_report(["a"], ["b"])), **change}
    (tmp_path / "report.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataError, match=r"report\.json is no report: "):
        writing.read_report(tmp_path / "report.json")


@pytest.mark.parametrize("content", [b"", b"[", b"[]", b"5", b"[" * 100_000, b"\xff"])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_bytes(content)
    with pytest.raises(DataError, match="is no report"):
        writing.read_report(tmp_path / "report.json")


def test_a_problem_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "report").write_text("a file", encoding="utf-8")
    report = make_report(["a"], ["a"])
    arguments = (report.model, "x", "test", {"test": make_split(["a"])}, ["a"], np.array([1.0]))
    assert not writing.report_evaluation(tmp_path / "report", *arguments)
    assert "there is no new report in" in caplog.text
    assert writing.report_evaluation(tmp_path / "other", *arguments)


def test_a_report_does_not_leave_the_workdir(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    workdir, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    workdir.mkdir()
    elsewhere.mkdir()
    (workdir / "report").symlink_to(elsewhere)
    report = make_report(["a"], ["a"])
    arguments = (report.model, "x", "test", {"test": make_split(["a"])}, ["a"], np.array([1.0]))
    assert not writing.report_evaluation(workdir / "report", *arguments, workdir=workdir)
    assert "link out of the folder" in caplog.text and not list(elsewhere.iterdir())


# --- pages ---


def test_texts_of_strangers_are_only_texts() -> None:
    report = make_report(
        [f"{text}a" for text in HOSTILE], HOSTILE, names=HOSTILE, model="runs/<b>&\u202e"
    )
    for page in (report_page(report), comparison_page(compare(report, report))):
        page.encode()
        body = page.partition("<body>")[2]
        assert len(re.findall(r"<script", page)) == 1
        assert "<img src=x" not in page and "onclick='" not in page and "49" not in body[:2000]
        assert not re.search("[\u202e\u200b\x00\x1b\ud800]", page)
    page = report_page(report)
    for text in HOSTILE:
        assert html.escape(visible(text), quote=False) in page.replace("&#34;", '"').replace(
            "&#39;", "'"
        ).replace("</mark>", ""), text


def test_invisible_characters_are_shown() -> None:
    assert visible("a\u00a0b\u200d\n\u3000") == r"a\xa0b\u200d\n\u3000"
    assert visible("x" * 1000, 10) == "xxxxx … xxxxx"
    pairs = ((" ", ""), ("", "\u0301"), ("0", "o"), ("\u05d0", ""))
    assert [phrase(*pair) for pair in pairs] == [
        *("␣ left out", "◌\u0301 put in", "0 as o", "\u2068\u05d0\u2069 left out")
    ]


def test_what_differs_is_marked() -> None:
    report = make_report(["hello"], ["hallo1"])
    card = make_card(report.shown[0], report.results[0])
    assert [(piece.text, piece.differs) for piece in card.text] == [
        *(("h", False), ("a", True), ("llo", False), ("1", True))
    ]
    assert "".join(piece.text for piece in card.label) == "hello"
    assert sorted(card.mistakes) == [("", "1"), ("e", "a")] and card.error_rate == 2 / 5


def test_a_page_of_many_images_stays_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of noise, which take more bytes than any captcha."""
    monkeypatch.setattr(contents, "RIGHT", 20)
    labels = ["abcde"] * 120
    page = report_page(make_report(labels, ["x" * 5] * 60 + labels[60:]))
    shown = 60 + 20
    assert page.count('<li class="card') == shown
    assert len(page) / shown * (500 + 60) < 10e6


@pytest.mark.parametrize(
    ("labels", "texts"),
    [
        (["a"], ["a"]),
        (["a"], [None]),
        ([""], ["x"]),
        (["a"], [""]),
        (["车牌"], ["车"]),
        (["שלום"], ["שלם"]),
    ],
)
def test_small_reports_have_pages_and_cards(labels: list[str], texts: list[str | None]) -> None:
    report = make_report(labels, texts)
    assert "<h1>" in report_page(report)
    assert MARKER in model_card(report)
    assert "<h1>" in comparison_page(compare(report, report))


# --- comparison ---


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (8, 2), (3, 12), (40, 41)])
def test_mcnemar_is_the_sum_of_a_binomial(fixed: int, broken: int) -> None:
    """Twice the tail of a fair coin, at most 1 (Fagerland et al. 2013)."""
    n, least = fixed + broken, min(fixed, broken)
    tail = sum(math.comb(n, k) for k in range(least + 1)) / 2**n
    assert mcnemar(fixed, broken) == pytest.approx(min(1.0, 2 * tail))


def test_two_reports_are_compared_image_by_image() -> None:
    labels = ["aa", "bb", "cc", "dd", "ee", "ff"]
    first = make_report(labels, ["aa", "xx", "cc", "x", None, "ff"])
    # The same images under other names in another order, without the last one.
    order = [4, 2, 0, 3, 1]
    second = make_report(
        labels[:5], ["aa", "bb", "yy", "y", "ee"], names=list("abcde"), model="other"
    )
    second.results = [second.results[place] for place in order]
    second.shown = []
    found = compare(first, second)
    assert (found.images, found.only_first, found.only_second) == (5, 1, 0)
    assert (found.both_right, found.both_wrong, found.fixed, found.broken) == (1, 1, 2, 1)
    assert found.p_value == pytest.approx(binomtest(2, 3).pvalue)
    assert [(flip.kind, flip.first.label) for flip in found.flips] == [
        *(("broken", "cc"), ("fixed", "bb"), ("fixed", "ee"), ("still", "dd"))
    ]
    changed = {name: values for name, *values in found.changed}
    assert changed == {"model": ["runs/mine", "other"]}
    second.model.settings = {"batch_size": 64, "data.dir": "a b"}
    assert ("batch_size", "32", "64") in compare(first, second).changed
    second.model.settings = {}  # as of a pretrained model
    assert [name for name, *_ in compare(first, second).changed] == ["model"]
    page = comparison_page(found)
    assert page.count('<li class="card') == 3  # `ee` cannot be read, so there is no image of it
    with pytest.raises(DataError, match="no image in common"):
        compare(first, make_report(["aa"], ["aa"], first=500))


def test_equal_images_are_matched_in_order() -> None:
    first = make_report(["aa", "aa"], ["aa", "x"])
    for result in first.results:
        result.identity = "same"
    assert compare(first, first).broken == compare(first, first).fixed == 0


def test_the_command_compares_and_renders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, texts in (("a", ["aa", "x", "cc"]), ("b", ["aa", "bb", "x"])):
        writing.write_report(tmp_path / name / "report", make_report(["aa", "bb", "cc"], texts))

    def run(*arguments: str) -> str:
        command.main(parse_flags(command.FLAGS, ["report", *arguments]))
        return capsys.readouterr().out

    a, b, output = (str(tmp_path / name) for name in ("a", "b", "compare.html"))
    out = run(a, b, f"--output={output}")
    assert (
        "Exact match" in out and "66.67 %" in out and "p = 1; the difference can be chance" in out
    )
    assert "only A right 1, only B right 1, both right 1, both wrong 0" in out
    assert "McNemar" in Path(output).read_text(encoding="utf-8")
    page = tmp_path / "a" / "report" / "index.html"
    page.unlink()
    with pytest.raises(ConfigError, match="comparison of two"):
        run(a, f"--output={output}")
    command.FLAGS["output"].unparse()
    assert run(a) == f"{page}\n" and page.is_file()
    for arguments in ([], [a, b, a]):
        with pytest.raises(ConfigError, match="name a workdir"):
            run(*arguments)
    with pytest.raises(DataError, match=r"has no report\.json; evaluate it first"):
        run(str(tmp_path / "c"))


# --- cards ---


def test_the_card_says_what_is_known() -> None:
    report = make_report(["aab", "ab"] * 20, ["aab", "ax"] * 20, parts=["one", "two"] * 20)
    card = model_card(report)
    assert card.startswith("---\nlibrary_name: crnn_jax\n")
    assert "It reads 50.0 % of 40 test images exactly as labeled" in card
    assert "crnn-jax eval --workdir 'runs/a b'" in card
    assert "Its training texts have 2 to 3 characters" in card
    assert "No training text has `0`" in card and "`z`" in card
    assert "Fewer than 20 examples were seen of `c`." in card  # of the training label abc
    assert "fewer than 80 % are read right of `b`" in card
    assert "| train | 41 | 2 to 3 | 3 | 0 | 0 | 0 |" in card
    assert "| `two` | 20 | 0.0 % | 50.0 % |" in card
    assert "2 (20), 3 (21)" in card
    assert "`a` 61, `b` 41, `c` 1" in card


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", "`a`"), ("a`b", "``a`b``"), ("`", "`` ` ``"), ("", ""), (" ", "a space")],
)
def test_code_in_markdown(text: str, expected: str) -> None:
    assert code(text) == expected


def test_a_card_of_strangers_is_only_text() -> None:
    card = model_card(make_report(HOSTILE, HOSTILE, model="x|`<script>\n# y"))
    outside = re.sub(r"(`+).*?\1", "", card, flags=re.DOTALL)
    assert "<script>" not in outside and "\n# y" not in card


@pytest.mark.parametrize("own", [None, f"old\n{MARKER}\n", "# My own\n", "a link"])
def test_a_readme_of_the_user_stays(own: str | None, tmp_path: Path) -> None:
    workdir = tmp_path / "run"
    workdir.mkdir()
    place, elsewhere = workdir / "README.md", tmp_path / "notes.md"
    elsewhere.write_text(MARKER, encoding="utf-8")
    if own == "a link":
        place.symlink_to(elsewhere)
    elif own:
        place.write_text(own, encoding="utf-8")
    report = make_report(["a"], ["a"])
    splits = {"train": make_split(["a", "b"]), "test": make_split(["a"])}
    assert writing.report_evaluation(
        workdir / "report",
        *(report.model, "x", "test", splits, ["a"], np.array([1.0])),
        workdir=workdir,
    )
    written = place.read_text(encoding="utf-8")
    if own in ("# My own\n", "a link"):
        assert written == (MARKER if own == "a link" else own)
    else:
        assert "# Model card of" in written and MARKER in written
    assert elsewhere.read_text(encoding="utf-8") == MARKER
