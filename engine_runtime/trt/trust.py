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
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ..errors import EngineFileError, InputError
from ..files import open_file, read_json
from .folder import data_home, file_hash, write_whole
from .sidecar import MAX_BYTES, Expect, Hash, Sidecar, check_fit, digest, generic_command, read_sidecar, rewritten
from .sidecar import sidecar_path, unreadable

KEY, MANIFEST, LOCK = "engines.key", "engines.json", ".engines.lock"
KEY_BYTES, SCHEMA = 32, 1
BUILT, ACCEPTED = "built", "accepted"
HEADER = 64  # bytes of a TensorRT-RTX plan that its library reads to judge it


class Entry(Struct, frozen=True):
    """A trusted plan, in the manifest under its sha256.

    Attributes:
        how: `BUILT` or `ACCEPTED`.
        sidecar: hash of the only sidecar that goes with it.
        since: UTC, ISO 8601.
        proof: hash of the figures of its check, where this installation made one.
    """

    name: str
    how: str
    sidecar: Hash
    since: str
    proof: Hash | None


class Manifest(Struct):
    """The file that lists trusted plans; `hmac` signs `plans`."""

    schema: Annotated[int, Meta(ge=SCHEMA, le=SCHEMA)]
    plans: dict[Hash, Entry]
    hmac: Hash


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
        proof = None if sidecar.proof is None else digest(sidecar.proof)
        entry = Entry(sidecar.spec.name, how, sidecar.identity(), _now(), proof)
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
        accept = f"or, if you know who made it, ostinato doctor --accept {sidecar.identity()} --engine {file}"
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
            why = "its list does not have this file's hash" if plans else "it has built none yet"
            raise EngineFileError(
                f"the engine {sidecar.spec.name} was not built by this installation: {why}",
                "an engine is native code, so only those built here or accepted by their sha256 are opened",
                f"{rebuild}, {accept}",
                "untrusted",
            )
        if entry.sidecar != sidecar.identity():
            raise EngineFileError(
                f"the sidecar of {sidecar.spec.name} was changed after the build",
                "it must be the one that was written with the engine",
                rebuild,
                "tampered",
            )
        return entry.how

    def has(self, sidecar: Sidecar) -> bool:
        """Whether this plan is trusted with just this sidecar."""
        entry = (self._plans_or_none() or {}).get(sidecar.plan_sha256)
        return entry is not None and entry.sidecar == sidecar.identity()

    def accept(self, plan: Path, sha256: str) -> Sidecar:
        """Trust an engine that was built elsewhere, by the hash of its sidecar as the user gives it.

        That hash is of the plan's hash too, so that one names both: `Sidecar.identity`. The proof is in neither.

        Raises:
            EngineFileError: when the sidecar's hash is another, or the plan's is not the one in the sidecar.
        """
        sidecar = replace(read_sidecar(plan), proof=None)
        if not hmac.compare_digest(sidecar.identity().encode(), sha256.strip().lower().encode()):
            raise EngineFileError(
                f"the sha256 of {plan.name} with its sidecar is {sidecar.identity()}",
                f"you named {sha256.strip()[:64]!r}; the file's alone, {sidecar.plan_sha256[:12]}..., is not enough",
                "compare it with what ostinato inspect tells its maker",
                "tampered",
            )
        _check_bytes(plan, sidecar)
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
        return entry is not None and sidecar.proof is not None and entry.proof == digest(sidecar.proof)

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
            if proof is None and entry.proof is None and sidecar.proof is None:
                return sidecar
            changed = msgspec.structs.replace(entry, proof=digest(proof) if proof else None)
            self._write({**plans, sidecar.plan_sha256: changed})
            write_whole(sidecar_path(plan), data)
        return read_sidecar(plan)

    @contextmanager
    def _held(self) -> Iterator[None]:
        from filelock import FileLock

        try:
            self.home.mkdir(parents=True, exist_ok=True)
            with FileLock(self.home / LOCK).acquire(timeout=60):
                yield
        except OSError as error:
            raise EngineFileError(
                f"{self.home} cannot be written: {error.strerror or error}",
                "the list of trusted engines is kept there",
                "change its permissions, or set OSTINATO_DATA to another folder",
                "folder",
            ) from error

    def _plans_or_none(self) -> dict[str, Entry] | None:
        """The manifest's plans; none where there is no manifest, None where it is not ours."""
        try:
            data: Manifest = read_json(self.home / MANIFEST, MAX_BYTES, Manifest)
        except FileNotFoundError:
            return {}
        except (OSError, InputError):
            return None
        key = self._key(make=False)
        return data.plans if key is not None and hmac.compare_digest(data.hmac, _sign(key, data.plans)) else None

    def _write(self, plans: dict[str, Entry]) -> None:
        key = self._key(make=True)
        assert key is not None
        data = msgspec.to_builtins(Manifest(SCHEMA, plans, _sign(key, plans)))
        write_whole(self.home / MANIFEST, json.dumps(data, indent=1).encode(), 0o600)

    def _key(self, make: bool) -> bytes | None:
        path = self.home / KEY
        try:
            handle = open_file(path, getattr(os, "O_NOFOLLOW", 0))
        except FileNotFoundError:
            if not make:
                return None
            write_whole(path, secrets.token_bytes(KEY_BYTES), 0o600)
            return self._key(make=False)
        except (OSError, InputError) as error:
            raise self._bad_key(getattr(error, "strerror", None) or "it is no file") from error
        with os.fdopen(handle, "rb") as file:
            found = os.fstat(file.fileno())
            if os.name == "posix" and (found.st_mode & 0o077 or found.st_uid != os.getuid()):
                raise self._bad_key(f"others may read it (mode {stat.S_IMODE(found.st_mode):o})")
            key = file.read(KEY_BYTES + 1)
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


