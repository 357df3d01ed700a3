"""Where released checkpoints lie: on this machine, on object storage, on the Hugging Face hub."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

from vla_jax.core import json_file
from vla_jax.core.errors import UserError
from vla_jax.runtime.storage import filesystem

T = TypeVar("T")

AGAIN = "Download it again"


def system(path: str) -> tuple[Any, str]:
    """Returns the file system of a path or URL, and the path in it.

    Raises:
      UserError: its backend is not installed.
    """
    found = filesystem(path)
    return found, found._strip_protocol(path)


def is_local(files: Any) -> bool:
    """Tells whether a file system is this machine's, whose files can be mapped."""
    return "file" in ([files.protocol] if isinstance(files.protocol, str) else files.protocol)


def reading(file: str, call: Callable[[], T]) -> T:
    """Returns `call()`.

    Raises:
      UserError: it failed; names the file.
    """
    try:
        return call()
    except UserError:
        raise
    except Exception as error:  # every backend has exceptions of its own
        reason = f"{type(error).__name__} {error}".strip()
        raise UserError(f"{file}: cannot be read ({reason})") from error


def json_object(file: str) -> dict[str, Any] | None:
    """Returns the content of a JSON file, None if there is no such file.

    Raises:
      UserError: it is not a JSON object.
    """
    files, path = system(file)
    if not reading(file, lambda: files.isfile(path)):
        return None
    text = reading(file, lambda: files.cat_file(path))
    return json_file.decode(text, dict[str, Any], file, fix=AGAIN)


def downloaded(path: str) -> str:
    """Returns the folder into which `hf://OWNER/NAME` or `hf://OWNER/NAME@REVISION` is downloaded.

    Raises:
      UserError: huggingface_hub is not installed, or the hub refuses.
    """
    match = re.fullmatch(r"hf://([^/@]+/[^/@]+?)(?:@([^/]+))?/?", path)
    if match is None:
        raise UserError(path, expected="hf://OWNER/NAME or hf://OWNER/NAME@REVISION")
    try:
        import huggingface_hub  # noqa: PLC0415  (optional)
    except ImportError as error:
        raise UserError(
            f"{path}: huggingface_hub is not installed",
            fix="Install it with: pip install huggingface_hub",
        ) from error
    patterns = ["*.json", "*.safetensors", "*.npz", "*--*_checkpoint.pt", "tokenizer.model"]
    try:
        return huggingface_hub.snapshot_download(
            match[1], revision=match[2], allow_patterns=patterns
        )
    except Exception as error:  # its own for absent, gated, offline; those of its HTTP library
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"{path}: cannot be downloaded ({reason})",
            fix="Check the name, accept its licence on the hub and log in: hf auth login",
        ) from error
