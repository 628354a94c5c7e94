"""Renders reports in headless Chromium: light, dark, phone; checks what only a browser can tell.

    python -m benchmarks.render_report [REPORT.html] [--out DIR] [--chromium PROGRAM]

Without a report it makes SYNTHETIC ones (made-up numbers): of a study, a list and an instance. It fails if a page
scrolls sideways at 390 pixels (a phone), if a figure or picture has no size or sticks out, if text is below 7 pixels,
if the page logs an error or names another place, if a table of figures is cut at 1280 pixels, if its filters do not
filter, or if dark is not dark and light not light. The pictures stay in DIR, a folder for each page.

Chromium comes from the system (Debian: apt-get install chromium).
"""

from __future__ import annotations

import argparse
import html
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

DESK, PHONE = 1280, 390
# Runs beside the page in a frame of the same origin, after everything is laid out.
PROBE = """
<pre id="found"></pre><script>
addEventListener("load", () => setTimeout(() => {
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const out = [...page.querySelectorAll("svg, img")].map(s => [s, s.getBoundingClientRect()]).filter(([s, b]) =>
    b.width < (s.tagName == "IMG" ? 60 : 100) || b.height < 60 || s.naturalWidth === 0
    || (b.right > root.clientWidth + 1 && !s.closest("figure.wide"))  // a wide one scrolls by itself
  ).length;
  const form = page.getElementById("filters"), choice = page.getElementById("result");
  let unfiltered = 0;
  for (const word of form ? [...choice.options].map(o => o.value).reverse() : []) {
    choice.value = word;
    form.dispatchEvent(new Event("input"));
    unfiltered += [...page.querySelectorAll("#instances tbody tr")]
      .filter(r => (word === "" || r.dataset.result === word) !== r.getClientRects().length > 0).length;
  }
  const sizes = [...page.querySelectorAll("svg text, p, td, th, figcaption, dd, li")].filter(t => t.textContent.trim())
    .map(t => t.ownerSVGElement
      ? parseFloat(getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b)
      : parseFloat(getComputedStyle(t).fontSize));
  document.getElementById("found").textContent = JSON.stringify({
    width: root.scrollWidth, seen: root.clientWidth, height: root.scrollHeight,
    figures: page.querySelectorAll("svg").length, bad: out, unfiltered, smallest: Math.min(...sizes),
    cut: [...page.querySelectorAll(".scroll")].filter(s => s.scrollWidth > s.clientWidth + 1).length,
    title: page.querySelector("h1").textContent, errors: page.defaultView.failures || 0});
}, 300));
</script>
"""
WATCH = "<script>failures=0;addEventListener('error',()=>failures++,true)</script>"


class Browser:
    """Headless Chromium with a throw-away profile and no network."""

    def __init__(self, program: str, folder: Path) -> None:
        self._command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--disable-extensions",
            f"--user-data-dir={folder / 'profile'}", "--host-resolver-rules=MAP * ~NOTFOUND",
            "--virtual-time-budget=4000",
        ]  # fmt: skip

    def dom(self, page: Path, width: int) -> str:
        return self._run(page, f"--window-size={width},1200", "--dump-dom").decode("utf-8", "replace")

    def picture(self, page: Path, target: Path, width: int, height: int, dark: bool) -> None:
        scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
        self._run(page, f"--window-size={width},{height}", scheme, f"--screenshot={target}")

    def _run(self, page: Path, *more: str) -> bytes:
        done = subprocess.run([*self._command, *more, page.as_uri()], capture_output=True, timeout=180, check=False)
        if done.returncode:
            raise SystemExit(f"chromium failed: {done.stderr.decode('utf-8', 'replace')[-800:]}")
        return done.stdout


def framed(report: str, width: int, height: int) -> str:
    """The report in a frame of some width: headless windows do not get as narrow as a phone."""
    watched = report.replace("<head>", f"<head>{WATCH}", 1)
    style = f"width:{width}px;height:{height}px;border:0;display:block"
    return f'<body style="margin:0"><iframe style="{style}" srcdoc="{html.escape(watched)}"></iframe>{PROBE}'


def measured(browser: Browser, report: str, width: int, folder: Path) -> dict:
    page = folder / f"frame-{width}.html"
    page.write_text(framed(report, width, 1200), encoding="utf-8")
    found = re.search(r'<pre id="found">(.*?)</pre>', browser.dom(page, max(500, width)), re.DOTALL)
    if not found or not found[1]:
        raise SystemExit("the page was not laid out: its probe said nothing")
    return json.loads(html.unescape(found[1]))


def problems(found: dict, width: int, figures: int) -> list[str]:
    """What is wrong with a measured page that should have so many figures, in words."""
    checks = [
        (found["width"] > found["seen"], f"is {found['width']} pixels wide where {found['seen']} are there"),
        (found["figures"] < figures, f"shows {found['figures']} figures, expected at least {figures}"),
        (found["unfiltered"] > 0, f"shows or hides {found['unfiltered']} rows against its filters"),
        (found["bad"] > 0, f"has {found['bad']} figures without size or sticking out"),
        (found["smallest"] < 7, f"has text of {found['smallest']:.1f} pixels"),
        (width >= DESK and found["cut"] > 0, f"cuts {found['cut']} tables"),
        (found["errors"] > 0, f"logs {found['errors']} errors"),
    ]
    return [f"at {width} pixels the page {text}" for wrong, text in checks if wrong]


def brightness(path: Path) -> float:
    """Median grey level of a picture, 0 to 255."""
    import numpy as np
    from PIL import Image

    with Image.open(path) as image:
        return float(np.median(np.asarray(image.convert("L"))))


