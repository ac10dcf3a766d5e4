"""Records the operations of a piece of work and repeats them on the same memory, as a CUDA graph does, on any device.

    with Recording() as recording:
        work()
    recording.replay()

or `recorded(work)`. Whatever a graph could not record is refused while it is recorded: an operation that tells the host something, one whose
shapes depend on data, a tensor made of Python's numbers, a copy to another device. What a graph freezes is frozen here, too: numbers that Python
passed, choices that Python made, and addresses. So a step that passes here, and gives the same when it is repeated, is fit for a graph.
"""
from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

TELLS = {"tolist", "item", "numpy", "cpu", "__array__", "__contains__", "__repr__", "__format__"}
TELLS |= {f"__{kind}__" for kind in ("bool", "float", "int", "index", "complex")}
REFUSED = {
    "is_nonzero": "tells the host a number",
    "to_sparse": "has a shape that depends on data",
    "lift_fresh": "brings numbers of Python to the device, which a copy must wait for",
    "lift_fresh_copy": "brings numbers of Python to the device, which a copy must wait for",
    "randperm": "draws random numbers; a table made before does not",
}
MASKS = (torch.bool, torch.uint8)


class CannotBeRecorded(AssertionError):
    """An operation that a CUDA graph cannot hold, by name, and why."""


@dataclass(frozen=True)
class Operation:
    """One operation: `op`, as PyTorch calls it, on `args` and `kwargs`; `outputs` are the tensors of the recording that it filled."""

    op: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[torch.Tensor]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.op, self.args, self.kwargs, self.outputs))

    @property
    def is_view(self) -> bool:
        """Whether it computes nothing, but gives another shape to memory that is there."""
        infos = [r.alias_info for r in self.op._schema.returns]
        return bool(infos) and all(info is not None and not info.is_write for info in infos)

    def repeat(self) -> None:
        """Does it again, and puts the results where they were."""
        found = [t for t in tree_leaves(self.op(*self.args, **self.kwargs)) if isinstance(t, torch.Tensor)]
        for tensor, result in zip(self.outputs, found, strict=True):
            if tensor.data_ptr() != result.data_ptr():
                assert (tensor.shape, tensor.stride()) == (result.shape, result.stride()), f"{self.op} gave another shape when repeated"
                tensor.copy_(result)


def reason_against(op: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Why `op` cannot be recorded, or nothing."""
    name, tensors = op._schema.name.split("::")[-1], [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
    if name in REFUSED:
        return REFUSED[name]
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index", "_unsafe_index_put"):
        indices = [i for i in args[1] if i is not None]
        if any(i.dtype in MASKS for i in indices):
            return "with a mask has a shape that depends on data"
        return "has indices on another device" if any(i.device != args[0].device for i in indices) else ""
    if torch.Tag.data_dependent_output in op.tags:
        return "tells the host a number"
    if torch.Tag.dynamic_output_shape in op.tags:
        return "has a shape that depends on data"
    if torch.Tag.nondeterministic_seeded in op.tags:
        return "draws random numbers; a table made before does not"
    if torch.Tag.inplace_view in op.tags:
        return "changes the shape of a tensor in place"
    if name not in ("_to_copy", "copy_", "copy"):
        return ""
    devices = sorted({t.device.type for t in tensors} | {torch.device(d).type for d in [kwargs.get("device")] if d is not None})
    return f"copies between {' and '.join(devices)}" if len(devices) > 1 else ""


class _NoAnswers(TorchFunctionMode):
    """Refuses the methods that read a tensor's memory without an operation, which on a CPU no dispatcher would see."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = getattr(func, "__name__", "")
        places = [str(a).split(":")[0] for a in [*args[1:], *(kwargs or {}).values()] if isinstance(a, str | torch.device)]
        if name in TELLS or (name == "to" and "cpu" in places):
            raise CannotBeRecorded(f"Tensor.{name} tells the host what is in a tensor.")
        return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):
    """A context in which operations are done and noted in `operations`; `replay` repeats them. Raises `CannotBeRecorded`."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self._no_answers = _NoAnswers()

    def __enter__(self) -> Recording:
        super().__enter__()
        self._no_answers.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._no_answers.__exit__(*error)
        super().__exit__(*error)

    def __torch_dispatch__(self, op: torch._ops.OpOverload, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        why = reason_against(op, args, kwargs)
        if why:
            raise CannotBeRecorded(f"{op} {why}.")
        result = op(*args, **kwargs)
        args, kwargs = tree_map(lambda leaf: leaf, (args, kwargs))
        self.operations.append(Operation(op, args, kwargs, [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]))
        return result

    @torch.no_grad()
    def replay(self) -> None:
        """Repeats all operations on the memory of the recording. No Python of the work runs."""
        for operation in self.operations:
            if not operation.is_view:
                operation.repeat()


def recorded(work: Callable[[], object]) -> Recording:
    """Does `work` once and returns its recording. Raises `CannotBeRecorded` for what a CUDA graph could not hold."""
    with Recording() as recording:
        work()
    return recording
