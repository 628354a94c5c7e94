"""Figures as text, the same on the terminal and in the report."""

from __future__ import annotations

from pruning.study.stats import Estimate


def number(value: float) -> str:
    """Three significant digits, large ones with separators."""
    if value != 0 and abs(value) < 0.001:
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def interval(e: Estimate, scale: float = 1.0, sign: bool = False, decimals: int = 1) -> str:
    """value [low, high]; decimals hold where the scale is percent."""
    parts = [v * scale for v in (e.value, e.low, e.high)]
    texts = [f"{v:{'+' if sign else ''}.{decimals}f}" if scale == 100 else number(v) for v in parts]
    return f"{texts[0]} [{texts[1]}, {texts[2]}]"


def p_value(p: float) -> str:
    """A probability, small ones as an upper limit."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Rough time for people: 45 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"
