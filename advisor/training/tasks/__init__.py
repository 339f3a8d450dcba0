"""Tasks: what a model is trained for. One file each, one registry; importing them imports neither torch nor
transformers.

A package adds one with an entry point::

    [project.entry-points."advisor.tasks"]
    my-task = "my_package.my_task:MyTask"
"""

from __future__ import annotations

from advisor.core.errors import InputError
from advisor.core.tasks import TASKS, task_names
from advisor.training.tasks.base import DataLook, FirstLook, Task

__all__ = ["DataLook", "FirstLook", "Task", "get_task", "task_names"]


def get_task(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: there is none (with near matches), or another package's entry point is broken.
    """
    found = TASKS.get(name)
    if not isinstance(found, Task):
        raise InputError(f"a task must be an advisor.training.tasks.Task, but {name} is a {type(found).__name__}")
    return found
