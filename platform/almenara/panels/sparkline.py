"""Sparklines: small charts of a series of numbers as SVG, rendered on the server."""

from collections.abc import Sequence

from markupsafe import Markup, escape


def render_sparkline(
    values: Sequence[float], label: str, width: int = 120, height: int = 24
) -> Markup:
    """A line of the values over a faint area; `label` is its text for screen readers."""
    if len(values) < 2:
        return Markup('<span class="quiet">too few samples</span>')
    top = max(*values, 1e-9)
    step = width / (len(values) - 1)
    points = " ".join(
        f"{place * step:.1f},{height - 2 - max(value, 0) / top * (height - 4):.1f}"
        for place, value in enumerate(values)
    )
    return Markup(
        '<svg class="sparkline" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
        'aria-label="{label}" preserveAspectRatio="none">'
        '<polygon points="0,{h} {points} {w},{h}"/><polyline points="{points}"/></svg>'
    ).format(w=width, h=height, label=escape(label), points=points)
