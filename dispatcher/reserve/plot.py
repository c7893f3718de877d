"""Drawings of the simulator: a day of the predictive reserve, and what a hit costs.

HTML and SVG come from the template here; PNG from Pillow, which Pipecat brings along: a plotting library
would be a large dependency for two charts.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dispatcher.reserve.calendar import SLOT
from dispatcher.reserve.policy import policy_for
from dispatcher.reserve.replay import Sample, replay
from dispatcher.reserve.settings import PredictiveSettings, ReserveSettings
from dispatcher.reserve.traces import Trace

PICTURES = (".html", ".svg", ".png")
TARGETS = (0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
SHOWN_DAYS = 7
WIDTH, HEIGHT, LEFT, GAP = 960, 640, 70, 60
COLOURS = {"arrivals": "#8a8f98", "wanted": "#1f6feb", "ready": "#2da44e", "misses": "#d1242f"}
Point = tuple[float, float]


@dataclass
class Drawing:
    """Lines and texts in pixels from the top left."""

    lines: list[tuple[list[Point], str]] = field(default_factory=list)
    texts: list[tuple[Point, str, str]] = field(default_factory=list)

    def svg(self) -> str:
        """Return the drawing as an SVG document."""
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
            'font-family="sans-serif" font-size="13">',
            f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        ]
        for points, colour in self.lines:
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
        for (x, y), text, colour in self.texts:
            parts.append(f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}">{html.escape(text)}</text>')
        return "\n".join((*parts, "</svg>"))

    def save(self, file: Path, title: str) -> None:
        """Write the drawing in the form that the file's ending names."""
        if file.suffix == ".png":
            # Only for PNG: the dispatcher's image has no Pillow.
            from PIL import Image, ImageDraw

            image = Image.new("RGB", (WIDTH, HEIGHT), "white")
            draw = ImageDraw.Draw(image)
            for points, colour in self.lines:
                draw.line(points, fill=colour, width=2)
            for (x, y), text, colour in self.texts:
                draw.text((x, y - 12), text, fill=colour)
            image.save(file)
        elif file.suffix == ".svg":
            file.write_text(self.svg(), encoding="utf-8")
        else:
            name = html.escape(title)
            file.write_text(
                f'<!doctype html><meta charset="utf-8"><title>{name}</title>\n'
                f"<h1>{name}</h1>\n{self.svg()}\n",
                encoding="utf-8",
            )


def draw(
    file: Path, trace: Trace, leads: Sequence[float], target: float, zone: str, tick: float, price: float
) -> None:
    """Draw the busiest of the last days, and the trade-off over all of them.

    Args:
        price: USD per machine-second.
    """
    begin = max(trace.begin, trace.end - SHOWN_DAYS * 86_400)
    history = Counter(int(at // SLOT) * SLOT for at in trace.times if at < begin)
    samples: list[Sample] = []
    curve: list[Point] = []
    for one in sorted({*TARGETS, target}):
        settings = ReserveSettings(predictive=PredictiveSettings(target=one), max=10_000, time_zone=zone)
        found = replay(
            trace.times,
            policy_for(settings, history, tick),
            leads,
            begin=begin,
            end=trace.end,
            tick=tick,
            on_sample=samples.append if one == target else None,
        )
        waiting = 100 * (1 - found.hit_rate)
        curve.append((waiting, found.monthly_cost(price, sum(leads) / len(leads))))
    drawing = Drawing()
    busiest = Counter[int]()
    for sample in samples:
        busiest[int((sample.at - begin) // 86_400)] += sample.calls
    day = busiest.most_common(1)[0][0] if busiest else 0
    of_day = [one for one in samples if int((one.at - begin) // 86_400) == day]
    _day(drawing, of_day, tick)
    _trade_off(drawing, curve)
    drawing.save(file, f"The reserve on {trace.name}")


def _day(drawing: Drawing, samples: list[Sample], tick: float) -> None:
    """Draw a day: machines to the left scale, calls and misses per five minutes to their own."""
    top, bottom = 40, HEIGHT / 2 - 40
    step = max(int(SLOT / tick), 1)
    groups = [samples[at : at + step] for at in range(0, len(samples), step)]
    series = {
        "arrivals": [sum(one.calls for one in group) for group in groups],
        "wanted": [max(one.wanted for one in group) for group in groups],
        "ready": [min(one.ready for one in group) for group in groups],
        "misses": [sum(one.misses for one in group) for group in groups],
    }
    scales = {
        "arrivals": max(series["arrivals"], default=1) or 1,
        "machines": max(series["wanted"], default=1) or 1,
    }
    for place, (name, values) in enumerate(series.items()):
        most = scales["machines" if name in ("wanted", "ready") else "arrivals"]
        points = [
            (
                LEFT + (WIDTH - LEFT - GAP) * at / max(len(values) - 1, 1),
                bottom - (bottom - top) * one / most,
            )
            for at, one in enumerate(values)
        ]
        if len(points) > 1:
            drawing.lines.append((points, COLOURS[name]))
        words = f"{name}, at most {max(values, default=0)}" + (
            " per 5 min" if name in ("arrivals", "misses") else ""
        )
        drawing.texts.append(((LEFT + 215 * place, 24), words, COLOURS[name]))
    drawing.lines.append(([(LEFT, top), (LEFT, bottom), (WIDTH - GAP, bottom)], "#000000"))
    for hour in range(0, 25, 3):
        x = LEFT + (WIDTH - LEFT - GAP) * hour / 24
        drawing.texts.append(((x - 10, bottom + 18), f"+{hour} h", "#000000"))


def _trade_off(drawing: Drawing, curve: list[Point]) -> None:
    top, bottom = HEIGHT / 2 + 40, HEIGHT - 50
    most_waiting = max((one for one, _ in curve), default=0) or 1
    most_cost = max((one for _, one in curve), default=0) or 1
    points = [
        (
            LEFT + (WIDTH - LEFT - GAP) * waiting / most_waiting,
            bottom - (bottom - top) * cost / most_cost,
        )
        for waiting, cost in sorted(curve)
    ]
    if len(points) > 1:
        drawing.lines.append((points, COLOURS["wanted"]))
    for (x, y), (waiting, cost) in zip(points, sorted(curve), strict=True):
        drawing.texts.append(
            ((min(x + 4, WIDTH - 170), y - 4), f"{waiting:.1f} % wait, {cost:,.0f} USD", "#000000")
        )
    drawing.lines.append(([(LEFT, top), (LEFT, bottom), (WIDTH - GAP, bottom)], "#000000"))
    drawing.texts.append(
        ((LEFT, top - 12), "USD a month for the reserve, by the callers who wait", "#000000")
    )
