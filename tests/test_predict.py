"""The command predict: what it is given, what it writes, and how it goes on. No model is loaded."""

import csv
import glob
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from absl.testing import flagsaver

from crnn_jax import predict
from crnn_jax.commands import parse_flags
from crnn_jax.errors import CrnnError, DataError
from crnn_jax.recognition import image_files
from crnn_jax.recognition.calibration import Calibration
from crnn_jax.recognition.image_files import find_images
from crnn_jax.recognition.recognizer import Recognizer
from crnn_jax.recognition.results import Alternative, Recognition
from crnn_jax.recognition.rows import header, to_line, to_row
from crnn_jax.text.alphabet import Alphabet

READ_AHEAD = 256  # images that the recognizer below takes before the first result


class Stub:
    """Reads the name of each file as its text; files whose name has `bad` cannot be read."""

    model = SimpleNamespace(
        alphabet=Alphabet("ABCabc"), calibration=Calibration(min_confidence=0.25)
    )

    def __init__(self) -> None:
        self.taken: list[str] = []

    def stream(
        self, paths: Iterable[str], batch_size: int, return_errors: bool
    ) -> Iterator[Recognition | DataError]:
        assert return_errors
        paths = iter(paths)
        while group := list(itertools.islice(paths, READ_AHEAD)):
            self.taken += group
            for path in group:
                name = Path(path).stem
                error = DataError(f"cannot read {name}")
                yield error if "bad" in name else Recognition(name, 0.25)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    recognizer = Stub()
    monkeypatch.setattr(Recognizer, "load", lambda *_, **__: recognizer)
    return recognizer


def run(*arguments: str | Path) -> int:
    """Runs the command in this process; returns its exit code."""
    saved = flagsaver.save_flag_values(predict.FLAGS)
    try:
        predict.main(parse_flags(predict.FLAGS, ["predict", *map(str, arguments)]))
    except SystemExit as end:
        assert isinstance(end.code, int)
        return end.code
    finally:
        flagsaver.restore_flag_values(saved, predict.FLAGS)
    return 0


def files(folder: Path, *names: str) -> list[str]:
    """Makes files in a folder, and returns their paths."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return [str(folder / name) for name in names]


# Inputs


def found(*arguments: str | Path) -> tuple[list[str], list[str]]:
    """The paths that arguments lead to, and the errors."""
    errors: list[DataError] = []
    paths = list(find_images(map(str, arguments), errors.append))
    return paths, list(map(str, errors))


@pytest.mark.parametrize("block", [1, 2, 3, 100_000])
def test_a_folder_is_read_in_the_order_of_names(
    block: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many names are sorted at a time."""
    monkeypatch.setattr(image_files, "_BLOCK", block)
    images = files(tmp_path, "10.png", "2.PNG", "a.jpg/b/é.webp", "a.jpg/c.tiff", "a.png", "z.bmp")
    files(tmp_path, "labels.tsv", "png", ".hidden.png", ".hidden/a.png", "no/notes.txt")
    assert found(tmp_path) == (images, [])
    monkeypatch.chdir(tmp_path)
    assert found(".", "a.jpg/") == (
        ["./" + os.path.relpath(path) for path in images] + ["a.jpg/b/é.webp", "a.jpg/c.tiff"],
        [],
    )


@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
def test_links_to_images_are_followed_and_links_to_folders_are_not(tmp_path: Path) -> None:
    (image,) = files(tmp_path / "other", "a.png")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "b.png").symlink_to(image)
    (folder / "circle").symlink_to(folder)
    (folder / "lost.png").symlink_to(tmp_path / "no")
    os.mkfifo(folder / "fifo.png")
    assert found(folder) == ([str(folder / "b.png")], [])


def test_a_pattern_is_expanded_where_no_shell_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("[1].png", "1.png", "b.txt", "c/1.png", "c/d/2.png", "c/d/3.gif")
    literal, *_ = files(tmp_path, *names)
    for pattern in ("*.png", "*", "**/*.png", "c/**", "**/[23].*", "c/?/*.png"):
        matches = glob.glob(str(tmp_path / pattern), recursive=True)  # noqa: PTH207
        expected = sorted(path for path in matches if Path(path).is_file())
        assert expected and found(tmp_path / pattern) == (expected, [])
    assert found(literal) == ([literal], [])  # a file of this name is no pattern
    monkeypatch.chdir(tmp_path)
    assert found("c/*/*.png") == ([str(Path("c/d/2.png"))], [])


