"""Train a classifier on FT-Train: AdamW, warm-up, the weights of the epoch that FT-Val likes best."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from editlab.config.images import DATA, MODEL, HubViT, ImageData, ScratchViT, Training
from editlab.errors import DataError, NumericalError
from editlab.files.artifacts import write_csv
from editlab.networks.vision import Classifier, adapt_pretrained, make_classifier
from editlab.randomness import seeded_dropout, set_threads, torch_rng
from editlab.vision.pixels import KEPT, ImageSet, Prefix, predictions, read_set
from editlab.vision.samples import draw_samples

PathLike = str | Path


def initial_classifier(
    section: ScratchViT | HubViT, classes: list[str], seed: int, pretrained: Any = None
) -> Classifier:
    """The classifier before it is trained: random from the seed, or pretrained with a head from the seed; on its device.

    Args:
        pretrained: directory of the pretrained model of a :class:`HubViT`.
    """
    if isinstance(section, ScratchViT):
        return make_classifier(section, classes, seed).to(section.device)
    return adapt_pretrained(pretrained or section.id, classes, seed).to(section.device)


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
    weights = _class_weights(labels, len(ft_train.classes)).to(classifier.device) if options.class_weights else None
    model, rows = classifier.model, []
    pixels_of = _pixel_source(classifier, ft_train, extra)
    best, kept, waited = -1.0, _copied(model), 0
    optimizer, schedule = _optimizer(model, options, len(labels))
    for epoch in range(options.epochs):
        model.train()
        total = 0.0
        order = torch.randperm(len(labels), generator=torch_rng("vision order", seed, epoch))
        with seeded_dropout(classifier.device, "vision dropout", seed, epoch):
            for chosen in order.split(options.batch):
                pixels = pixels_of(chosen)
                loss = F.cross_entropy(
                    model(pixel_values=pixels).logits, labels[chosen].to(pixels.device), weight=weights
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
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    classifier.model.save_pretrained(str(directory), safe_serialization=True)  # type: ignore[operator]


def _pixel_source(classifier: Classifier, ft_train: ImageSet, extra: ImageSet | None) -> Callable[[Tensor], Tensor]:
    """A function from positions to images: prepared once where they fit in memory, else at every step."""
    count = len(ft_train) + (0 if extra is None else len(extra))
    if count * 3 * classifier.image_size**2 > KEPT:
        return lambda chosen: _pixels(classifier, ft_train, extra, chosen)
    parts = [images.tensor(classifier) for images in (ft_train, extra) if images is not None]
    whole = torch.cat(parts)
    return lambda chosen: whole[chosen]


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


def train_stage(
    section: ScratchViT | HubViT,
    data: ImageData,
    name: str,
    ft_train: PathLike,
    ft_val: PathLike,
    seed: int,
    directory: PathLike,
    metrics: PathLike,
    pretrained: PathLike | None = None,
    threads: int = 1,
) -> None:
    """Train the classifier of a seed.

    Raises:
        DataError: it does not reach ``min_accuracy`` on FT-Val.
    """
    set_threads(threads)
    section = MODEL.validate_python(section)
    data = DATA.validate_python(data)
    images, val = read_set(ft_train), read_set(ft_val)
    classifier = initial_classifier(section, images.classes, seed, pretrained)
    table = train(classifier, images, val, section.training, seed)
    check_accuracy(table, data, name)
    save_classifier(classifier, directory)
    write_csv(metrics, table)


def retrain_stage(
    section: ScratchViT | HubViT,
    ft_train: PathLike,
    ft_val: PathLike,
    discovery: PathLike | None,
    errors: PathLike | None,
    draw: int,
    max_edits: int,
    seed: int,
    order_seed: int,
    directory: PathLike,
    pretrained: PathLike | None = None,
    threads: int = 1,
) -> None:
    """Train anew from the initial weights of ``seed``: with the edit samples in FT-Train, or (churn) with neither them nor
    the discovery set, and with another order."""
    set_threads(threads)
    section = MODEL.validate_python(section)
    images = read_set(ft_train)
    extra = None
    if discovery is not None and errors is not None:
        found = read_set(discovery)
        extra = found.rows(draw_samples(pd.read_csv(errors), draw, max_edits, len(images.classes)).rows)
    classifier = initial_classifier(section, images.classes, seed if extra is not None else order_seed, pretrained)
    train(classifier, images, read_set(ft_val), section.training, order_seed, extra)
    save_classifier(classifier, directory)
