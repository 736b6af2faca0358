"""The model card: what a model is, what made it, how good it is, and what it is not for.

Every number comes from a record; nothing is typed in by hand.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, StrictUndefined

# Markdown, not HTML: names from data cards are quoted as code, so nothing in them is a tag.
TEMPLATE = """\
---
library_name: diffusers
license: apache-2.0
tags: [diffusion, image-generation, vivero]
---

# {{ name }}

{{ kind }} image diffusion model, {{ "{:,}".format(num_parameters) }} parameters, made by
Vivero. It makes {{ size }} x {{ size }} px images with {{ channels }} channel(s)\
{% if class_names %} of the classes {% for c in class_names %}`{{ c | code }}`\
{{ ", " if not loop.last }}{% endfor %}{% endif %}.

## What made it

| | |
| --- | --- |
| data | `{{ data_name | code }}`, {{ licence }} |
{% for key, value in lineage.items() -%}
| {{ key }} | `{{ value if value is not none else "unknown" }}` |
{% endfor -%}
{% for key, value in settings.items() -%}
| {{ key }} | `{{ value }}` |
{% endfor %}
## How good it is

{% if metrics -%}
Each figure with its 95 % interval and n; the floor is the same figure between two disjoint sets of
real images. A Fréchet distance in another network's features than Inception's is not FID.

| figure | value | interval | floor | n | better |
| --- | --- | --- | --- | --- | --- |
{% for key, m in metrics.items() -%}
| {{ key }} | {{ m.value | short }} | {{ m.low | short }} to {{ m.high | short }} \
| {{ m.floor | short }} | {{ m.n }} | {{ m.better }} |
{% endfor %}
{%- else -%}
Not judged yet.
{% endif %}
## What it is for, and not for

For research and teaching on image generation, and as a part of tests. It knows nothing but its
data: it repeats the data's gaps and biases, makes no images of anything else, and its images are
synthetic: say so when you show them. The share of samples that lie nearer to a training image than
real images do is among the figures above; it does not prove that nothing was memorised.
"""


@dataclass(frozen=True)
class CardFacts:
    """What a card says.

    Attributes:
        name: Name of the model.
        num_parameters: Of the network.
        image_size_px: Side of the images.
        num_channels: 1 or 3.
        class_names: Empty for a model without classes.
        data_name: Name of the data set.
        licence: Of the data set.
        lineage: Where it came from.
        settings: What of the training a reader wants to know.
        metrics: The metrics of evaluate's report; empty before the model was judged.
    """

    name: str
    num_parameters: int
    image_size_px: int
    num_channels: int
    class_names: list[str]
    data_name: str
    licence: str
    lineage: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: Mapping[str, Any] = field(default_factory=dict)


def model_card(facts: CardFacts) -> str:
    """The card as Markdown."""
    # Not HTML: what could end the code quotes of Markdown is replaced instead (`_code`).
    environment = Environment(undefined=StrictUndefined, autoescape=False)  # noqa: S701
    environment.filters.update(code=code, short=_short)
    return environment.from_string(TEMPLATE).render(
        name=facts.name,
        kind="A class-conditional" if facts.class_names else "An unconditional",
        num_parameters=facts.num_parameters,
        size=facts.image_size_px,
        channels=facts.num_channels,
        class_names=facts.class_names,
        data_name=facts.data_name,
        licence=facts.licence,
        lineage=facts.lineage,
        settings=facts.settings,
        metrics=facts.metrics,
    )


def code(text: str) -> str:
    """Text that can stand between back quotes in a table."""
    return " ".join(str(text).replace("`", "'").replace("|", "/").split())


def _short(value: float | None) -> str:
    """A number in four digits; nothing where there is none."""
    return "" if value is None else f"{value:.4g}"