def test_paths_on_standard_input_and_a_mixture_of_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, *two = files(tmp_path, "one.dat", "two/a.png", "two/b.png")
    lines = f"x.png\n\n y .png\r\n{one}\nno newline"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    (tmp_path / "empty").mkdir()
    paths, errors = found(
        *(tmp_path / "empty", one, "no.png", "-", tmp_path / "two", tmp_path / "*.jpg", "a\0"),
        *("a\0/*", "*/" * 3_000, "-", tmp_path / "two" / "b*"),
    )
    listed = ["x.png", " y .png", one, "no newline"]
    assert paths == [one, *listed, *two, two[1]]
    assert [re.split(r":|(?<=\.\.\.\] )", error)[0] for error in errors] == [
        f"the folder '{tmp_path / 'empty'}' has no images; name one that has",
        "cannot read image 'no.png'",
        f"no file matches '{tmp_path / '*.jpg'}'; check the pattern",
        "cannot read image 'a\\x00'",
        "cannot read image 'a\\x00/*'",
        "cannot read image '" + "*/" * 740 + "* [...] ",
        "there is no path on standard input; write one on each line",
    ]


def test_what_leads_nowhere_is_named_before_a_model_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(f"--model={tmp_path / 'no model'}", tmp_path, tmp_path / "no.png") == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith(f"error: the folder '{tmp_path}' has no images")
    assert "no.png" in lines[1] and len(lines) == 2


def test_without_images_it_answers_before_jax_is_imported() -> None:
    code = """if True:
        import sys
        from crnn_jax import predict
        from crnn_jax.commands import parse_flags
        from crnn_jax.errors import DataError
        try:
            predict.main(parse_flags(predict.FLAGS, ["predict"]))
        except DataError as error:
            print(error)
        try:
            predict.main(["predict", "no.png"])
        except SystemExit as end:
            print(end, "jax" in sys.modules)
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "name the images to read, such as captcha.png, a folder, or 'images/*.png'\n1 False\n"
    )


def test_any_number_of_paths_in_constant_memory(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand from standard input; never more are taken than are read ahead."""
    count, most, read = 100_000, 0, 0
    output = tmp_path / "a.tsv"
    stub.taken = Forgetful()

    def lines(_: int) -> str:
        nonlocal read, most
        read += 1
        most = max(most, read - written)
        return f"{read}.png\n" if read <= count else ""

    written = 0

    def write(self: Any, line: str) -> None:
        nonlocal written
        written += 1

    monkeypatch.setattr("crnn_jax.recognition.rows.ResultFile.write", write)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(readline=lines))
    assert run("-", f"--output={output}") == 0
    assert written == count and READ_AHEAD <= most <= READ_AHEAD + 2


class Forgetful(list[str]):
    """A list that stays empty."""

    def __iadd__(self, _: object) -> "Forgetful":
        return self


# Output


