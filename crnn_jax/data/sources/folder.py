"""Folders of images. The labels are in label files, or in the names of files or sub-folders."""

import functools
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crnn_jax.data.image_headers import IMAGE_ENDINGS, MAX_BYTES
from crnn_jax.data.sources.label_files import ENDINGS, Row, read_rows
from crnn_jax.data.sources.paths import errors_of, files_below, is_file, is_folder, require_folder
from crnn_jax.data.sources.split import Split, nfc, quoted
from crnn_jax.errors import ConfigError, DataError
from crnn_jax.files import check_inside, read_file


def load_folder(settings: Mapping[str, Any]) -> dict[str, Split]:
    """Reads the folder `settings["dir"]`, see `folder`.

    Raises:
        ConfigError: no folder is set.
        DataError: as `folder`.
    """
    if not settings["dir"]:
        raise ConfigError("the data source 'folder' needs a folder; set --config.data.dir=DIR")
    return folder(Path(settings["dir"]))


def folder(directory: Path) -> dict[str, Split]:
    """Reads 'train' and 'test', one of them alone, or 'all' from a folder of images.

    'train' and 'test' come from the label files `train.tsv` and `test.tsv`, or else from the
    sub-folders `train/` and `test/`. Such a sub-folder, and a folder with none of these, has

    - a label file `labels.tsv`, or else
    - its labels in file names: `text.png` or `text_anything.png`, also in `images/`. For images in
      other sub-folders, the label is the name of the sub-folder.

    Label files may be `.tsv`, `.csv` or `.jsonl`, see `read_rows`. They name images relative to the
    folder or to its `images/`. A missing image is an error when it is read. Links that lead out of
    the folder are not followed.

    Raises:
        DataError: the folder or a label file is missing or may not be read, or a line of a label
            file cannot be used.
    """
    require_folder(directory)
    with errors_of(directory):
        splits = {name: split for name in ("train", "test") if (split := _named(directory, name))}
        return splits or {"all": _whole(directory, directory)}


def read_labels(file: Path) -> dict[Path, str]:
    """Reads a label file on its own: the paths of its images, as for `folder`, and their labels.

    Raises:
        DataError: it cannot be read, a line of it cannot be used, or an image is outside its
            folder.
    """
    if file.suffix not in ENDINGS:
        raise DataError(f"the name of the label file {file} ends in none of {', '.join(ENDINGS)}")
    rows = _rows(file.parent, file, file.parent)
    with errors_of(file.parent):
        for path in rows:
            check_inside(path, file.parent)
    return {path: nfc(row.label) for path, row in rows.items()}


def _named(directory: Path, name: str) -> Split | None:
    """The split 'train' or 'test', if the folder has it."""
    file = _label_file(directory, name)
    if file:
        return _from_rows(directory, file, directory)
    if is_folder(directory / name) and not _label_file(directory, "labels"):
        check_inside(directory / name, directory)
        return _whole(directory / name, directory)
    return None


def _whole(directory: Path, root: Path) -> Split:
    file = _label_file(directory, "labels")
    return _from_rows(directory, file, root) if file else _from_names(directory, root)


def _label_file(directory: Path, name: str) -> Path | None:
    files = [file for ending in ENDINGS if is_file(file := directory / (name + ending))]
    if len(files) > 1:
        raise DataError(
            f"{str(directory)!r} has both {files[0].name} and {files[1].name}; keep one of them"
        )
    return files[0] if files else None


def _from_rows(directory: Path, file: Path, root: Path) -> Split:
    rows = _rows(directory, file, root)
    return Split(
        names=tuple(row.name for row in rows.values()),
        labels=tuple(nfc(row.label) for row in rows.values()),
        read=_Files(tuple(rows), root),
    )


def _rows(directory: Path, file: Path, root: Path) -> dict[Path, Row]:
    """The rows of a label file by the paths of their images."""
    listed = functools.cache(_listed)
    rows: dict[Path, Row] = {}
    for row in read_rows(file, root):
        path = _find(directory, row, listed)
        if path in rows:
            raise DataError(
                f"{row.place}: image {quoted(row.name)} is already listed at {rows[path].place};"
                " remove one of the lines"
            )
        rows[path] = row
    if not rows:
        raise DataError(f"{file}: the label file is empty; add lines of image, tab, text")
    return rows


def _find(directory: Path, row: Row, listed: Callable[[Path], Mapping[str, str]]) -> Path:
    inside = Path(row.name)
    if inside.anchor or ".." in inside.parts:  # on Windows also `C:name` and `\\name`
        raise DataError(
            f"{row.place}: image {quoted(row.name)} is outside the folder; move it there, and name"
            " it relative to the folder"
        )
    path = directory / inside
    try:
        if is_file(path):
            return path
        for other in (directory / "images" / inside, *_other_forms(directory, inside, listed)):
            if is_file(other):
                return other
    except OSError as error:
        raise DataError(
            f"{row.place}: cannot look for image {quoted(row.name)} ({error.strerror}); correct the"
            " name, or the permissions of its folder"
        ) from error
    return path


def _other_forms(
    directory: Path, inside: Path, listed: Callable[[Path], Mapping[str, str]]
) -> Iterable[Path]:
    """Paths in other forms of Unicode: macOS decomposes names of files, label files rarely do."""
    if str(inside).isascii():
        return
    for path in (directory, directory / "images"):
        for part in inside.parts:
            path /= listed(path).get(nfc(part), part)
        yield path


def _listed(directory: Path) -> dict[str, str]:
    """The names in a folder by their composed form."""
    try:
        return {nfc(name): name for name in os.listdir(directory)}  # noqa: PTH208
    except (OSError, ValueError):
        return {}


def _from_names(directory: Path, root: Path) -> Split:
    paths = sorted(_images(directory))
    if not paths:
        raise DataError(
            f"the folder {str(directory)!r} has no images and no label file; add a labels.tsv with"
            " lines of image, tab, text"
        )
    inside = [path.relative_to(directory) for path in paths]
    return Split(
        names=tuple(path.as_posix() for path in inside),
        labels=tuple(nfc(_label(path)) for path in inside),
        read=_Files(tuple(paths), root),
    )


def _images(directory: Path) -> Iterable[Path]:
    for path in files_below(directory):
        hidden = any(part.startswith(".") for part in path.relative_to(directory).parts)
        if path.suffix.lower() in IMAGE_ENDINGS and not hidden and is_file(path):
            yield path


def _label(path: Path) -> str:
    """The label in the name of an image, or of its sub-folder; `path` is relative to the folder."""
    if path.parts[:-1] in ((), ("images",)):
        return path.stem.split("_")[0]
    return path.parts[-2]


@dataclass(frozen=True)
class _Files:
    paths: tuple[Path, ...]
    root: Path

    def __call__(self, index: int) -> bytes:
        path = self.paths[index]
        try:
            return read_file(path, MAX_BYTES, self.root)
        except (OSError, ValueError) as error:  # ValueError: a null character in the name
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(
                f"cannot read image {str(path)!r} ({reason}); restore it, or remove it from the"
                " label file"
            ) from error
