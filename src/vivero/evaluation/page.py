"""The report page of an evaluation: one HTML file, readable offline, in English and Spanish."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from vivero.files import write_text

PICTURES = {
    "grid": (
        "Samples, sorted by class",
        "Muestras: imágenes generadas, por clase",
    ),
    "metrics": (
        "Figures with their 95 % interval, and what real images score against real images",
        "Cifras con su intervalo del 95 %, y lo que obtienen imágenes reales frente a reales",
    ),
    "nearest": (
        "Samples (top) with the nearest training image in pixels and in features",
        "Muestras (arriba) con la imagen de entrenamiento más cercana, en píxeles y en rasgos",
    ),
    "loss_by_noise": (
        "Denoising loss on held-out images by noise level",
        "Error al quitar ruido en imágenes reservadas, por nivel de ruido",
    ),
    "per_class": (
        "Accuracy of a classifier that learned from samples, by class",
        "Acierto de un clasificador que aprendió de las muestras, por clase",
    ),
    "curves": ("Training and validation loss", "Pérdida en entrenamiento y validación"),
}

INTRO = (
    "Each figure stands with its 95 % interval, its n, and its floor: the same figure between two "
    "disjoint sets of real images. A Fréchet distance in another network's features than "
    "Inception's is not FID.",
    "Cada cifra aparece con su intervalo del 95 %, su n y su suelo: la misma cifra entre dos "
    "conjuntos disjuntos de imágenes reales. Una distancia de Fréchet con rasgos de una red que no "
    "sea Inception no es FID.",
)

NEAR_EQUAL = (
    "Training images that have another one nearer than a quarter of the usual distance from a real "
    "image to its nearest training image. A model memorises repeated images first: remove "
    "repetitions from the data if there are many. Copies are counted against the nearest training "
    "image outside such a group.",
    "Imágenes de entrenamiento que tienen otra a menos de un cuarto de la distancia usual de una "
    "imagen real a su imagen de entrenamiento más cercana. Un modelo memoriza primero las imágenes "
    "repetidas: si son muchas, elimine las repeticiones de los datos. Las copias se cuentan frente "
    "a la imagen de entrenamiento más cercana fuera de ese grupo.",
)

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Vivero: evaluation · evaluación</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
       color: #1c2321; background: #fff; }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; width: 100%; font-size: .9rem }
th, td { text-align: left; padding: .35rem .6rem; border-bottom: 1px solid #dde3e0 }
td.n { text-align: right; font-variant-numeric: tabular-nums } th.n { text-align: right }
img { max-width: 100%; height: auto } .pixels { image-rendering: pixelated }
.scroll { overflow-x: auto } code { font-size: .85em; overflow-wrap: anywhere }
.es { display: none } body.es .es { display: inline } body.es .en { display: none }
button { float: right; font: inherit; padding: .2rem .8rem; border: 1px solid #879; cursor: pointer;
         background: #f4f6f5; border-radius: .3rem }
@media (prefers-color-scheme: dark) {
  body { background: #161a19; color: #e4e9e6 } th, td { border-color: #333d39 }
  img { background: #fff } button { background: #232a28; color: inherit }
}
</style>
</head>
<body>
<button type="button" id="language" lang="es">Español</button>
<h1>{{ t("Evaluation of the candidate", "Evaluación del candidato") }}</h1>
<p>{{ t(*intro) }}</p>
<div class="scroll"><table>
<thead><tr><th>{{ t("figure", "cifra") }}</th><th class="n">{{ t("value", "valor") }}</th>
<th class="n">{{ t("95 % interval", "intervalo del 95 %") }}</th>
<th class="n">{{ t("floor", "suelo") }}</th><th class="n">n</th>
<th>{{ t("better", "mejor") }}</th></tr></thead>
<tbody>
{% for name, m in report.metrics.items() -%}
<tr><td><code>{{ name }}</code></td><td class="n">{{ m.value | short }}</td>
<td class="n">[{{ m.low | short }}, {{ m.high | short }}]</td>
<td class="n">{{ m.floor | short }}</td>
<td class="n">{{ m.n }}</td>
<td>{{ t("lower", "menor") if m.better == "lower" else t("higher", "mayor") }}</td></tr>
{% endfor -%}
</tbody></table></div>
{% if report.near_equal_training_images %}
<h2>{{ t("Near-equal training images", "Imágenes de entrenamiento casi iguales") }}</h2>
<ul>{% for space, found in report.near_equal_training_images.items() %}
<li><code>{{ space }}</code>: {{ found.num_near_equal }} / {{ found.num_images }}</li>{% endfor %}
</ul>
<p>{{ t(*near_equal) }}</p>
{% endif %}
{% if report.not_computed %}
<h2>{{ t("Not computed", "No calculado") }}</h2>
<ul>{% for name, why in report.not_computed.items() %}
<li><code>{{ name }}</code>: {{ why }}</li>{% endfor %}</ul>
{% endif %}
{% for name, image in pictures.items() %}
<h2>{{ t(*titles[name]) }}</h2>
<img class="{{ 'pixels' if name in ('grid', 'nearest') else '' }}" alt="{{ titles[name][0] }}"
     src="data:image/png;base64,{{ image }}">
{% endfor %}
<h2>{{ t("How it was measured", "Cómo se midió") }}</h2>
<table>{% for key, value in report.protocol.items() %}
<tr><td>{{ key }}</td><td><code>{{ value }}</code></td></tr>{% endfor %}
{% for key, value in (report.lineage or {}).items() %}
<tr><td>{{ key }}</td><td><code>{{ "?" if value is none else value }}</code></td></tr>
{% endfor %}</table>
<script>
const button = document.getElementById("language");
function show(spanish) {
  document.body.classList.toggle("es", spanish);
  document.documentElement.lang = spanish ? "es" : "en";
  button.textContent = spanish ? "English" : "Español";
  button.lang = spanish ? "en" : "es";
}
button.onclick = () => show(!document.body.classList.contains("es"));
show(navigator.language.startsWith("es"));
</script>
</body>
</html>
"""


def write_page(report: Mapping[str, Any], pictures: Mapping[str, Path], path: Path) -> None:
    """Write the page.

    Args:
        report: The content of metrics.json.
        pictures: PNG files by name in PICTURES; what does not exist is left out.
        path: HTML file to write.
    """
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["short"] = _short
    both = environment.from_string(
        '<span class="en" lang="en">{{ english }}</span>'
        '<span class="es" lang="es">{{ spanish }}</span>'
    )

    def in_both(english: str, spanish: str) -> Any:
        from markupsafe import Markup

        return Markup(both.render(english=english, spanish=spanish))  # noqa: S704 - escaped above

    encoded = {
        name: base64.b64encode(pictures[name].read_bytes()).decode()
        for name in PICTURES
        if name in pictures and pictures[name].exists()
    }
    page = environment.from_string(TEMPLATE).render(
        report={
            "not_computed": {},
            "lineage": {},
            "near_equal_training_images": {},
            **report,
        },
        pictures=encoded,
        titles=PICTURES,
        intro=INTRO,
        near_equal=NEAR_EQUAL,
        t=in_both,
    )
    write_text(path, page)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
