"""Where released checkpoints lie: on this machine, on object storage, on the Hugging Face hub."""

import functools
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import fsspec

from vla_jax.core.errors import UserError

T = TypeVar("T")

AGAIN = "Download it again"

_BACKENDS = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}


@functools.cache
def _backend(scheme: str) -> Any:
    try:
        return fsspec.filesystem(scheme)
    except (ImportError, ValueError) as error:  # not installed; a scheme that nobody knows
        package = _BACKENDS.get(scheme)
        fix = f"Install it with: pip install {package}" if package else None
        raise UserError(f"{scheme}://: {error}", fix=fix) from error


def system(path: str) -> tuple[Any, str]:
    """Returns the file system of a path or URL, and the path in it.

    Raises:
      UserError: its backend is not installed.
    """
    scheme = path.partition("://")[0] if "://" in path else "file"
    found = _backend(scheme)
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
    """Returns the content of a JSON file, None if there is no such file."""
    files, path = system(file)
    if not reading(file, lambda: files.isfile(path)):
        return None
    try:
        content = json.loads(reading(file, lambda: files.cat_file(path)))
    except ValueError as error:
        raise UserError(file, expected="JSON", found=str(error), fix=AGAIN) from error
    if not isinstance(content, dict):
        raise UserError(file, expected="a JSON object", found=type(content).__name__)
    return content


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
    patterns = ["*.json", "*.safetensors", "*.npz", "tokenizer.model"]
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
