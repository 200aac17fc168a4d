"""What all pages share: one file that asks for nothing, with its scripts and styles in it and a policy that lets no
others in.

A page is a template `NAME.html`, which extends `page.html`, with `NAME.css` and `NAME.js` after `page.css` and
`page.js`, and between them those components that it shares with the page of a model. Text from data stands in it as
text only: escaped by the template, and from there in the charts.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from gptlite.distribution import install_hint
from gptlite.errors import UsageError
from gptlite.report import components

HERE = Path(__file__).parent
# Characters that would steer the text around them, or that no file can hold.
UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")

# Of figures: the first of these that the machine has, and that has the signs of tokens in its own style.
FONT = "Noto Sans, DejaVu Sans, sans-serif"
VARIABLE = re.compile(r"(--[\w-]+): ([^;]+);")
_TEXT = {"labelColor": "--quiet", "titleColor": "--quiet", "labelFontSize": 12, "titleFontSize": 12}
# How charts look. What begins with -- is a colour, or several, of page.css, which knows light and dark.
THEME: dict[str, Any] = {
    "background": "--paper",
    "view": {"stroke": None},
    "axis": {
        **_TEXT, "gridColor": "--line", "domainColor": "--line", "tickColor": "--line", "titleFontWeight": "normal",
    },
    "legend": {**_TEXT, "labelColor": "--ink", "labelLimit": 220, "symbolOpacity": 1, "columns": 4},
    "text": {"color": "--quiet", "fontSize": 11},
    "rule": {"color": "--quiet"},
    "range": {
        "category": "--words",
        "ordinal": ["--accent", "--static", "--same", "--unrelated"],
        # Vega has names for these only: cosines, surprisal in its five steps, attention.
        "ramp": [f"--cosine-{i}" for i in range(1, 6)],
        "heatmap": [f"--bits-{i}" for i in range(5)],
        "diverging": ["--paper", "--attention"],
    },
    "style": {
        "now": {"stroke": "--quiet", "strokeWidth": 1},
        "result": {"color": "--accent"},
        "word": {"color": "--ink"},
        "halo": {"stroke": "--paper", "strokeWidth": 4, "fill": "--paper"},
        "region": {"color": "--line"},
        "entropy": {"color": "--quiet"},
        "circle": {"color": "--same"},
        "diamond": {"color": "--quiet"},
        "surprisal": {"color": "--bits-4"},
        "step": {"stroke": "--ink"},
        "chosen": {"stroke": "--ink"},
        "on-cell": {"color": "--ink"},
        "axis-name": {"color": "--quiet", "fontSize": 11},
    },
}  # fmt: skip


@dataclass(frozen=True)
class Figure:
    """A chart of a page by itself: the `spec` of Vega-Lite, as large as `size` (width, height), or as its parts say.

    - `data`: its data sets; `signals`: values of its parameters.
    """

    spec: Mapping[str, Any]
    size: tuple[int, int] | None
    data: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    signals: Mapping[str, Any] = field(default_factory=dict)


def check_libraries() -> None:
    """Raises `UsageError` when the libraries that draw are not installed."""
    try:
        import altair  # noqa: F401
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a page needs the packages altair, jinja2 and vl-convert-python; install them: {install_hint('report')}."
        ) from error


def render(
    name: str,
    data: Mapping[str, Any],
    specs: Mapping[str, Any],
    /,
    *,
    parts: Sequence[str] = (),
    block: bytes = b"",
    styled_as: str | None = None,
    **context: Any,
) -> str:
    """The page `name` as HTML. Raises `UsageError` when the libraries that draw are not installed.

    - `data` for its script, `specs` of its charts, `context` for its template.
    - `parts`: scripts of the components, for which `block` has arrays, as `components.packing.pack` makes it.
    - `styled_as`: another page whose style it has.
    """
    check_libraries()
    import jinja2

    loader = jinja2.FileSystemLoader(HERE)
    pages = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    style = styles(*["components/components"] * bool(parts), styled_as or name)
    own = [(HERE / f"{file}.js").read_text(encoding="utf-8") for file in ("page", name)]
    script = "\n".join((own[0], *[components.read(*parts)] * bool(parts), own[1]))
    library = _charting_library()
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {hash_source(script)} {hash_source(library)}",
            f"style-src {hash_source(style)}",
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
        theme=THEME,
        block=base64.b64encode(gzip.compress(block, compresslevel=9, mtime=0)).decode() if block else "",
        **context,
    )


def styles(*names: str) -> str:
    """The style sheet of all pages, and these of this folder after it."""
    return "\n".join((HERE / f"{name}.css").read_text(encoding="utf-8") for name in ("page", *names))


def visible(text: str) -> str:
    """Text in which nothing is hidden: control characters as their pictures, what is no character as �."""
    return UNSEEN.sub(lambda m: chr(0x2400 + ord(m[0])) if m[0] < " " else "�", text)


def hash_source(content: str) -> str:
    """How a policy names a script or a style of this content."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


@cache
def _charting_library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, whose names stay in it."""
    import altair
    import vl_convert

    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=_version(altair))
    return f"(() => {{{bundle}}})();"


def _version(altair: Any) -> str:
    """Of Vega-Lite, as the charts are written in it."""
    return ".".join(altair.VEGALITE_VERSION.split(".")[:2])


# -- Charts by themselves


def draw(figure: Figure) -> tuple[str, bytes]:
    """A chart as SVG and as PNG, as the page shows it by day; no browser is needed.

    Raises `UsageError` when the libraries that draw are not installed.
    """
    check_libraries()
    import altair
    import vl_convert

    size = {} if figure.size is None else dict(zip(("width", "height"), figure.size, strict=True))
    params = [{**x, "value": figure.signals.get(x["name"], x.get("value"))} for x in figure.spec.get("params", ())]
    spec = {
        **figure.spec,
        **({"params": params} if params else {}),
        **size,
        "padding": 12,
        "datasets": {**figure.spec.get("datasets", {}), **figure.data},
        "config": {**_coloured(THEME, _palette()), "font": FONT},
    }
    version = _version(altair)
    svg = vl_convert.vegalite_to_svg(spec, vl_version=version)
    return svg, vl_convert.svg_to_png(svg, scale=2)  # the same picture in a fifth of the time that the chart would take


@cache
def _palette() -> dict[str, str]:
    """The colours of the style sheet by day."""
    day = (HERE / "page.css").read_text(encoding="utf-8").split("@media")[0]
    return dict(VARIABLE.findall(day))


def _coloured(value: Any, palette: Mapping[str, str]) -> Any:
    """A theme with its colours in place of their names."""
    if isinstance(value, dict):
        return {name: _coloured(part, palette) for name, part in value.items()}
    if isinstance(value, list):
        return [_coloured(part, palette) for part in value]
    if not (isinstance(value, str) and value.startswith("--")):
        return value
    colours = palette[value].split()
    return colours if len(colours) > 1 else colours[0]
