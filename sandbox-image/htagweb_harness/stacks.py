"""Where the app is, for its operator, when it takes too long."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import traceback
from types import FrameType
from typing import Any

MAX_FRAMES = 20


def where(task: asyncio.Task[Any] | None, app_dir: str) -> str:
    """The app's frames: of what the main thread is doing, else of what the task is waiting for. Any thread may ask."""
    running = _of_thread(threading.main_thread().ident or 0)
    for frames in (running, _of_task(task) if task is not None else []):
        first = next((i for i, frame in enumerate(frames) if _is_of(frame, app_dir)), None)
        if first is not None:
            stack = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[first:][-MAX_FRAMES:])
            return "".join(stack.format())
    return ""


def _of_thread(ident: int) -> list[FrameType]:
    frame = sys._current_frames().get(ident)
    frames = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return frames[::-1]


def _of_task(task: asyncio.Task[Any]) -> list[FrameType]:
    """Of each coroutine that awaits another, outermost first."""
    frames: list[FrameType] = []
    awaiting: Any = task.get_coro()
    while awaiting is not None and len(frames) < 100:
        frame = getattr(awaiting, "cr_frame", None) or getattr(awaiting, "ag_frame", None)
        frame = frame or getattr(awaiting, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        found = (getattr(awaiting, name, None) for name in ("cr_await", "ag_await", "gi_yieldfrom"))
        awaiting = next((inner for inner in found if inner is not None), None)
    return frames


def _is_of(frame: FrameType, app_dir: str) -> bool:
    return frame.f_code.co_filename.startswith(app_dir + os.sep)
