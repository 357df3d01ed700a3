"""Small question sets in their real formats: pictures, tar shards, JSONL with photos."""

import io
import json
import tarfile

import cv2
import numpy as np


def picture(number, extension=".jpg"):
    """An encoded picture, a different one for every number."""
    pixels = np.random.default_rng(number).integers(0, 256, (24 + number % 5, 32, 3), np.uint8)
    return cv2.imencode(extension, pixels)[1].tobytes()


def write_tar(path, files):
    """Writes a tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def write_lines(path, lines):
    """Writes JSONL and the images that its lines name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for number, line in enumerate(lines):
        if "image" in line:
            image = path.parent / line["image"]
            image.parent.mkdir(parents=True, exist_ok=True)
            image.write_bytes(picture(number))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
