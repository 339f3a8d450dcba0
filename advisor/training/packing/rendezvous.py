"""Threads that take turns: each runs until it waits, then another one goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from advisor.training.packing.random_streams import RandomStream


class MemberThread:
    """One member of a pack in a thread of its own, which runs only while it is its turn.

    Random numbers and accelerate's state belong to whoever's turn it is.

    Args:
        work: What the member does. It waits by calling ``ask``.
        stream: The member's random numbers.

    Attributes:
        request: What it waits for; ``None`` while it runs and once it has ended.
        ended: Whether ``work`` came back or raised.
        result: What ``work`` returned.
        failure: What it raised.
    """

    def __init__(self, work: Callable[[MemberThread], Any], stream: RandomStream) -> None:
        self.request: Any = None
        self.ended = False
        self.result: Any = None
        self.failure: BaseException | None = None
        self.stream = stream
        self._work = work
        self._answer: Any = None
        self._turn, self._waits = threading.Semaphore(0), threading.Semaphore(0)
        self._thread = threading.Thread(target=self._live, daemon=True)

    def start(self) -> None:
        """Give the member its first turn; comes back when it waits or has ended."""
        with self.stream.everywhere():
            self._thread.start()
            self._waits.acquire()

    def resume(self, answer: Any) -> None:
        """Answer the request and give the member its turn; an exception is raised where it waits."""
        self.request, self._answer = None, answer
        with self.stream.everywhere():
            self._turn.release()
            self._waits.acquire()
        if self.ended:
            self._thread.join()

    def ask(self, request: Any) -> Any:
        """In the member's own thread: wait until the request is answered."""
        self.request = request
        self._waits.release()
        self._turn.acquire()
        answer, self._answer = self._answer, None
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def _live(self) -> None:
        try:
            self.result = self._work(self)
        except BaseException as failure:
            self.failure = failure
        self.ended = True
        self._waits.release()
