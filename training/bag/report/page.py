"""Puts the page together: its figures, its images, its style and scripts in one file."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

from stmem_ros.files import whole_file
from training.bag.bootstrap import LEAST_UNITS, counts
from training.bag.report.document import choose_pictures, document
from training.bag.report.tables import (
    bag_rows,
    class_rows,
    largest_confusions,
    notes_of,
    recordings,
    summary,
    sums_of,
    verdict,
)
from training.bag.report.thumbnails import flicker_maps, of_each_network, worst_frames
from training.bag.result import Evaluation

HERE = Path(__file__).parent
# In the order in which they are run, as one script.
SCRIPTS = ("theme.js", "table.js", "confusion.js", "timeline.js", "viewer.js", "start.js")
# Characters of images in a page, which is about 5 MB more.
IMAGE_BUDGET = 16_000_000
# By the module that is imported, the package that pip installs.
LIBRARIES = {"jinja2": "Jinja2", "plotly": "plotly"}


class ReportError(Exception):
    """A report that cannot be made: one line with the reason and what to do."""


def require_libraries() -> None:
    """Raises ReportError where a package that the report needs is missing: ask before the networks run."""
    missing = [package for module, package in LIBRARIES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise ReportError(f"the report needs {' and '.join(missing)}: pip install {' '.join(missing)}")


def write_report(evaluation: Evaluation, path: Path, image_budget: int = IMAGE_BUDGET) -> None:
    """Write one HTML file that needs neither a network nor another file.

    Images beyond `image_budget` characters are left out, and the page says so. Raises ReportError where a package is
    missing, OSError where the file cannot be written.
    """
    require_libraries()
    page = render(evaluation, image_budget)
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


def render(evaluation: Evaluation, image_budget: int) -> str:
    """The page. Raises ImportError where a package is missing."""
    from plotly.offline import get_plotlyjs

    script = "\n".join(["(() => {", '"use strict";', *map(_text, SCRIPTS), "})();"])
    plotly = get_plotlyjs()
    return _template().render(
        **context(evaluation, image_budget),
        style=_text("page.css"),
        plotly=plotly,
        script=script,
        script_hashes=[_hash(each) for each in (plotly, script)],
    )


@functools.cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"number": number, "signed": signed}
    environment.globals["verdict"] = verdict
    return environment.get_template("page.html")


def context(evaluation: Evaluation, image_budget: int) -> dict[str, Any]:
    """What the template draws from."""
    found = recordings(evaluation)
    pictures = choose_pictures(found, image_budget)
    sums = sums_of(evaluation)
    figures, networks = summary(evaluation)
    bags = list(dict.fromkeys([*(each.bag for each in found), *evaluation.failures]))
    count = of_each_network(max(len(evaluation.models), 1))
    thumbnails = [
        {
            "name": name,
            "worst": worst_frames(model, count, found, pictures),
            "flicker": flicker_maps(model, count, found, pictures),
        }
        for model, name in enumerate(evaluation.models)
    ]
    return {
        "title": f"Evaluation of {bags[0]}" if len(bags) == 1 else f"Evaluation of {len(bags)} bags",
        "evaluation": evaluation,
        "labelled": any(each.confusion.any() for each in sums),
        "bags": bags,
        "topics": list(dict.fromkeys(each.topic for each in found)),
        "recordings": found,
        "figures": figures,
        "networks": networks,
        "least_units": LEAST_UNITS,
        "count": counts(evaluation.comparisons) if evaluation.comparisons else "",
        "classes": class_rows(evaluation, sums),
        "confusions": [largest_confusions(each.confusion) for each in sums],
        "bag_rows": bag_rows(found, [len(one) for one in pictures.moments]),
        "notes": [(place, each, lines) for place, each in enumerate(found) if (lines := notes_of(each))],
        "thumbnails": thumbnails,
        "pictures": pictures,
        "data": embedded(document(evaluation, found, pictures, sums)),
        "images": embedded(pictures.images.urls),
    }


def embedded(value: Any) -> str:
    """JSON that may stand in a script element: no `<` in it ends or begins anything."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def number(value: float | None, digits: int = 2) -> str:
    return "\N{EN DASH}" if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign, the minus as long as the plus is."""
    return "\N{EN DASH}" if value is None else f"{value:+.{digits}f}".replace("-", "\N{MINUS SIGN}")


def _text(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    """As a Content-Security-Policy names the one script that may run."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
