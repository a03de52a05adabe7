"""The apps' secrets: one file each, in a folder that only the orchestrator sees.

Their contents are read when an app is loaded, sent over its sandbox's control connection, and kept nowhere.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

from .discovery import Unreadable
from .quantities import show_size

MAX_SECRET_BYTES = 64 * 1024
MAX_SECRETS_BYTES = 512 * 1024  # of one app; a sandbox has 1m for them, and the frame that carries them 4m
KEY_FILE = "given.key"


class SecretFiles:
    """`folder` holds the secrets, `state` a key of this installation's own, made when it is first needed."""

    def __init__(self, folder: Path, state: Path) -> None:
        self._folder = folder
        self._state = state

    def state(self, names: Iterable[str]) -> tuple[object, ...]:
        """Enough to see that one has been written to since."""
        return tuple(self._seen(name) for name in names)

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Raises Unreadable, with a sentence for the operator."""
        found: dict[str, bytes] = {}
        for name in names:
            try:
                with open(os.open(self._folder / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
                    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                        raise Unreadable(f"the secret {name} is no ordinary file")
                    found[name] = file.read(MAX_SECRET_BYTES + 1)
            except FileNotFoundError:
                raise Unreadable(
                    f"the secret {name} isn't there: put a file of that name into the folder secrets"
                ) from None
            except OSError as error:
                raise Unreadable(f"the secret {name} can't be read: {error.strerror}") from error
            if len(found[name]) > MAX_SECRET_BYTES:
                raise Unreadable(f"the secret {name} has more than {show_size(MAX_SECRET_BYTES)}")
        if sum(map(len, found.values())) > MAX_SECRETS_BYTES:
            raise Unreadable(f"its secrets have more than {show_size(MAX_SECRETS_BYTES)} together")
        return found

    def digest(self, env: Mapping[str, str], names: Iterable[str]) -> str:
        """What an app is given, as a part of its version: "" if that is nothing. Raises Unreadable, OSError.

        With a key, because versions are shown: a short secret could be guessed from a plain hash.
        """
        contents = self.read(names)
        if not env and not contents:
            return ""
        digest = hashlib.blake2b(key=self._key(), digest_size=32)
        given = [("env", name, value.encode()) for name, value in env.items()]
        given += [("secret", name, content) for name, content in contents.items()]
        for kind, name, content in sorted(given):
            digest.update(f"{kind} {name} {len(content)}\n".encode() + content)
        return digest.hexdigest()

    def _seen(self, name: str) -> tuple[int, ...] | None:
        try:
            found = os.stat(self._folder / name)
        except OSError:
            return None
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def _key(self) -> bytes:
        path = self._state / KEY_FILE
        try:
            key = path.read_bytes()
        except FileNotFoundError:
            key = b""
        if len(key) < 32:
            self._state.mkdir(parents=True, exist_ok=True)
            key = secrets.token_bytes(32)
            partial = path.with_suffix(".new")
            partial.unlink(missing_ok=True)
            with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(key)
            os.replace(partial, path)
        return key
