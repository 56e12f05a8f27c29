"""Models that may come from a stranger: manifests with a correct digest, and arrays."""

import hashlib
import json
import shutil
import struct
import zipfile
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from fuzzing.damage import Draw, change_bytes, change_file, change_json, files_in
from fuzzing.images import IMAGE, ROOT

CHECKPOINT = ROOT / "tests" / "data" / "checkpoints" / "format3"
PRETRAINED = ROOT / "crnn_jax" / "pretrained" / "captcha"


def create_checkpoint(folder: Path) -> None:
    """Copies a checkpoint that the tests have."""
    shutil.copytree(CHECKPOINT, folder, dirs_exist_ok=True)


def damage_manifest(draw: Draw, folder: Path) -> None:
    """Changes a manifest with a correct digest, or any other file of the checkpoint."""
    manifest = next(folder.glob("checkpoints/*/manifest/metadata"))
    if draw(st.integers(0, 3)):
        change_sealed(draw, manifest)
    else:
        change_file(draw, draw(st.sampled_from(files_in(folder))))


def change_sealed(draw: Draw, path: Path) -> None:
    """Changes a manifest, which gets a correct digest."""
    from crnn_jax.training.manifest import seal

    manifest = json.loads(path.read_text(encoding="utf-8"))
    del manifest["digest"]
    for _ in range(draw(st.integers(1, 3))):
        keys = ("model", "preprocessing", "alphabet", *sorted(manifest))
        key = draw(st.sampled_from(keys))
        manifest[key] = change_json(draw, manifest.get(key))
    path.write_text(json.dumps(seal(manifest)), encoding="utf-8")


def create_pretrained(folder: Path) -> None:
    """Copies the pretrained model."""
    for name in ("manifest.json", "arrays.npz"):
        shutil.copy(PRETRAINED / name, folder)


def damage_npz(draw: Draw, folder: Path) -> None:
    """Changes the manifest, or arrays, members or bytes of the file; all digests stay right."""
    from crnn_jax.training.manifest import seal

    path = folder / "arrays.npz"
    if not draw(st.integers(0, 3)):
        change_sealed(draw, folder / "manifest.json")
        return
    if draw(st.integers(0, 3)):
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: archive.read(info) for info in archive.infolist()}
        for _ in range(draw(st.integers(1, 2))):
            change_member(draw, members)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
    else:
        path.write_bytes(change_bytes(draw, path.read_bytes()))
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    del manifest["digest"]
    data = path.read_bytes()
    manifest["arrays"] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    text = json.dumps(seal(manifest))
    (folder / "manifest.json").write_text(text, encoding="utf-8")


def change_member(draw: Draw, members: dict[str, bytes]) -> None:
    """Changes an array of an npz file, or adds what is none."""
    name = draw(st.sampled_from(sorted(members)))
    match draw(st.integers(0, 5)):
        case 0:
            members[draw(st.sampled_from(("x", "../x.npy", "/x.npy", "params.npy", "x/")))] = b"x"
        case 1:
            members[draw(st.sampled_from((name[:-4], name + "/x.npy")))] = members.pop(name)
        case 2:
            shapes = ((), (0,), (1,), (10**9,), (1 << 40, 1 << 40), (-1,), (3, 3, 3, 3))
            shape = draw(st.sampled_from(shapes))
            kind = draw(st.sampled_from(("<f2", "<f8", "|O", "<U9", "|V8", ">f2", "<M8[s]", "<c8")))
            header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n"
            members[name] = b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header.encode()
        case 3:
            values = draw(st.sampled_from((np.nan, np.inf, 0, 65504)))
            header, data = members[name][:128], members[name][128:]
            members[name] = header + np.full(len(data) // 2, values, np.float16).tobytes()
        case _:
            members[name] = change_bytes(draw, members[name])


def read_model(folder: Path) -> None:
    """Loads a model and reads an image with it."""
    from crnn_jax.recognition.recognizer import Recognizer

    Recognizer.load(folder)(IMAGE)
