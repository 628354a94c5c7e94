"""An executor in this process, which loses tasks where a test wants it to."""

from collections import deque
from collections.abc import Callable
from types import TracebackType

from verifier.executors.executor import Done, Executor, Failed, Lost, Servant, T, TaskEvent, perform


class Inline(Executor[T]):
    """Performs the oldest task at each `wait`. `lose(number, event)`: whether the task is lost before an event."""

    retries, start_limit = 1, float("inf")

    def __init__(
        self, servant: Servant[T], places: int = 2, lose: Callable[[int, TaskEvent], bool] = lambda number, event: False
    ) -> None:
        self.servant, self.places, self.lose = servant, places, lose
        self.given: list[T] = []
        self.waiting: deque[int] = deque()

    def __enter__(self) -> "Inline[T]":
        self.servant.prepare(1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.waiting.clear()

    def width(self) -> int:
        return self.places

    def facts(self) -> list[tuple[str, str]]:
        return [("Inline", str(self.places))]

    def give(self, task: T) -> int:
        self.given.append(task)
        self.waiting.append(len(self.given) - 1)
        return len(self.given) - 1

    def wait(self, seconds: float) -> list[tuple[int, TaskEvent]]:
        number, said = self.waiting.popleft(), list[TaskEvent]()
        perform(self.servant, self.given[number], said.append)  # type: ignore[arg-type]
        events: list[tuple[int, TaskEvent]] = []
        for event in said:
            if self.lose(number, event):
                return [*events, (number, Lost("the node went away"))]
            events.append((number, event))
        assert isinstance(said[-1], Done | Failed)
        return events

    def kill(self, number: int) -> None:
        self.waiting.remove(number)
