"""What an edit has to beat: training on the errors alone, and removing attention heads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.config.vision import FinetuneErrors, HeadAblation
from editlab.errors import ArtifactError
from editlab.files.artifacts import load_tensors, save_tensors
from editlab.networks.hooks import restored
from editlab.networks.vision import Classifier
from editlab.randomness import seeded_dropout, torch_rng
from editlab.vision.pixels import ImageSet
from editlab.vision.samples import Draw

WEIGHTS = "editlab-weights-1"
AttentionHead = tuple[int, int]
"""Layer and number of an attention head."""


@contextlib.contextmanager
def unchanged_after(classifier: Classifier) -> Iterator[None]:
    """Whatever the block does to the weights, they are back bit for bit on leaving."""
    with restored(dict(enumerate(p.detach() for p in classifier.model.parameters()))):
        try:
            yield
        finally:
            classifier.model.eval()


def finetune(classifier: Classifier, discovery: ImageSet, draw: Draw, recipe: FinetuneErrors, seed: int) -> None:
    """Train on the edit samples alone, in place, with AdamW."""
    pixels = discovery.tensor(classifier, draw.rows)
    targets = torch.as_tensor(draw.targets).to(pixels.device)
    parameters = list(classifier.model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=recipe.lr)
    classifier.model.train()
    for epoch in range(recipe.epochs):
        here = ("finetune errors", seed, draw.number, epoch)
        order = torch.randperm(len(targets), generator=torch_rng(*here))
        with seeded_dropout(classifier.device, *here):
            for chosen in order.split(recipe.batch):
                loss = F.cross_entropy(classifier.model(pixel_values=pixels[chosen]).logits, targets[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    classifier.model.eval()
    for parameter in parameters:
        parameter.grad = None


def ablate(classifier: Classifier, heads: Sequence[AttentionHead]) -> None:
    """Zero the features of attention heads, in place: the columns of the attention's output map that read them."""
    size = classifier.width // classifier.heads
    with torch.no_grad():
        for layer, head in heads:
            weight: Tensor = classifier.architecture.attention_output(layer).weight  # type: ignore[assignment]
            weight[:, head * size : (head + 1) * size] = 0.0


def worst_heads(classifier: Classifier, discovery: ImageSet, draw: Draw, recipe: HeadAblation) -> list[AttentionHead]:
    """The heads whose removal alone lowers the loss on the edit samples most: layers x heads passes over them."""
    pixels, targets = discovery.tensor(classifier, draw.rows), torch.as_tensor(draw.targets)
    losses: dict[AttentionHead, float] = {}
    for layer in range(classifier.num_layers):
        for head in range(classifier.heads):
            with restored({0: classifier.architecture.attention_output(layer).weight.detach()}):  # type: ignore[operator]
                ablate(classifier, [(layer, head)])
                with torch.no_grad():
                    losses[layer, head] = float(F.cross_entropy(classifier(pixels).cpu(), targets))
    return sorted(losses, key=lambda key: (losses[key], key))[: recipe.heads]


def save_weights(classifier: Classifier, path: str | Path) -> None:
    """Write all weights of a changed classifier, for :func:`load_weights` of the one that it came from."""
    save_tensors(path, dict(classifier.model.named_parameters()), {"format": WEIGHTS})


def load_weights(classifier: Classifier, path: str | Path) -> bool:
    """Put saved weights into the classifier; False (and nothing changed) where the file holds something else.

    Raises:
        ArtifactError: missing, damaged, or weights of another model.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != WEIGHTS:
        return False
    parameters = dict(classifier.model.named_parameters())
    if {k: v.shape for k, v in parameters.items()} != {k: v.shape for k, v in tensors.items()}:
        raise ArtifactError(f"{path}: weights of another model")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[name])
    return True
