"""Capture and replace activations for the length of a ``with`` block; leaving it removes every hook, also on errors."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from editlab.networks.architectures import Architecture


class StopForward(Exception):
    """Raised by a hook when everything above the hooked module is not needed."""


@contextlib.contextmanager
def capture(
    inputs: Mapping[Any, nn.Module] | None = None,
    outputs: Mapping[Any, nn.Module] | None = None,
    stop_after: nn.Module | None = None,
) -> Iterator[dict[Any, Tensor]]:
    """Record first inputs and outputs of modules, under the names given, into the yielded dict.

    With ``stop_after`` the forward pass ends when that module has run: call the model through :func:`run`.
    """
    store: dict[Any, Tensor] = {}
    handles = []

    def keep_input(name: Any) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            store[name] = args[0] if args else kwargs["hidden_states"]

        return hook

    def keep_output(name: Any) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            store[name] = Architecture.hidden(output)

        return hook

    def stop(_module: nn.Module, _args: Any, _output: Any) -> None:
        raise StopForward

    try:
        for name, module in (inputs or {}).items():
            handles.append(module.register_forward_pre_hook(keep_input(name), with_kwargs=True))
        for name, module in (outputs or {}).items():
            handles.append(module.register_forward_hook(keep_output(name)))
        if stop_after is not None:
            handles.append(stop_after.register_forward_hook(stop))
        yield store
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replace_outputs(edits: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """Pass the output of each module through its function, e.g. to add a vector or to restore a clean state."""
    handles = []

    def make(function: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            return Architecture.with_hidden(output, function(Architecture.hidden(output)))

        return hook

    try:
        for module, function in edits.items():
            handles.append(module.register_forward_hook(make(function)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def output_gains(modules: Mapping[Any, nn.Module]) -> Iterator[dict[Any, Tensor]]:
    """Zeros that are added to the outputs of modules, under the names given: leaves, whose gradients are those at the outputs."""
    gains: dict[Any, Tensor] = {}

    def watched(name: Any) -> Callable[[Tensor], Tensor]:
        def add(output: Tensor) -> Tensor:
            gains[name] = torch.zeros_like(output).requires_grad_(True)
            return output + gains[name]

        return add

    with replace_outputs({module: watched(name) for name, module in modules.items()}):
        yield gains


def run(model: nn.Module, **inputs: Any) -> Any:
    """Call the model; None when a hook stopped it early."""
    with contextlib.suppress(StopForward):
        return model(**inputs)
    return None


@contextlib.contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without parameter gradients, as the model was before on leaving."""
    training = model.training
    trainable = [p for p in model.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    model.eval()
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        model.train(training)


@contextlib.contextmanager
def restored(weights: Mapping[int, Tensor]) -> Iterator[dict[int, Tensor]]:
    """Copy the weights now, and put the copies back, bit for bit, on leaving. Yields the copies."""
    originals = {layer: weight.clone() for layer, weight in weights.items()}
    try:
        yield originals
    finally:
        with torch.no_grad():
            for layer, weight in weights.items():
                weight.copy_(originals[layer])
