"""Decides which plans may be opened. A plan is native code: this installation built it, or the user accepted its hash.

The manifest in the user's data folder lists their sha256, signed (HMAC-SHA256) with a key beside it, mode 0600. This
tells the installation's plans from others; it does not guard against a program that runs as the same user.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from ...errors import EngineFileError, InputError
from ...files import open_file, read_json
from .folder import data_home, write_whole
from .sidecar import MAX_BYTES, Hash, Sidecar, digest, read_sidecar, rewritten, sidecar_path

KEY, MANIFEST, LOCK = "engines.key", "engines.json", ".engines.lock"
KEY_BYTES, SCHEMA = 32, 1
BUILT, ACCEPTED = "built", "accepted"


class Entry(Struct, frozen=True):
    """A trusted plan, listed in the manifest under its sha256.

    Attributes:
        how: `BUILT` or `ACCEPTED`.
        sidecar: hash of the one sidecar that belongs to it.
        since: UTC, ISO 8601.
        proof: hash of its check's figures, where this installation made the check.
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
        """Make the key where there is none. Raises `EngineFileError` when the folder or the key cannot be used."""
        with self._held():
            self._key(make=True)

    def record(self, sidecar: Sidecar, how: str = BUILT) -> None:
        """Trust a plan from now on, with exactly this sidecar.

        A manifest that this installation did not sign is set aside: its plans stay refused.
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
        """Return `built` or `accepted`; `plan` is the file's path, for the remedy.

        Raises:
            EngineFileError: when the plan is neither (`untrusted`), when the manifest has a wrong signature (`key`), or
                when the sidecar is not the recorded one (`tampered`).
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
        """Return whether this plan is trusted with exactly this sidecar."""
        entry = (self._plans_or_none() or {}).get(sidecar.plan_sha256)
        return entry is not None and entry.sidecar == sidecar.identity()

    def known(self) -> int | None:
        """Count the trusted plans; None where the manifest has a wrong signature."""
        plans = self._plans_or_none()
        return None if plans is None else len(plans)

    def proven(self, sidecar: Sidecar) -> bool:
        """Return whether this installation wrote the sidecar's proof."""
        plans = self._plans_or_none() or {}
        entry = plans.get(sidecar.plan_sha256)
        return entry is not None and sidecar.proof is not None and entry.proof == digest(sidecar.proof)

    def write_proof(self, plan: Path, proof: dict[str, Any] | None, checked: Sidecar | None = None) -> Sidecar:
        """Write a check's figures into the sidecar of a trusted plan, or remove them; returns the new sidecar.

        Where there is nothing to remove nothing is written, so that the file's time stays.

        Args:
            checked: the sidecar of the plan that was checked; None is the one in place.

        Raises:
            EngineFileError: as `standing`, and when the plan was replaced meanwhile.
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
        """Read the manifest's plans: empty without a manifest, None where its signature is not ours."""
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