def _sign(key: bytes, plans: dict[str, Entry]) -> str:
    return hmac.new(key, digest(msgspec.to_builtins(plans)).encode(), hashlib.sha256).hexdigest()


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
    _check_hash(path, sidecar, hashlib.sha256(data).hexdigest())
    problem = expect.header_problem(data[:HEADER]) if expect.header_problem else None
    if problem:
        raise EngineFileError(
            f"the library refuses {path.name}: {problem}",
            "its header must be of this library and fit this GPU",
            f"run {sidecar.command(path)}",
            "version",
        )
    return data, sidecar


def verify(path: Path, expect: Expect, trust: Trust | None = None, folder: Path | None = None) -> Sidecar:
    """Check what `read_plan` checks, but for the header, and keep none of the file; raises what it raises."""
    sidecar = examine(path, expect, trust, folder)
    _check_bytes(path, sidecar)
    return sidecar


def examine(path: Path, expect: Expect, trust: Trust | None = None, folder: Path | None = None) -> Sidecar:
    """Check all of `read_plan` that needs no reading of the plan itself; raises what it raises.

    A proof that this installation did not write is left out of the sidecar.
    """
    _check_place(path, folder if folder is not None else path.parent)
    sidecar = read_sidecar(path)
    try:
        size = path.stat().st_size
    except OSError as error:
        raise unreadable(path, error) from error
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
        raise unreadable(path, error) from error
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


def _read(path: Path, sidecar: Sidecar) -> bytes:
    try:
        with os.fdopen(open_file(path), "rb", buffering=0) as file:
            _check_size(path, sidecar, os.fstat(file.fileno()).st_size)
            return file.readall()
    except (OSError, InputError) as error:
        raise unreadable(path, error) from error


def _check_bytes(path: Path, sidecar: Sidecar) -> None:
    """Compare the size and the hash of a file with its sidecar."""
    try:
        _check_size(path, sidecar, path.stat().st_size)
        _check_hash(path, sidecar, file_hash(path))
    except (OSError, InputError) as error:
        raise unreadable(path, error) from error


def _check_size(path: Path, sidecar: Sidecar, size: int) -> None:
    if size != sidecar.plan_bytes:
        raise EngineFileError(
            f"{path.name} has {size} bytes",
            f"its sidecar says {sidecar.plan_bytes}, so it was cut short, replaced, or its build did not finish",
            f"run {sidecar.command(path)}",
            "truncated",
        )


def _check_hash(path: Path, sidecar: Sidecar, found: str) -> None:
    if not hmac.compare_digest(found, sidecar.plan_sha256):
        raise EngineFileError(
            f"the bytes of {path.name} are not those that were built",
            f"their sha256 must be {sidecar.plan_sha256[:12]}..., as in the sidecar",
            f"run {sidecar.command(path)}",
            "tampered",
        )
