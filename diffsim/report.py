"""One self-contained HTML page: headings, sentences, tables and pictures, no network, everything escaped."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{{ title }}</title>
<style>
  body { font: 16px/1.5 system-ui, sans-serif; color: #1c2430; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.7rem; margin-bottom: .2rem; }
  h2 { font-size: 1.25rem; margin-top: 2.5rem; border-bottom: 1px solid #ccd3dc; padding-bottom: .2rem; }
  nav a { margin-right: 1rem; }
  figure { margin: 1rem 0; }
  figure img { max-width: 100%; height: auto; }
  figcaption { color: #55606f; font-size: .9rem; }
  table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
  th, td { padding: .25rem .8rem; border-bottom: 1px solid #e3e8ee; text-align: left; }
  th { border-bottom: 2px solid #9aa5b4; }
  footer { margin-top: 3rem; color: #55606f; font-size: .85rem; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ lead }}</p>
<nav>{% for section in sections %}<a href="#s{{ loop.index }}">{{ section.title }}</a>{% endfor %}</nav>
{% for section in sections %}
<section id="s{{ loop.index }}">
<h2>{{ section.title }}</h2>
{% for kind, value in section.items %}
{% if kind == "text" %}<p>{{ value }}</p>
{% elif kind == "table" %}<table><thead><tr>{% for head in value[0] %}<th>{{ head }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in value[1:] %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}</tbody></table>
{% else %}<figure><img src="data:image/{{ value[0] }};base64,{{ value[1] }}" alt="{{ value[2] }}">
<figcaption>{{ value[2] }}</figcaption></figure>
{% endif %}{% endfor %}
</section>
{% endfor %}
<footer>{{ footer }}</footer>
</body>
</html>
"""


@dataclass
class Section:
    """A heading and what stands under it, in order."""

    title: str
    items: list = field(default_factory=list)

    def text(self, sentence: str) -> None:
        """Add a paragraph; any markup in it is shown, not obeyed."""
        self.items.append(("text", sentence))

    def table(self, head: list[str], rows: list[list]) -> None:
        """Add a table; numbers are written with four significant digits."""
        write = lambda cell: f"{cell:.4g}" if isinstance(cell, float) else str(cell)  # noqa: E731
        self.items.append(("table", [head, *[[write(cell) for cell in row] for row in rows]]))

    def figure(self, figure, caption: str) -> None:
        """Add a matplotlib Figure, or the path of a PNG or GIF file."""
        if isinstance(figure, str | Path):
            from .store import read_bytes

            kind, data = Path(figure).suffix.lstrip("."), read_bytes(figure, most=64 << 20, what="picture")
        else:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=110)
            kind, data = "png", buffer.getvalue()
        self.items.append(("figure", (kind, base64.b64encode(data).decode("ascii"), caption)))


class Report:
    """Sections gathered while the work goes on; `write` makes the page."""

    def __init__(self, title: str, lead: str):
        self.title, self.lead = title, lead
        self.sections: list[Section] = []

    def section(self, title: str) -> Section:
        """Open a new section at the end."""
        self.sections.append(Section(title))
        return self.sections[-1]

    def html(self) -> str:
        """The page as text."""
        import jinja2

        from . import __version__

        template = jinja2.Environment(autoescape=True).from_string(_PAGE)
        return template.render(
            title=self.title,
            lead=self.lead,
            sections=self.sections,
            footer=f"Made by diffsim {__version__}. One file, no network.",
        )

    def write(self, path: str | Path) -> Path:
        """Write the page atomically and return its path."""
        from .store import write_text

        path = Path(path)
        write_text(path, self.html())
        return path
