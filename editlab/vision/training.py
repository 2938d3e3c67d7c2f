"""Train a classifier on FT-Train: AdamW, warm-up, the weights of the epoch that FT-Val likes best."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.config.vision import HubViT, ImageData, ScratchViT, Training
from editlab.errors import DataError, NumericalError
from editlab.networks.vision import Classifier, adapt_pretrained, make_classifier
from editlab.randomness import torch_rng
from editlab.vision.pixels import ImageSet, Prefix, predictions


def initial_classifier(
    section: ScratchViT | HubViT, classes: list[str], seed: int, pretrained: Any = None
) -> Classifier:
    """The classifier before it is trained: random from the seed, or pretrained with a head from the seed.

    Args:
        pretrained: directory of the pretrained model of a :class:`HubViT`.
    """
    if isinstance(section, ScratchViT):
        return make_classifier(section, classes, seed)
    return adapt_pretrained(pretrained or section.id, classes, seed)


def train(
    classifier: Classifier,
    ft_train: ImageSet,
    ft_val: ImageSet,
    options: Training,
    seed: int,
    extra: ImageSet | None = None,
) -> pd.DataFrame:
    """Train in place; the classifier ends with the weights of its best FT-Val epoch.

    Args:
        extra: images that join FT-Train (the edit samples of the baseline that retrains).
        seed: of the order of the images.

    Returns:
        One row an epoch: epoch, train_loss, val_loss, val_accuracy, best.

    Raises:
        NumericalError: the loss is not finite.
    """
    labels = ft_train.labels if extra is None else torch.cat([ft_train.labels, extra.labels])
    weights = _class_weights(labels, len(ft_train.classes)) if options.class_weights else None
    model, rows = classifier.model, []
    best, kept, waited = -1.0, _copied(model), 0
    optimizer, schedule = _optimizer(model, options, len(labels))
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(labels), generator=torch_rng("vision order", seed, epoch))
        for chosen in order.split(options.batch):
            pixels = _pixels(classifier, ft_train, extra, chosen)
            loss = F.cross_entropy(
                classifier_logits(classifier, pixels), labels[chosen].to(pixels.device), weight=weights
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(chosen)
        if not math.isfinite(total):
            raise NumericalError(f"training: the loss is not finite in epoch {epoch + 1}; lower the learning rate")
        model.eval()
        val_loss, accuracy = evaluate(classifier, ft_val)
        rows.append(
            {"epoch": epoch + 1, "train_loss": total / len(labels), "val_loss": val_loss, "val_accuracy": accuracy}
        )
        waited += 1
        if accuracy > best:
            best, kept, waited = accuracy, _copied(model), 0
        if options.patience is not None and waited >= options.patience:
            break
    _put_back(model, kept)
    frame = pd.DataFrame(rows)
    return frame.assign(best=frame.index == int(np.argmax(frame["val_accuracy"])))


def classifier_logits(classifier: Classifier, pixels: Tensor) -> Tensor:
    """Logits with gradients, by the model's own forward pass (dropout included where it has some)."""
    return classifier.model(pixel_values=pixels).logits


def evaluate(classifier: Classifier, images: ImageSet) -> tuple[float, float]:
    """(mean cross-entropy, accuracy)."""
    logits, labels = Prefix(classifier, images).logits(), images.labels
    return float(F.cross_entropy(logits, labels)), float((predictions(logits) == labels).float().mean())


def check_accuracy(metrics: pd.DataFrame, data: ImageData, name: str) -> None:
    """Raise :class:`DataError` unless the classifier is good enough for its errors to be worth editing."""
    reached = float(metrics["val_accuracy"].max())
    if reached < data.min_accuracy:
        raise DataError(
            f"datasets.{name}: FT-Val accuracy {reached:.3f} is below min_accuracy {data.min_accuracy:g}; "
            "train longer, or lower it to study a weak classifier"
        )


def save_classifier(classifier: Classifier, directory: str | Path) -> None:
    """Write the model by ``save_pretrained``."""
    classifier.model.save_pretrained(str(directory), safe_serialization=True)  # type: ignore[operator]


def _pixels(classifier: Classifier, ft_train: ImageSet, extra: ImageSet | None, chosen: Tensor) -> Tensor:
    own = chosen[chosen < len(ft_train)]
    if extra is None or len(own) == len(chosen):
        return ft_train.tensor(classifier, chosen.numpy())
    more = chosen[chosen >= len(ft_train)] - len(ft_train)
    pixels = ft_train.tensor(classifier, own.numpy())
    whole = pixels.new_empty(len(chosen), *pixels.shape[1:])
    whole[chosen < len(ft_train)] = pixels
    whole[chosen >= len(ft_train)] = extra.tensor(classifier, more.numpy())
    return whole


def _optimizer(model: Any, options: Training, images: int) -> tuple[torch.optim.Optimizer, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr, weight_decay=options.weight_decay)
    steps = options.epochs * math.ceil(images / options.batch)
    rising = max(1, round(options.warmup * steps))

    def rate(step: int) -> float:
        if step < rising and options.warmup:
            return (step + 1) / rising
        if options.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, rate)


def _class_weights(labels: Tensor, classes: int) -> Tensor:
    """n / (classes x images of the class); a class without images has weight 0."""
    counts = torch.bincount(labels, minlength=classes).float()
    return torch.where(counts > 0, len(labels) / (classes * counts.clamp_min(1)), torch.zeros(()))


def _copied(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def _put_back(model: Any, weights: dict[str, Tensor]) -> None:
    model.load_state_dict(weights)
    model.eval()