@pytest.mark.skipif(sys.platform == "win32", reason="names and FIFOs of POSIX")
def test_predict_prints_one_line_for_each_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is in its name or in its text; files that are no plain files are named."""
    odd = tmp_path / 'a\nb.png\t"123",\t1.0000\n\x1b[2Jc\u202e.png'
    odd.write_bytes(b"x")
    os.mkfifo(tmp_path / "fifo")
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(20 << 30)
    result = Recognition('12\n\u200b3\t,"4', 0.25)

    def stream(paths: list[str], *_: int, **__: bool) -> list[Recognition]:
        return [result for _ in paths]

    recognizer = SimpleNamespace(stream=stream, model=Stub.model)
    monkeypatch.setattr(Recognizer, "load", lambda *_, **__: recognizer)
    others = [str(tmp_path / name) for name in ("fifo", "sparse", "x" * 300)] + ["/dev/zero"]
    problems = ("not a regular file", "more than 50,000,000", "too long", "not a regular file")
    cells = [
        str(tmp_path) + r'/a\nb.png\t"123",\t1.0000\n\x1b[2Jc\u202e.png',
        r'12\n\u200b3\t,"4',
        "0.2500",
    ]
    for form in (None, "tsv", "csv", "jsonl"):
        assert run(*([f"--format={form}"] if form else []), odd, *others) == 1
        shown, errors = capsys.readouterr()
        lines = shown.splitlines()
        if form == "jsonl":
            row = {"path": str(odd), "text": result.text, "confidence": 0.25, "characters": []}
            assert list(map(json.loads, lines)) == [row]
        elif form == "csv":
            assert list(csv.reader(lines)) == [["path", "text", "confidence"], cells]
            assert len(lines) == 2
        else:
            assert lines == ["\t".join(cells)]
        for error, path, problem in zip(errors.splitlines(), others, problems, strict=True):
            assert error.startswith(f"error: cannot read image '{path}': ") and problem in error


@pytest.mark.parametrize(("least", "accepted"), [("auto", "true"), ("0.3", "false")])
def test_texts_are_marked_and_none_is_left_out(
    least: str,
    accepted: str,
    stub: Stub,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (path,) = files(tmp_path, "a.png")
    assert run(f"--min_confidence={least}", path) == 0
    assert run(f"--min_confidence={least}", "--format=csv", path) == 0
    assert run(f"--min_confidence={least}", "--format=jsonl", path) == 0
    tsv, head, line, row = capsys.readouterr().out.splitlines()
    assert tsv == f"{path}\ta\t0.2500\t{accepted}"
    assert (head, line) == ("path,text,confidence,accepted", f"{path},a,0.2500,{accepted}")
    assert json.loads(row)["accepted"] is (accepted == "true")


def test_what_is_no_column_is_written_in_json_alone() -> None:
    row = {
        **to_row("a.png", Recognition("12", 0.125), label="1,2"),
        **{"accepted": True, "characters": [{"text": "1"}], "boxes": {}, "rank": 3},
    }
    assert header(row) == "path,text,confidence,label,accepted,rank"
    assert to_line(row, "csv") == 'a.png,12,0.1250,"1,2",true,3'
    assert to_line(row, "tsv") == "a.png\t12\t0.1250\t1,2\ttrue\t3"
    assert json.loads(to_line(row, "jsonl")) == row


def test_likely_texts_are_columns_or_a_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = (Alternative("a", 0.5), Alternative("a\t", 0.25), Alternative("b", 0.125))
    result = Recognition("a", 0.75, alternatives=texts)
    recognizer = SimpleNamespace(stream=lambda *_, **__: [result], model=Stub.model)
    widths: list[int | None] = []

    def load(_: str, **options: Any) -> SimpleNamespace:
        widths.append(options["beam_width"])
        return recognizer

    monkeypatch.setattr(Recognizer, "load", load)
    (path,) = files(tmp_path, "a.png")
    for flags in (["--top=2"], ["--top=4", "--format=csv"], ["--top=12", "--format=jsonl"], []):
        run("--beam=11", *flags, path)
    run("--beam=2", "--top=1", path)
    tsv, columns, csv_, jsonl, plain, _ = capsys.readouterr().out.splitlines()
    assert tsv == f"{path}\ta\t0.7500\ta\t0.5000\ta\\t\t0.2500"
    assert columns.split(",")[3:7] == ["text_1", "probability_1", "text_2", "probability_2"]
    assert csv_ == rf"{path},a,0.7500,a,0.5000,a\t,0.2500,b,0.1250,,0.0000"
    assert json.loads(jsonl)["alternatives"][1:] == [
        {"text": "a\t", "probability": 0.25},
        {"text": "b", "probability": 0.125},
    ]
    assert plain == f"{path}\ta\t0.7500"
    assert widths == [11, 11, 12, 11, 10]


def test_the_ending_of_the_output_says_its_format(stub: Stub, tmp_path: Path) -> None:
    (image,) = files(tmp_path, "a.png")
    for name, line in (
        ("a.tsv", f"{image}\ta\t0.2500"),
        ("a.txt", f"{image}\ta\t0.2500"),
        ("a.csv", f"{image},a,0.2500"),
        (
            "a.jsonl",
            json.dumps({"path": image, "text": "a", "confidence": 0.25, "characters": []}),
        ),
    ):
        assert run(f"--output={tmp_path / name}", image) == 0
        assert (tmp_path / name).read_text().splitlines()[-1] == line
    assert run(f"--output={tmp_path / 'b.csv'}", "--format=tsv", image) == 0
    assert (tmp_path / "b.csv").read_text() == f"{image}\ta\t0.2500\n"


# Going on


@pytest.mark.parametrize("form", ["tsv", "csv", "jsonl"])
def test_resuming_reads_what_is_not_written_yet(
    form: str, stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Wherever the file was cut off; a name is as odd as the system allows."""
    names = ["1.png", "path.png", "3 bad.png", "ü,4.png", "5.png"]
    if sys.platform == "linux":
        names.append('"a\n\t\udce9".png')
    images = sorted(files(tmp_path / "images", *names))
    output, whole = tmp_path / f"out.{form}", tmp_path / f"whole.{form}"
    assert run(f"--output={whole}", tmp_path / "images") == 1  # as 3 cannot be read
    data = whole.read_bytes()
    lines = data.splitlines(keepends=True)
    assert len(lines) == len(images) - 1 + (form == "csv")
    for end in (0, len(lines[0]), *range(len(data) - sum(map(len, lines[-2:])) - 1, len(data) + 1)):
        output.write_bytes(data[:end])
        stub.taken.clear()
        assert run(f"--output={output}", "--resume", tmp_path / "images") == 1
        assert output.read_bytes() == data
        done = max(data[:end].count(b"\n") - (form == "csv"), 0)
        good = [path for path in images if "bad" not in path]
        assert [path for path in stub.taken if "bad" not in path] == good[done:]
    assert "cannot read 3 bad" in capsys.readouterr().err
    # A file that is not there yet, and one that is empty, are begun, with --resume or without.
    for flags in ([], ["--resume"]):
        output.write_bytes(b"")
        assert run(f"--output={output}", *flags, tmp_path / "images") == 1
        assert output.read_bytes() == data
        output.unlink()
        assert run(f"--output={output}", *flags, tmp_path / "images") == 1
        assert output.read_bytes() == data