def render(report: Path, out: Path, program: str, figures: int) -> list[str]:
    """Take the pictures and say what is wrong."""
    out.mkdir(parents=True, exist_ok=True)
    text = report.read_text(encoding="utf-8")
    wrong = [f"the page names another place: {url}" for url in re.findall(r"""(?:src|href)=["']https?:[^"']*""", text)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        browser = Browser(program, folder)
        for width in (DESK, 820, PHONE):
            found = measured(browser, text, width, folder)
            wrong += problems(found, width, figures)
            height = min(int(found["height"]) + 20, 16_000)
            if width == 820:
                continue
            page = report.resolve()
            if width == PHONE:
                page = folder / "phone.html"
                page.write_text(framed(text, PHONE, height), encoding="utf-8")
            for dark in (False, True):
                name = f"{'phone' if width == PHONE else 'desk'}-{'dark' if dark else 'light'}.png"
                browser.picture(page, out / name, max(500, width), height, dark)
                level = brightness(out / name) if width != PHONE else None
                if level is not None and (level > 80 if dark else level < 200):
                    wrong.append(f"{name}: the median grey level is {level:.0f}")
    return wrong


def synthetic_study(folder: Path) -> Path:
    """A report of made-up numbers."""
    from benchmarks import synthetic_study
    from pruning.study import analysis, report, runner

    runner.run(synthetic_study.study(30, seeds=2, ratios=(0.25, 0.5, 0.75, 0.9)), folder, synthetic_study.hands())
    return report.write(analysis.of_folder(folder, 1000), folder)


def synthetic_list(folder: Path) -> Path:
    """The report of a list of made-up verdicts, with a picture and names of every length."""
    import numpy as np

    import vnnlib
    from verifier.command.ledger import Finished
    from verifier.command.list_report import Report
    from verifier.command.worker import Job, JobOutcome, Note
    from verifier.options import Options, dotted

    rng, words = np.random.default_rng(0), ("unsat", "unsat", "unsat", "sat", "timeout", "unknown", "error")
    low = np.linspace(0, 0.9, 3 * 16 * 16)
    lines = [
        f"(declare-const X_{i} Real)(assert (>= X_{i} {v}))(assert (<= X_{i} {v + 0.1}))" for i, v in enumerate(low)
    ]
    (folder / "image.vnnlib").write_text("\n".join([*lines, "(declare-const Y_0 Real)(assert (>= Y_0 0))"]))
    witness = vnnlib.format_witness_v1(low + 0.1 * rng.random(len(low)), np.zeros(1))
    jobs = [
        Job(
            "SYNTHETIC",
            f"onnx/network_{i % 4}{'_with_a_long_name' * (i % 4 == 1)}.onnx",
            f"vnnlib/property_{i}.vnnlib",
            Path(),
            folder / "image.vnnlib",
            60.0,
        )
        for i in range(60)
    ]
    report, finished = Report(folder / "list.html", jobs), []
    for i, job in enumerate(jobs[:56]):
        word, seconds = words[i % len(words)], float(np.exp(rng.normal(0, 2)))
        reason = {"timeout": "the time limit was reached", "unknown": "a tie: 3 boxes cannot be split any further",
                  "error": "network.onnx: not an ONNX model"}  # fmt: skip
        shape = (1, 3, 16, 16) if i < 14 else ()
        report.heard(
            job,
            JobOutcome(
                word,
                seconds,
                Note(
                    reason.get(word, "every box is proven"),
                    "a smaller input box; more --timeout" if word in ("timeout", "unknown") else "",
                    "neurons: 40 inputs vary, more than 8 (all that bends is a ReLU)",
                    int(1000 * seconds),
                    0.25 if word in ("timeout", "unknown") else None,
                    shape,
                ),
                witness if word == "sat" else "",
            ),
        )
        finished.append(Finished(job.category, job.onnx, job.vnnlib, word, seconds))
    report.write(finished, dotted(Options().to_mapping()), [("Processes", "2"), ("Machine", "made up")])
    return folder / "list.html"


def synthetic_instance(folder: Path) -> Path:
    """The page of an instance that made-up bounds leave open."""
    from verifier.command import explain_page
    from verifier.progress import Progress
    from verifier.result import Result, Verdict

    looks = [Progress(64 * i, 9 * i, 0.3 * i, -5.0 / (i + 1), 1 - 0.9**i) for i in range(80)]
    counters = {"boxes": 5056, "steps": 79, "deepest": 12, "queries": 1, "replays": 40}
    strategy = {"strategy": "neurons: 40 inputs vary, more than 8 (all that bends is a ReLU)", "free_inputs": 40}
    settings = {"split": "neurons", "method": "alpha", "neurons": 180, "device": "cpu", "dtype": "float64"} | strategy
    result = Result(Verdict.TIMEOUT, "the time limit was reached", None, 24.0, counters, 0.02, settings)
    names = ("networks/made_up.onnx", "properties/made_up.vnnlib")
    explain_page.write_page(folder / "instance.html", names, result, None, looks, [("Machine", "made up")], ())
    return folder / "instance.html"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/render"))
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    options = parser.parse_args()
    if not options.chromium:
        print("error: no chromium found; Debian: apt-get install chromium, or give --chromium PROGRAM", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as scratch:
        if options.report:
            pages = [(options.report, 0)]
        else:
            folder = Path(scratch)
            pages = [
                (synthetic_study(folder / "study"), 8),
                (synthetic_list(folder), 1),
                (synthetic_instance(folder), 1),
            ]
        wrong = [
            f"{page.stem}: {text}"
            for page, figures in pages
            for text in render(page, options.out / page.stem, options.chromium, figures)
        ]
    for text in wrong:
        print(f"FAILED: {text}")
    print(f"pictures: {options.out}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
