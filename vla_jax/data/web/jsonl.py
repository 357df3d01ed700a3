"""JSONL and image files, as big_vision reads them: a line has texts and the name of an image."""

import os
from collections.abc import Collection, Iterator

from vla_jax.core.errors import UserError
from vla_jax.data.flaw import Flaw
from vla_jax.data.web import json_fields
from vla_jax.data.web.formats import Fields, Format, Place, Row, stream
from vla_jax.runtime import storage
from vla_jax.runtime.storage import Files

_IMAGE = "image"


class JsonLines(Format):
    """Lines `{"image": "photos/1.jpg", ...}`; paths are relative to the folder of the JSONL."""

    suffix = ".jsonl"
    has_images = False

    def walk(self, files: Files, k: int, where: str) -> Iterator[Place | Flaw]:
        """Yields every line that is not blank; an image that is a local file must exist."""
        start, path = 0, files.paths[k]
        for number, line in enumerate(stream(files, k), 1):
            if line.strip():
                name = f"{where}, line {number}"
                try:
                    image = _image_path(line, path, name)
                except UserError as error:
                    yield Flaw(kind="record", place=name, reason=str(error))
                else:
                    if storage.is_remote(image) or os.path.isfile(image):
                        yield Place(name, Row(start, len(line), 0, 0, 0, len(line)), line)
                    else:
                        reason = str(_missing(image, path, name))
                        yield Flaw(kind="picture", place=name, reason=reason)
            start += len(line)

    def fields(self, text: bytes, is_plain: bool, names: Collection[str], where: str) -> Fields:
        """Parses the line."""
        del is_plain
        return json_fields.read(text, names, where)

    def image(self, data: bytes, row: Row, path: str, where: str) -> bytes:
        """Reads the file that the line names."""
        image = _image_path(data, path, where)
        try:
            return storage.contents(image)
        except UserError as error:
            raise _missing(image, path, where) from error

    def beside(self, data: bytes, path: str, where: str) -> bytes:
        """Returns the image, where it is on this machine; elsewhere the index does not read it."""
        image = _image_path(data, path, where)
        return b"" if storage.is_remote(image) else storage.contents(image)


def _image_path(line: bytes, path: str, where: str) -> str:
    names = json_fields.read(line, (_IMAGE,), where).get(_IMAGE)
    if not names or len(names) != 1 or not names[0]:
        raise UserError(
            f"{where}: field {_IMAGE!r}",
            expected="the path of one image",
            found=names or "none",
            fix=f"Write it relative to {_folder(path)}",
        )
    name = names[0]
    return name if storage.is_remote(name) else storage.join(_folder(path), name)


def _missing(image: str, path: str, where: str) -> UserError:
    return UserError(
        f"{where}: the image cannot be read",
        expected=f"a file {image}",
        found="none",
        fix=f"Write paths of images relative to {_folder(path)}",
    )


def _folder(path: str) -> str:
    return path.rpartition("/")[0] if storage.is_remote(path) else os.path.dirname(path)
