"""The template of the validation report's page; Jinja, self-contained, with no script."""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Data report: {{ card.name }}</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto;
    padding: 0 1rem; }
  h1 { margin-bottom: 0.2rem; }
  h2 { margin-top: 2.2rem; }
  table { border-collapse: collapse; width: 100%; }
  th, td { text-align: left; padding: 0.3rem 0.7rem; border-bottom: 1px solid #8884;
    vertical-align: top; }
  td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
  td.name { overflow-wrap: anywhere; }
  .verdict { padding: 0.7rem 1rem; border-left: 6px solid; white-space: pre-wrap; }
  .good { border-color: #2a8a4a; background: #2a8a4a1a; }
  .bad { border-color: #c0392b; background: #c0392b1a; }
  .mark { font-weight: 600; }
  .mark.bad, .mark.good { border: 0; background: none; }
  .mark.bad { color: #c0392b; } .mark.good { color: #2a8a4a; } .mark.warn { color: #b7791f; }
  img { image-rendering: pixelated; max-width: 96px; max-height: 96px; border: 1px solid #8884; }
  .quiet { color: #888; }
</style>
</head>
<body>
<h1>{{ card.name }}</h1>
<p class="quiet">{{ card.source }} &middot; licence: {{ card.licence }} &middot;
collected by: {{ card.collected_by }}</p>
{% if report.is_good %}
<p class="verdict good">Fit for training: {{ report.num_good }} of {{ report.num_images }} images
pass; {{ report.num_quarantined }} are in quarantine.</p>
{% else %}
<p class="verdict bad">Not fit for training. {{ report.failure }}</p>
{% endif %}

<h2>Images per class and split</h2>
<table>
<tr><th>class</th>{% for split in splits %}<th class="number">{{ split }}</th>{% endfor %}</tr>
{% for row in report.counts %}
<tr><td class="name">{{ row["class"] }}</td>
{% for split in splits %}<td class="number">{{ row[split] }}</td>{% endfor %}</tr>
{% endfor %}
</table>

<h2>Expectations</h2>
<table>
<tr><th>expectation</th><th>severity</th><th>outcome</th><th>found</th></tr>
{% for result in report.expectations %}
<tr><td title="{{ result.name }}">{{ result.about }}</td><td>{{ result.severity }}</td>
<td class="mark {{ marks[result.outcome, result.severity] }}">{{ result.outcome }}</td>
<td class="name">{{ result.observed }}</td></tr>
{% endfor %}
</table>

<h2>Quarantine: {{ report.num_quarantined }} images</h2>
{% if report.num_quarantined %}
<p>{% for reason, count in report.reasons.items() %}{{ reason }}: {{ count }}
{%- if not loop.last %} &middot; {% endif %}{% endfor %}.
{% if shown|length < report.num_quarantined %}The {{ shown|length }} shown take the
reasons in turn, rare ones first; <code>quarantine.parquet</code> has all.{% endif %}</p>
<table>
<tr><th></th><th>file</th><th>split</th><th>reason</th><th>detail</th></tr>
{% for item in shown %}
<tr><td>{% if item.thumbnail %}<img src="{{ item.thumbnail }}" alt="">
{% else %}<span class="quiet">no picture</span>{% endif %}</td>
<td class="name">{{ item.row.path }}</td><td>{{ item.row.split }}</td>
<td>{{ item.row.reason }}</td><td class="name">{{ item.row.detail }}</td></tr>
{% endfor %}
</table>
{% else %}
<p>None.</p>
{% endif %}

<h2>Exact duplicates: {{ report.duplicates|length }} groups</h2>
{% if duplicates %}
<p>One image of each group stays: that of the test split before others, then the lowest key.
{% if duplicates|length < report.duplicates|length %}The first
{{ duplicates|length }} are shown; <code>report.json</code> has all.{% endif %}</p>
<table>
<tr><th>stays</th><th>split</th><th>copies</th><th>labels</th></tr>
{% for group in duplicates %}
<tr><td class="name">{{ group.kept }}</td><td>{{ group.split }}</td>
<td class="name">{{ group.copies|join(", ") }}</td>
<td>{{ "differ" if group.labels_differ else "agree" }}</td></tr>
{% endfor %}
</table>
{% else %}
<p>None: no two images have the same pixels, neither within a split nor across splits.</p>
{% endif %}
</body>
</html>
"""
