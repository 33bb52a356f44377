"""Requests, knobs and configs as JSON; the tensors in them are stored beside it, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ..config import Guidance, Sampling, StreamConfig
from ..controls.knobs import Knobs
from ..errors import InputError
from ..spec import ACE_STEP, ModelSpec
from ..stream.request import Condition, Part, Request, Target

KINDS = {kind.__name__: kind for kind in (Request, Condition, Part, Target, Guidance, Sampling, Knobs, StreamConfig)}
KIND, TENSOR = "kind", "tensor"  # the keys that mark an object and a reference
PLAIN = {"bool": bool, "str": str}  # fields that no range check looks at
SPEC = "spec"  # a field of conditions that a take states once, in its header
LEFT_OUT = (SPEC, "model")  # fields of conditions; a model's identity is that of files on one machine


def fingerprint(tensor: Tensor) -> str:
    """Hash a tensor's dtype, shape and bits with SHA-256. Waits for the tensor's device."""
    host = tensor.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{host.dtype} {list(host.shape)} ".encode())
    digest.update(host.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class Writer:
    """A converter of objects to JSON values.

    Attributes:
        tensors: the tensors that the values refer to, on the CPU, by fingerprint.
    """

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._known: dict[int, tuple[Tensor, str]] = {}  # id -> the tensor, so that the id stays its own, and its name

    def pack(self, value: Any) -> Any:
        """Convert a value to JSON values.

        Raises:
            TypeError: for a type that is not in `KINDS`.
        """
        if isinstance(value, str):
            return value.encode(errors="replace").decode()  # strict JSON has no half of a surrogate pair
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, Tensor):
            return {TENSOR: self._name(value)}
        if isinstance(value, list | tuple):
            return [self.pack(item) for item in value]
        if is_dataclass(value) and type(value).__name__ in KINDS:
            held = {f.name: self.pack(getattr(value, f.name)) for f in fields(value) if f.name not in LEFT_OUT}
            return {KIND: type(value).__name__} | held
        if hasattr(value, "tolist"):  # numpy's numbers and arrays
            return self.pack(value.tolist())
        raise TypeError(f"{type(value).__name__} has no form in a log: add it to KINDS.")

    def _name(self, tensor: Tensor) -> str:
        if id(tensor) not in self._known:
            # a copy: safetensors takes no two tensors that share memory
            host = tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
            name = fingerprint(host)
            self.tensors.setdefault(name, host)
            self._known[id(tensor)] = tensor, name
        return self._known[id(tensor)][1]


class Reader:
    """A converter of JSON values back to objects.

    Args:
        tensors: by fingerprint.
        spec: of the model that conditions are for.

    Raises:
        InputError: for a tensor whose fingerprint is not its name.
    """

    def __init__(self, tensors: Mapping[str, Tensor], spec: ModelSpec = ACE_STEP) -> None:
        self.tensors, self.spec = tensors, spec
        damaged = [name for name, tensor in tensors.items() if fingerprint(tensor) != name]
        if damaged:
            raise InputError(f"tensor {damaged[0][:16]} is damaged", "its name is that of its bits", "copy it again")

    def unpack(self, data: Any) -> Any:
        """Convert JSON values back to an object.

        Raises:
            InputError: for an unknown object or field or a missing tensor, and whatever the object's own checks raise.
        """
        if isinstance(data, list):
            return tuple(self.unpack(item) for item in data)
        if not isinstance(data, dict):
            return data
        if data.keys() == {TENSOR}:
            return self._tensor(data[TENSOR])
        return self._object(data)

    def expect(self, kind: type, data: Any) -> Any:
        """Unpack an object; raises `InputError` unless it is of this kind."""
        if not isinstance(value := self.unpack(data), kind):
            raise InputError(
                f"a {type(value).__name__} stands for a {kind.__name__}", "it must be one", "copy it again"
            )
        return value

    def _tensor(self, name: str) -> Tensor:
        if name not in self.tensors:
            raise InputError(f"tensor {name[:16]} is missing", "every one named must be there", "copy it again")
        return self.tensors[name]

    def _object(self, data: dict[str, Any]) -> Any:
        kind = KINDS.get(data.get(KIND, ""))
        if kind is None:
            raise InputError(f"an object is a {data.get(KIND)!r}", f"known are {', '.join(KINDS)}", "update Ostinato")
        types = {f.name: f.type for f in fields(kind) if f.name not in LEFT_OUT}
        given = {name: self.unpack(value) for name, value in data.items() if name != KIND}
        for name, value in given.items():
            if name not in types:
                raise InputError(f"{kind.__name__} has an unknown {name!r}", "a newer one knows it", "update Ostinato")
            plain = PLAIN.get(str(types[name]))
            if plain and not isinstance(value, plain):
                raise InputError(f"{kind.__name__}.{name} is {value!r}", f"it is a {types[name]}", "copy it again")
        if kind is Condition:
            given[SPEC] = self.spec
        return kind(**given)
