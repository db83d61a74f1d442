"""A stand-in for a GPU: tensors that say they are on another device and compute on the CPU, and refuse to meet what is there.

Its name is PyTorch's "meta", the one device beside the CPU that every build knows; unlike real meta tensors these hold numbers.
"""

from contextlib import contextmanager, nullcontext

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

AWAY = torch.device("meta")
aten = torch.ops.aten
# What carries numbers from one device to another, as CUDA's does; an index may lie on the CPU.
_MAY_MEET = {aten.copy_, aten._to_copy, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class Away(torch.Tensor):
    """Numbers of the CPU that claim to be elsewhere."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=AWAY
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Away({self.inner})"

    def tolist(self):
        return self.inner.tolist()

    def new_tensor(self, data, **more):
        return torch.tensor(data, **({"device": AWAY, "dtype": self.dtype} | more))

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Factories(TorchDispatchMode):
    """Sees what is made without a tensor to make it from."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    tensors = [one for one in tree_flatten((args, kwargs))[0] if isinstance(one, torch.Tensor)]
    away = [one for one in tensors if isinstance(one, Away)]
    if any(one.device == AWAY and not isinstance(one, Away) for one in tensors):
        raise NotImplementedError(f"{func}: a meta tensor without numbers; PyTorch makes one of a list that is an index")
    # A number without axes may come from the CPU, as CUDA has it.
    here = [one for one in tensors if not isinstance(one, Away) and one.ndim]
    if away and here and func.overloadpacket not in _MAY_MEET:
        raise RuntimeError(
            f"{func}: expected all tensors on one device, found some on the stand-in and one {tuple(here[0].shape)} on the CPU"
        )
    asked = kwargs.get("device")
    to = torch.device(asked) if asked is not None else None
    if to is not None and to.type == AWAY.type:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    goes_away = to.type == AWAY.type if to is not None else bool(away)
    if func.overloadpacket is aten.copy_:
        goes_away = isinstance(args[0], Away)
    given = tree_map_only(Away, lambda one: one.inner, (args, kwargs))
    out = func(*given[0], **given[1])
    if not goes_away:
        return out
    if func._schema.is_mutable:
        return kwargs.get("out", args[0]) if out is not None else None
    return tree_map_only(torch.Tensor, Away, out)


@contextmanager
def standing_in(monkeypatch):
    """Within, what is moved to or made on AWAY computes, and mixing it with the CPU's tensors fails."""
    autocast, adam, tensor = torch.autocast, torch.optim.AdamW, torch.tensor
    # It moves what it made out of sight of the mode below.
    monkeypatch.setattr(torch, "tensor", lambda data, device="cpu", **more: tensor(data, **more).to(device))
    monkeypatch.setattr(
        torch, "autocast", lambda kind, *rest, **more: nullcontext() if kind == AWAY.type else autocast(kind, *rest, **more)
    )
    # PyTorch has a fused step for devices that it knows.
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, fused: adam(groups))
    with _Factories():
        yield
