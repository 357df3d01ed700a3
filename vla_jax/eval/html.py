"""A report as one page of HTML: no other file, no network, no script."""

import base64
import pathlib
from collections.abc import Mapping
from typing import Any

import jinja2
import markupsafe

_TYPES = {".webm": "video/webm", ".gif": "image/gif", ".png": "image/png"}


def render(content: Mapping[str, Any]) -> str:
    """Fills the template.

    Args:
      content: what `page.html.jinja` beside this file names; every text in it is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": _percent, "number": _number}
    return environment.get_template("page.html.jinja").render(content)


def data_uri(path: pathlib.Path) -> str:
    """Returns a picture or a film as a URI that holds it."""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"data:{_TYPES[path.suffix]};base64,{data}"


def drawing(svg: str) -> markupsafe.Markup:
    """Marks an SVG element, made by us, as part of the page."""
    return markupsafe.Markup(svg)


def _percent(share: float, digits: int = 1) -> str:
    return f"{share:.{digits}%}"


def _number(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
