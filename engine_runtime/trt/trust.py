"""Which plans may be opened. A plan is native code: this installation built it, or the user accepted its hash.

The manifest in the user's data folder lists their sha256, signed (HMAC-SHA256) with a key that lies beside it, mode
0600. That tells this installation's plans from any other's; it is no guard against a program that runs as the user.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import EngineFileError
from .folder import data_home, write_whole
from .sidecar import Expect, Sidecar, check_fit, digest, generic_command, read_sidecar, rewritten, sidecar_path

KEY, MANIFEST, LOCK = "engines.key", "engines.json", ".engines.lock"
KEY_BYTES, SCHEMA = 32, 1
BUILT, ACCEPTED = "built", "accepted"
HEADER = 64  # bytes of a TensorRT-RTX plan that its library reads to judge it


class Trust:
    """The signed manifest of one installation.

    Args:
        home: its folder; None is `data_home()`.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = home if home is not None else data_home()

    def ready(self) -> None:
        """Make the key where there is none; raises `EngineFileError` when the folder or the key cannot be used."""
        with self._held():
            self._key(make=True)

    def record(self, sidecar: Sidecar, how: str = BUILT) -> None:
        """Trust a plan from now on, with just this sidecar.

        A manifest that this installation did not sign is put aside, not signed: its plans stay refused.
        """
        entry = {"name": sidecar.spec.name, "how": how, "sidecar": sidecar.identity(), "since": _now(), "proof": None}
        if sidecar.proof is not None:
            entry["proof"] = digest(sidecar.proof)
        with self._held():
            plans = self._plans_or_none()
            if plans is None:
                os.replace(self.home / MANIFEST, self.home / f"{MANIFEST}.refused")
                plans = {}
            self._write({**plans, sidecar.plan_sha256: entry})

    def standing(self, sidecar: Sidecar, plan: Path | None = None) -> str:
        """`built` or `accepted`; `plan` is where the file is, for the remedy.

        Raises:
            EngineFileError: when the plan is neither (`untrusted`), when the manifest was signed with another key or
                changed (`key`), or when the sidecar is not the one it was recorded with (`tampered`).
        """
        rebuild, file = f"run {sidecar.command(plan)}", shlex.quote(str(plan or "FILE"))
        accept = f"or, if you know who made it, ostinato doctor --accept {sidecar.plan_sha256} --engine {file}"
        if not (self.home / MANIFEST).exists():
            raise self._unknown(sidecar, "it has built none yet", rebuild, accept)
        plans = self._plans_or_none()
        if plans is None:
            raise EngineFileError(
                f"the list of trusted engines in {self.home} is not signed with this installation's key",
                "it is native code that they hold, so a list that changed or came from elsewhere counts for nothing",
                f"{rebuild}, {accept}",
                "key",
            )
        entry = plans.get(sidecar.plan_sha256)
        if entry is None:
            raise self._unknown(sidecar, "its list does not have this file's hash", rebuild, accept)
        if not hmac.compare_digest(str(entry["sidecar"]), sidecar.identity()):
            raise EngineFileError(
                f"the sidecar of {sidecar.spec.name} was changed after the build",
                "it must be the one that was written with the engine",
                rebuild,
                "tampered",
            )
        return entry["how"]

    @staticmethod
    def _unknown(sidecar: Sidecar, why: str, rebuild: str, accept: str) -> EngineFileError:
        return EngineFileError(
            f"the engine {sidecar.spec.name} was not built by this installation: {why}",
            "an engine is native code, so only those built here or accepted by their sha256 are opened",
            f"{rebuild}, {accept}",
            "untrusted",
        )

    def accept(self, plan: Path, sha256: str) -> Sidecar:
        """Trust a plan that was built elsewhere, by the hash of its file as the user gives it.

        Its proof counts for nothing here: the hash is of the plan, and says nothing of its sidecar.

        Raises:
            EngineFileError: when the file's hash or its sidecar's is another.
        """
        sidecar = read_sidecar(plan)
        data = _read(plan, sidecar)
        found = hashlib.sha256(data).hexdigest()
        if not hmac.compare_digest(found, sha256.strip().lower()):
            raise EngineFileError(
                f"the file's sha256 is {found}", f"you named {sha256.strip()[:64]}",
                "compare both with what its maker says", "tampered",
            )  # fmt: skip
        _check_hash(plan, sidecar, data)
        sidecar = replace(sidecar, proof=None)
        self.record(sidecar, ACCEPTED)
        return sidecar

    def known(self) -> int | None:
        """How many plans are trusted; None where the manifest is not signed with this installation's key."""
        plans = self._plans_or_none()
        return None if plans is None else len(plans)

    def proven(self, sidecar: Sidecar) -> bool:
        """Whether the sidecar's proof was written by this installation."""
        plans = self._plans_or_none() or {}
        entry = plans.get(sidecar.plan_sha256)
        return entry is not None and sidecar.proof is not None and entry["proof"] == digest(sidecar.proof)

    def write_proof(self, plan: Path, proof: dict[str, Any] | None, checked: Sidecar | None = None) -> Sidecar:
        """Put the figures of a check into the sidecar of a trusted plan, or take them out; the sidecar as it is now.

        Where there are none to take out nothing is written, so that who watches the file hears nothing.

        Args:
            checked: of the plan that the figures are of; None is the one in place.

        Raises:
            EngineFileError: as `standing`, and when another plan lies there by now.
        """
        sidecar = read_sidecar(plan)
        self.standing(sidecar, plan)
        if checked is not None and checked.plan_sha256 != sidecar.plan_sha256:
            raise EngineFileError(
                f"{plan.name} was replaced while it was checked", "figures are kept with the plan that they are of",
                "check it again", "tampered",
            )  # fmt: skip
        data = rewritten(sidecar, proof=proof)
        with self._held():
            plans = self._plans_or_none() or {}
            entry = plans[sidecar.plan_sha256]
            if proof is None and entry["proof"] is None and sidecar.proof is None:
                return sidecar
            self._write({**plans, sidecar.plan_sha256: {**entry, "proof": proof and digest(proof)}})
            write_whole(sidecar_path(plan), data)
        return read_sidecar(plan)

    @contextmanager
    def _held(self) -> Iterator[None]:
        from filelock import FileLock

        try:
            self.home.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.home / LOCK)
            lock.acquire(timeout=60)
        except OSError as error:
            raise EngineFileError(
                f"{self.home} cannot be written: {error.strerror or error}",
                "the list of trusted engines is kept there",
                "change its permissions, or set OSTINATO_DATA to another folder",
                "folder",
            ) from error
        try:
            yield
        finally:
            lock.release()

    def _plans_or_none(self) -> dict[str, dict[str, Any]] | None:
        """The manifest's plans; none where there is no manifest, None where it is not ours."""
        try:
            data = json.loads((self.home / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, RecursionError):
            return None
        if not isinstance(data, dict) or data.get("schema") != SCHEMA or not isinstance(data.get("plans"), dict):
            return None
        key = self._key(make=False)
        signed = key is not None and hmac.compare_digest(str(data.get("hmac")), _sign(key, data["plans"]))
        return data["plans"] if signed else None

    def _write(self, plans: dict[str, Any]) -> None:
        key = self._key(make=True)
        assert key is not None
        data = {"schema": SCHEMA, "plans": plans, "hmac": _sign(key, plans)}
        write_whole(self.home / MANIFEST, json.dumps(data, indent=1).encode(), 0o600)

    def _key(self, make: bool) -> bytes | None:
        path = self.home / KEY
        try:
            handle = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        except FileNotFoundError:
            if not make:
                return None
            write_whole(path, secrets.token_bytes(KEY_BYTES), 0o600)
            return self._key(make=False)
        except OSError as error:
            raise self._bad_key(error.strerror or str(error)) from error
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if os.name == "posix" and (found.st_mode & 0o077 or found.st_uid != os.getuid()):
                raise self._bad_key(f"others may read it (mode {stat.S_IMODE(found.st_mode):o})")
            key = file.read(KEY_BYTES + 1) if stat.S_ISREG(found.st_mode) else b""
        if len(key) != KEY_BYTES:
            raise self._bad_key(f"it has {len(key)} bytes")
        return key

    def _bad_key(self, why: str) -> EngineFileError:
        return EngineFileError(
            f"the key {self.home / KEY} cannot be used: {why}",
            f"it is a file of {KEY_BYTES} bytes that only you can read, mode 600",
            f"remove {self.home / KEY} and build the engines again",
            "key",
        )


def _sign(key: bytes, plans: dict[str, Any]) -> str:
    return hmac.new(key, digest(plans).encode(), hashlib.sha256).hexdigest()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_plan(
    path: Path, expect: Expect, trust: Trust | None = None, folder: Path | None = None
) -> tuple[bytes, Sidecar]:
    """The bytes of a plan that fits here and may be deserialised: just these bytes were hashed.

    The order is: the file, the sidecar's fields, flavor and version, GPU, weights and recipe, trust, hash, header. So
    a stale engine is named before gigabytes are read, and nothing of it reaches the library.

    Args:
        path: NAME.plan.
        expect: what is needed here.
        trust: the installation's; None is the user's own.
        folder: the engines folder that it must lie in once links are followed; None is its own.

    Raises:
        EngineFileError: with its `reason`, and the exact command that builds the engine again.
    """
    sidecar = examine(path, expect, trust, folder)
    data = _read(path, sidecar)
    _check_hash(path, sidecar, data)
    problem = expect.header_problem(data[:HEADER]) if expect.header_problem else None
    if problem:
        raise EngineFileError(
            f"the library refuses {path.name}: {problem}",
            "its header must be of this library and fit this GPU",
            f"run {sidecar.command(path)}",
            "version",
        )
    return data, sidecar


def examine(path: Path, expect: Expect, trust: Trust | None = None, folder: Path | None = None) -> Sidecar:
    """All of `read_plan` that needs no reading of the plan itself; raises what it raises.

    A proof that this installation did not write is left out of the sidecar.
    """
    _check_place(path, folder if folder is not None else path.parent)
    sidecar = read_sidecar(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise _unreadable(path, error) from error
    _check_size(path, sidecar, size)
    check_fit(sidecar, expect, path)
    trust = trust or Trust()
    trust.standing(sidecar, path)
    return sidecar if trust.proven(sidecar) else replace(sidecar, proof=None)


def _check_place(path: Path, folder: Path) -> None:
    try:
        real, home = path.resolve(strict=True), folder.resolve(strict=True)
        regular = real.is_file()
        empty = regular and real.stat().st_size == 0
    except FileNotFoundError:
        raise EngineFileError(
            f"{path} is not there", "an engine is a .plan file", f"run {generic_command(path)}", "missing"
        ) from None
    except (OSError, RuntimeError) as error:
        raise _unreadable(path, error) from error
    if home not in real.parents:
        raise EngineFileError(
            f"{path} leads out of its folder, to {real}",
            "engines are opened from the engines folder only",
            "build it there, or copy the file and its sidecar into the folder",
            "outside",
        )
    if not regular:
        raise EngineFileError(f"{path} is no file", "an engine is a .plan file", "choose another", "unreadable")
    if empty:
        raise EngineFileError(f"{path.name} is empty", "an engine has bytes", f"run {generic_command(path)}", "empty")


def _unreadable(path: Path, error: Exception) -> EngineFileError:
    why = getattr(error, "strerror", None) or error
    return EngineFileError(f"{path} could not be read: {why}", "it must be a readable file", "check it", "unreadable")


def _read(path: Path, sidecar: Sidecar) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            _check_size(path, sidecar, found.st_size if stat.S_ISREG(found.st_mode) else -1)
            return file.readall()
    except OSError as error:
        raise _unreadable(path, error) from error


def _check_size(path: Path, sidecar: Sidecar, size: int) -> None:
    if size != sidecar.plan_bytes:
        raise EngineFileError(
            f"{path.name} has {size} bytes",
            f"its sidecar says {sidecar.plan_bytes}, so it was cut short, replaced, or its build did not finish",
            f"run {sidecar.command(path)}",
            "truncated",
        )


def _check_hash(path: Path, sidecar: Sidecar, data: bytes) -> None:
    if not hmac.compare_digest(hashlib.sha256(data).hexdigest(), sidecar.plan_sha256):
        raise EngineFileError(
            f"the bytes of {path.name} are not those that were built",
            f"their sha256 must be {sidecar.plan_sha256[:12]}..., as in the sidecar",
            f"run {sidecar.command(path)}",
            "tampered",
        )
