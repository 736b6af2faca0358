"""The report page of drift: one HTML file with its pictures inside, readable offline."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from vivero.evaluation.drift import DriftReport
from vivero.files import write_text

PICTURES = {
    "unusual": "The most unusual new images (above) and images of the reference (below)",
    "null": "Maximum mean discrepancy: observed, and if nothing had changed",
    "scores": "What a classifier says of images it has not seen, and its ROC curve",
    "components": "Each principal component",
    "labels": "Shares of the labels",
}
WHAT = {
    "maximum mean discrepancy": "squared discrepancy",
    "classifier two-sample": "area under the ROC curve, 0.5 = cannot tell",
    "Kolmogorov-Smirnov by component": "largest distance of distribution functions",
    "outliers": "share of new images among the farthest, less that of the reference",
    "label shares": "total variation distance",
}

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vivero: drift</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2321; background: #fff; }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.4rem }
h3 { font-size: 1rem; margin-top: 1.6rem; font-weight: 600 }
.verdict { padding: .8rem 1rem; border-left: 6px solid #4a7c59; background: #f1f6f2 }
.verdict.alarm { border-color: #c2410c; background: #fdf3ec }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dde3e0 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums }
tr.alarm td { background: #fdf3ec; font-weight: 600 }
img { max-width: 100%; height: auto; display: block } .pixels { image-rendering: pixelated }
.scroll { overflow-x: auto } code { font-size: .85em; overflow-wrap: anywhere }
.what { color: #66706b; font-size: .85em; font-weight: 400 }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<div class="verdict{{ ' alarm' if is_alarm else '' }}"><strong>{{ verdict }}</strong>
<ul>{% for reason in reasons %}<li>{{ reason }}</li>{% endfor %}</ul></div>
{% for part in parts %}
<h2>{{ part.name }}</h2>
<p>{{ part.report.num_current }} images against {{ part.report.num_reference }} of the reference
({{ part.against }}). All tests together give a false alarm in at most
{{ percent(part.report.level) }} of batches; a test alarms when its corrected p is below
that level <em>and</em> its effect is above the limit, because with enough images any difference
is significant.</p>
<div class="scroll"><table>
<thead><tr><th>test</th><th class="n">p</th><th class="n">corrected p</th><th class="n">effect</th>
<th class="n">limit</th><th>alarm</th></tr></thead><tbody>
{% for test in part.report.tests -%}
<tr class="{{ 'alarm' if test.is_alarm else '' }}"><td>{{ test.name }}<br>
<span class="what">{{ what[test.name] }}</span></td>
<td class="n">{{ short(test.p_value) }}</td><td class="n">{{ short(test.adjusted_p) }}</td>
<td class="n">{{ short(test.effect) }}</td><td class="n">{{ short(test.limit) }}</td>
<td>{{ "ALARM" if test.is_alarm else "no" }}</td></tr>
{% endfor -%}
</tbody></table></div>
<p>Fréchet distance in the components {{ short(part.report.frechet) }}, by chance
{{ short(part.report.frechet_floor) }}; farther out than 99.5 % of the reference:
{{ percent(part.report.outlier_share.value) }} of the images
({{ percent(part.report.outlier_share.low) }} to {{ percent(part.report.outlier_share.high) }}).</p>
{% for name, image in part.encoded.items() %}
<h3>{{ titles[name] }}</h3>
<img class="{{ 'pixels' if name == 'unusual' else '' }}" alt="{{ titles[name] }}"
     src="data:image/png;base64,{{ image }}">
{% endfor %}
{% endfor %}
<h2>Facts</h2>
<table>{% for key, value in facts.items() %}
<tr><td>{{ key }}</td><td><code>{{ value }}</code></td></tr>{% endfor %}</table>
</body>
</html>
"""


@dataclass(frozen=True)
class Part:
    """One comparison on the page.

    Attributes:
        name: Heading.
        against: What the reference is, in words.
        report: What was found.
        pictures: PNG files by name in PICTURES.
    """

    name: str
    against: str
    report: DriftReport
    pictures: Mapping[str, Path] = field(default_factory=dict)

    @property
    def encoded(self) -> dict[str, str]:
        """The pictures as text, in the order of PICTURES."""
        return {
            name: base64.b64encode(self.pictures[name].read_bytes()).decode()
            for name in PICTURES
            if name in self.pictures
        }


def write_drift_page(
    path: Path,
    verdict: str,
    reasons: Sequence[str],
    parts: Sequence[Part],
    facts: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        path: HTML file to write.
        verdict: A few words, first on the page.
        reasons: Sentences below them.
        parts: The comparisons; none when there was nothing to test.
        facts: What else a reader may ask for, by name.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    page = environment.from_string(TEMPLATE).render(
        title="Drift",
        verdict=verdict,
        reasons=list(reasons),
        is_alarm=any(part.report.is_alarm for part in parts),
        parts=parts,
        facts=dict(facts),
        titles=PICTURES,
        what=WHAT,
        short=lambda value: f"{value:.3g}",
        percent=lambda share: f"{share:.1%}",
    )
    write_text(path, page)