def test_results_are_not_written_over_or_mixed(stub: Stub, tmp_path: Path) -> None:
    (image,) = files(tmp_path, "a.png")
    for name, content, flags, message in (
        ("a.tsv", "my notes\n", [], "has results already; add --resume to go on with it"),
        ("b.tsv", "my notes\n", ["--resume"], r"b\.tsv:1: this is no result as tsv; choose"),
        ("c.csv", "a,b\n", ["--resume"], r"c\.csv:1: this is no result as csv"),
        ("d.csv", 'path,text,confidence\n"x\n', ["--resume"], r"d\.csv:2: this is no result"),
        ("no_end.tsv", "a.png\ta\t0.2", ["--resume"], r"tsv:1: this is no result as tsv"),
        ("e.jsonl", "[1]\n", ["--resume"], r"e\.jsonl:1: this is no result as jsonl"),
        ("f.jsonl", "[" * 100_000 + "\n", ["--resume"], r"f\.jsonl:1: this is no result"),
        ("g.csv", "path,text,confidence,label\n", ["--resume"], r"label and are now path,text,con"),
        ("no/h.csv", "", [], r"h\.csv' cannot be written: No such file.*; choose another --output"),
        ("", "", [], "cannot be written: Is a directory"),
    ):
        path = tmp_path / name
        if content:
            path.write_text(content)
        with pytest.raises(DataError, match=message):
            run(f"--output={path}", *flags, image)
        assert not content or path.read_text() == content


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_an_output_on_a_full_disk_is_one_line(stub: Stub, tmp_path: Path) -> None:
    (image,) = files(tmp_path, "a.png")
    with pytest.raises(DataError, match=r"^'/dev/full' cannot be written: No space left"):
        run("--output=/dev/full", image)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--resume", "a.png"], "--resume goes on with a file; name it with --output"),
        (["--labels=a.tsv", "b.png"], "--labels names the images to read; leave out 'b.png'"),
        (["--labels=a.tsv", "--resume", "--output=b"], "--labels compares all images; leave out"),
        (["--labels=a.txt"], r"a\.txt ends in none of \.tsv, \.csv, \.jsonl"),
        (["--labels=no.tsv"], r"cannot read the label file 'no\.tsv'"),
        (["--format=xml", "a.png"], "format"),
    ],
)
def test_flags_that_do_not_go_together(flags: list[str], message: str) -> None:
    with pytest.raises(CrnnError, match=message):
        run(*flags)


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_ctrl_c_keeps_what_is_written(stub: Stub, tmp_path: Path) -> None:
    code = """if True:
        import signal
        import sys
        from types import SimpleNamespace
        from crnn_jax import predict
        from crnn_jax.commands import run
        from crnn_jax.recognition.recognizer import Recognizer
        from crnn_jax.recognition.results import Recognition
        from crnn_jax.text.alphabet import Alphabet

        # A shell that starts the tests in the background ignores it.
        signal.signal(signal.SIGINT, signal.default_int_handler)

        def stream(paths, *_, **__):
            for path, _ in zip(paths, range(3)):
                yield Recognition("a", 0.5)
            print("three", flush=True)
            sys.stdin.read()

        model = SimpleNamespace(alphabet=Alphabet("a"))
        Recognizer.load = lambda *_, **__: SimpleNamespace(stream=stream, model=model)
        run(predict.main, predict.FLAGS, "", ["predict", *sys.argv[1:]])
    """
    images = files(tmp_path, *(f"{number}.png" for number in range(5)))
    output = tmp_path / "out.tsv"
    with subprocess.Popen(
        [sys.executable, "-c", code, f"--output={output}", *images],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout and process.stdout.readline() == b"three\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == -signal.SIGINT
    assert output.read_text() == "".join(f"{path}\ta\t0.5000\n" for path in images[:3])
    assert run(f"--output={output}", "--resume", *images) == 0
    assert stub.taken == images[3:]


# Labels


def test_labels_make_it_an_evaluation(
    stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Metrics by hand: one right, one but for its case, one missing, one of two edits."""
    files(tmp_path, "abc.png", "images/aB.png", "bad.png", "AAA.png")
    file = tmp_path / "set.tsv"
    file.write_text("abc.png\tabc\naB.png\tAb\nbad.png\tac\nAAA.png\tAbbA\n", encoding="utf-8")
    assert run(f"--labels={file}", "--format=csv") == 1
    shown, errors = capsys.readouterr()
    assert list(csv.reader(shown.splitlines())) == [
        ["path", "text", "confidence", "label"],
        [str(tmp_path / "abc.png"), "abc", "0.2500", "abc"],
        [str(tmp_path / "images" / "aB.png"), "aB", "0.2500", "Ab"],
        [str(tmp_path / "AAA.png"), "AAA", "0.2500", "AbbA"],
    ]
    # abc 0, aB/Ab 2, missing ac 2, AAA/AbbA 2 edits, of 11 characters.
    assert errors.splitlines() == [
        "error: cannot read bad",
        "4 images: exact match 25.00%, caseless 50.00%, CER 54.55%",
    ]
    for line, message in (
        ("../a.png\ta\n", "is outside the folder"),
        ("abc.png\ta\nabc.png\tb\n", "is already listed"),
        ("\n", "is empty"),
    ):
        file.write_text(line)
        with pytest.raises(DataError, match=message):
            run(f"--labels={file}")


@pytest.mark.skipif(sys.platform == "win32", reason="links of POSIX")
def test_links_out_of_the_folder_of_labels_are_refused(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (secret,) = files(tmp_path, "secret.png")
    file = tmp_path / "set" / "labels.tsv"
    file.parent.mkdir()
    file.write_text("a.png\ta\n")
    (file.parent / "a.png").symlink_to(secret)
    with pytest.raises(DataError, match="is a link out of the folder"):
        run(f"--labels={file}")
    monkeypatch.setenv("CRNN_JAX_TRUSTED", "1")
    assert run(f"--labels={file}") == 0


# Progress


class Terminal(io.StringIO):
    """A terminal that notes what is written."""

    def isatty(self) -> bool:
        return True


def test_progress_is_shown_on_a_terminal_that_has_no_results(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = files(tmp_path, *(f"{number}.png" for number in range(1_234)))
    for arguments, shown in ((images, "1,234 of 1,234 images, "), ([tmp_path], "1,234 images, ")):
        terminal = Terminal()
        monkeypatch.setattr(sys, "stderr", terminal)
        assert run(*arguments) == 0
        assert shown in terminal.getvalue()
        # Ctrl-C ends the process at once, so that nothing would show the cursor again.
        hidden, visible = "\x1b[?25l", "\x1b[?25h"
        assert visible in terminal.getvalue().partition(hidden)[2].partition("images")[0]
    for error, result in ((io.StringIO(), io.StringIO()), (Terminal(), Terminal())):
        monkeypatch.setattr(sys, "stderr", error)
        monkeypatch.setattr(sys, "stdout", result)
        assert run(*images[:3]) == 0
        assert error.getvalue() == "" and result.getvalue().count("\n") == 3
