import io

from verifier.progress import Progress, StatusLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_names_what_a_user_wants_to_know() -> None:
    text = str(Progress(boxes=1200, open_boxes=34, seconds=2.0, lower=-0.25, settled=0.9999, remaining=57.6))
    assert text == "34 open  1,200 boxes  600/s  lower -0.25  99.9 % settled  58 s left"
    assert str(Progress(0, 1, 0.0)) == "1 open  0 boxes  0/s"


def test_only_a_terminal_gets_the_line() -> None:
    stream = io.StringIO()
    line = StatusLine(stream)
    line.show("working")
    line.clear()
    assert stream.getvalue() == ""
    line.print("kept")
    assert stream.getvalue() == "kept\n"


def test_line_is_throttled_cut_and_cleared() -> None:
    now = [0.0]
    stream = Terminal()
    line = StatusLine(stream, rate=10, clock=lambda: now[0])
    line.show("a" * 1000)
    line.show("too soon")
    assert "too soon" not in stream.getvalue() and stream.getvalue().count("a") < 500
    now[0] = 0.2
    line.show("next")
    assert stream.getvalue().endswith("\r\x1b[2Knext")
    line.clear()
    line.clear()
    assert stream.getvalue().endswith("next\r\x1b[2K")
