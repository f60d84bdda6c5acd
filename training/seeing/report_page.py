"""The page of a report, as a Jinja template: one file that needs nothing else, light and dark."""

from __future__ import annotations

PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{% if refresh %}<meta http-equiv="refresh" content="{{ refresh }}">
{% endif %}<title>{{ title }}</title>
<style>
:root { color-scheme: light dark; --paper: #faf9f6; --card: #ffffff; --ink: #1e1e24; --soft: #6a6a75; --line: #dddbd4;
  --one: #2f6fb5; --two: #c2571a; --three: #3a8a4d; --four: #8a5fb0; --five: #a88a1f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #16171b; --card: #1f2126; --ink: #e8e6e1; --soft: #9a9aa5; --line: #3a3c44;
    --one: #6db1ff; --two: #ff9a5c; --three: #74cf8b; --four: #c39be6; --five: #e0c04a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 4px; }
h2 { font-size: 20px; margin: 40px 0 12px; }
h3 { font-size: 15px; font-weight: 600; margin: 0 0 8px; }
p { margin: 0 0 12px; max-width: 72ch; }
h1, p, li { overflow-wrap: anywhere; }
.soft { color: var(--soft); }
.verdict { font-size: 20px; margin: 24px 0; padding: 16px 20px; background: var(--card);
  border-left: 4px solid var(--one); max-width: none; }
.verdict span { font-size: 15px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px; margin: 24px 0; }
.facts div, .curve { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.facts dt { color: var(--soft); font-size: 13px; }
.facts dd { margin: 0; font-size: 20px; font-weight: 600; overflow-wrap: anywhere; }
.curves { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(440px, 100%), 1fr)); gap: 16px; }
.curve svg { display: block; width: 100%; height: auto; }
.curve text { font-family: inherit !important; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line); border-radius: 8px;
  margin: 0 0 16px; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 4px 16px 4px 0; border-bottom: 1px solid var(--line); font-weight: 400; }
th { color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
.best td { font-weight: 700; }
.small img { display: inline-block; width: 96px; margin: 0 4px 0 0; }
code { font: 14px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 14px; overflow-x: auto;
  font: 13px/1.5 ui-monospace, monospace; }
summary { cursor: pointer; font-size: 20px; font-weight: 600; margin: 40px 0 12px; }
</style>
</head>
<body>
<main>
<h1>{{ title }}</h1>
<p class="soft">{{ subtitle }}{% if refresh %}; the run goes on, and this page loads itself again every
{{ refresh }} seconds{% endif %}</p>
{% if verdict %}<p class="verdict">{{ verdict }}<br><span class="soft">{{ seen }}</span></p>{% endif %}
<dl class="facts">
{% for name, value in facts %}<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}</dl>
{% for name, path in files %}<p>{{ name }}: <code>{{ path }}</code></p>
{% endfor %}
{% if curves %}
<h2>Curves</h2>
<div class="curves">
{% for heading, svg in curves %}<div class="curve"><h3>{{ heading }}</h3>{{ svg | safe }}</div>
{% endfor %}</div>
{% endif %}
{% if timesteps %}
<h2>Validation by timestep</h2>
<p class="soft">Mean squared error after step {{ validation_step }}, on {{ validation_images }} at the same noise each
time. High timesteps decide on the composition, low ones on details.</p>
<div class="wide"><table>
<tr><th>timestep</th>{% for name in timesteps.names %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in timesteps.rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table></div>
{% endif %}
{% if tuners %}
<h2>Tuners on the way</h2>
<p class="soft">Files beside the output, to choose from in ComfyUI; the best is the one with the lowest loss on pictures
that it has not seen.</p>
<div class="wide"><table>
<tr><th>file</th><th>step</th><th>loss</th><th></th></tr>
{% for row in tuners %}<tr{% if row.best %} class="best"{% endif %}>
<td>{{ row.name }}{% if row.best %} (best){% endif %}</td><td>{{ row.step }}</td><td>{{ row.loss }}</td>
<td class="small">{% for picture in row.pictures %}{% if picture %}
<img src="{{ picture }}" alt="step {{ row.step }}">{% endif %}{% endfor %}</td></tr>
{% endfor %}</table></div>
{% endif %}
{% if grid or latest or trained %}
<h2>Pictures</h2>
{% if trained %}<p class="soft">Some of the pictures that it is trained on.</p>
<img src="{{ trained }}" alt="Pictures of the training set with their captions">{% endif %}
{% if grid %}<p class="soft">The same noise each time, as the training went on.</p>
<img src="{{ grid }}" alt="A column for each prompt, a row for each step">{% endif %}
{% if latest %}<p class="soft">{{ latest_caption }}</p>
<img src="{{ latest }}" alt="A row for each prompt: hint, without the tuner, with it">{% endif %}
{% endif %}
{% if notes %}
<h2>Notes</h2>
<ul>{% for note in notes %}<li>{{ note }}</li>{% endfor %}</ul>
{% endif %}
{% if unused %}
<details><summary>Files that are not used ({{ unused | length }})</summary>
<ul>{% for each in unused %}<li>{{ each }}</li>{% endfor %}</ul></details>
{% endif %}
{% if config %}
<details><summary>Configuration</summary>
<p class="soft">Everything that was set, defaults included: config.yaml of the run folder, which can be run again.</p>
<pre>{{ config }}</pre></details>
{% endif %}
</main>
</body>
</html>
"""
