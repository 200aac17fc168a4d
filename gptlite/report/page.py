"""What all pages share: one file that asks for nothing, with its scripts and styles in it and a policy that lets no
others in.

A page is a template `NAME.html`, which extends `page.html`, with `NAME.css` and `NAME.js` after `page.css` and
`page.js`. Text from data stands in it as text only: escaped by the template, and from there in the charts.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from gptlite.errors import UsageError

HERE = Path(__file__).parent
# Characters that would steer the text around them, or that no file can hold.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def check_libraries() -> None:
    """Raises `UsageError` when the libraries that draw are not installed."""
    try:
        import altair  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "a page needs the packages altair and vl-convert-python; install them: pip install 'gptlite[report]'."
        ) from error


def render(name: str, data: Mapping[str, Any], specs: Mapping[str, Any], /, **context: Any) -> str:
    """The page `name` as HTML. Raises `UsageError` when the libraries that draw are not installed.

    - `data` for its script, `specs` of its charts, `context` for its template.
    """
    check_libraries()
    import jinja2

    loader = jinja2.FileSystemLoader(HERE)
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style, script = (
        "\n".join((HERE / f"{part}.{kind}").read_text(encoding="utf-8") for part in ("page", name))
        for kind in ("css", "js")
    )
    library = _charting_library()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(script)} {_hash(library)}",
            f"style-src {_hash(style)}",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    return pages.get_template(f"{name}.html").render(
        policy=policy,
        style=style,
        script=script,
        library=base64.b64encode(gzip.compress(library.encode(), mtime=0)).decode(),
        data=data,
        specs=specs,
        **context,
    )


def visible(text: str) -> str:
    """Text in which nothing is hidden: control characters as their pictures, what is no character as �."""
    return UNSEEN.sub(lambda m: chr(0x2400 + ord(m[0])) if m[0] < " " else "�", text)


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _charting_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, whose names stay in it."""
    import altair
    import vl_convert

    version = ".".join(altair.VEGALITE_VERSION.split(".")[:2])
    return f"(() => {{{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;', vl_version=version)}}})();"
