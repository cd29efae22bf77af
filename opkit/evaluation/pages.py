"""HTML pages that are one file, need no network, and allow none: a content security policy names the digest of every
style and script in them."""

import base64
import hashlib
from pathlib import Path
from typing import Any

from opkit.evaluation import verdicts


def render_page(template: str, script: str = "", **values: Any) -> str:
    """A template of this folder, with report.css as `style` and its `policy`.

    Args:
        template: File name.
        script: File name of the script that stands in it, if any.
        values: What else the template speaks of.
    """
    import jinja2

    folder = Path(__file__).parent
    style = (folder / "report.css").read_text(encoding="utf-8")
    code = (folder / script).read_text(encoding="utf-8") if script else ""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("opkit.evaluation", ""), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["percent"] = verdicts.percent
    environment.filters["some"] = verdicts.some
    environment.filters["cell"] = lambda v: verdicts.percent(v).replace("below", "<")  # of a table
    environment.filters["gain"] = verdicts.gain
    environment.filters["number"] = lambda v: "undefined" if v is None else f"{v:.3g}"
    policy = f"default-src 'none'; img-src data:; style-src {_digest(style)}"
    if code:
        policy += f"; script-src {_digest(code)}"
    return environment.get_template(template).render(style=style, script=code, policy=policy, **values)


def data_url(png: bytes) -> str:
    """A picture as an address that is the picture."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _digest(text: str) -> str:
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
