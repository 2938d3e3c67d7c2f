"""Image data sets and the classifiers that are trained on them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from editlab.config.base import Count, Name, NonNegative, Positive, Section, Share

Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Seed = Annotated[int, Field(ge=0)]


class ImageData(Section):
    """What every image data set has: its model, the four-set protocol, and the gates before errors are edited."""

    model: Name = Field(description="one of models: what is trained on it")
    ft_train_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.9, description="FT-Train's share of the training part"
    )
    split_seed: Seed = Field(1, description="seed of all splits")
    min_errors: Count = Field(20, description="discovery errors that there must be to edit")
    min_accuracy: Share = Field(0.85, description="FT-Val accuracy that the classifier must reach")


class Digits(ImageData):
    """The 1,797 handwritten digits (8 x 8) that ship with scikit-learn."""

    kind: Literal["digits"]
    ft_train_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.65, description="FT-Train's share of the training part; 0.9 would leave some eight errors"
    )
    test_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="share of all images")
    val_ratio: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="share of all images")

    @model_validator(mode="after")
    def _check(self) -> Digits:
        if self.test_ratio + self.val_ratio >= 1:
            raise ValueError(f"test_ratio + val_ratio: {self.test_ratio + self.val_ratio:g} must be below 1")
        return self


class MedMnist(ImageData):
    """A MedMNIST file ``{name}.npz`` or ``{name}_224.npz`` with its official parts."""

    kind: Literal["medmnist"]
    name: Literal["pathmnist", "dermamnist", "retinamnist", "organamnist", "bloodmnist", "tissuemnist"] = Field(
        description="which set; it gives the classes"
    )
    path: str = Field(description="local file; with url: where the download is kept")
    url: Annotated[str, Field(pattern=r"^https://")] | None = Field(None, description="fetched when path is missing")
    md5: Md5 | None = Field(None, description="checksum of the file")

    @model_validator(mode="after")
    def _check(self) -> MedMnist:
        if self.url and not self.md5:
            raise ValueError("md5: required with url")
        return self


class Liver(ImageData):
    """MERIT's liver fibrosis images (arXiv 2405.02918): pickled arrays, read without running what is in them."""

    kind: Literal["liver"]
    images: str = Field(description="imgs.npy")
    labels: str = Field(description="labs.npy")
    task: Literal["liver4", "liver2s", "liver2a"] = Field(
        "liver4", description="stages apart; 0-2 against 3 (significant); 0 against 1-3 (any)"
    )


Data = Annotated[Digits | MedMnist | Liver, Field(discriminator="kind")]


class Training(Section):
    """AdamW with warm-up and the best epoch by FT-Val accuracy; these defaults train a small ViT from scratch."""

    lr: Positive = Field(1e-3, description="peak learning rate of AdamW")
    weight_decay: NonNegative = Field(0.05, description="of AdamW")
    batch: Count = Field(32, description="images a step")
    epochs: Count = Field(30, description="passes over FT-Train")
    warmup: Share = Field(0.1, description="share of the steps in which the rate rises")
    schedule: Literal["cosine", "constant"] = Field("cosine", description="after the warm-up")
    patience: Count | None = Field(None, description="epochs without a better FT-Val accuracy that end the training")
    class_weights: bool = Field(False, description="weigh classes by the inverse of their frequency")


class FineTuning(Training):
    """The same, with defaults for pretrained weights."""

    lr: Positive = Field(1e-4, description="learning rate of AdamW")
    weight_decay: NonNegative = Field(0.01, description="of AdamW")
    epochs: Count = Field(10, description="passes over FT-Train, at most")
    warmup: Share = Field(0.0, description="share of the steps in which the rate rises")
    schedule: Literal["cosine", "constant"] = Field("constant", description="after the warm-up")
    patience: Count | None = Field(3, description="epochs without a better FT-Val accuracy that end the training")


class ImageModel(Section):
    """Where a classifier runs, and what the frame asks of a model for its resources."""

    device: Annotated[str, Field(pattern=r"^(cpu|cuda(:\d+)?)$")] = Field(
        "cpu", description="where classifiers are trained, edited and scored; with cuda every such job asks for one GPU"
    )

    @property
    def billions(self) -> float | None:
        """Parameters in billions; None: not known."""
        raise NotImplementedError

    @property
    def weights_mb(self) -> float:
        """Size of the weights in MB."""
        return 4000.0 * (self.billions or 0.0)


class ScratchViT(ImageModel):
    """A small vision transformer from random weights."""

    source: Literal["scratch"]
    image_size: Count = Field(8, description="pixels a side; images are resized to it")
    patch: Count = Field(2, description="pixels a side; divides image_size")
    width: Count = Field(64, description="size of a token's state")
    layers: Count = Field(4, description="blocks")
    heads: Count = Field(4, description="attention heads a block; divides width")
    inner: Count = Field(256, description="MLP width")
    training: Training = Training()

    @model_validator(mode="after")
    def _check(self) -> ScratchViT:
        if self.image_size % self.patch:
            raise ValueError(f"image_size: {self.image_size} is not allowed; a multiple of patch ({self.patch})")
        if self.width % self.heads:
            raise ValueError(f"width: {self.width} is not allowed; a multiple of heads ({self.heads})")
        return self

    @property
    def billions(self) -> float:
        return self.layers * self.width * (4 * self.width + 2 * self.inner) / 1e9


class HubViT(ImageModel):
    """A pretrained ViT classifier from the hub or a local directory; its head is made anew."""

    source: Literal["hub"]
    id: str = Field("google/vit-base-patch16-224", min_length=1, description="hub id or directory")
    revision: str | None = Field(None, description="commit, tag or branch")
    parameters: Positive | None = Field(None, description="number of parameters, for resource requests")
    training: FineTuning = FineTuning()

    @property
    def billions(self) -> float | None:
        return None if self.parameters is None else self.parameters / 1e9


Model = Annotated[ScratchViT | HubViT, Field(discriminator="source")]


def source_files(data: ImageData) -> dict[str, Path]:
    """The local files that a data set is read from, by key."""
    keys = ("path",) if isinstance(data, MedMnist) else ("images", "labels") if isinstance(data, Liver) else ()
    return {key: Path(getattr(data, key)).expanduser() for key in keys}


DATA: TypeAdapter[Any] = TypeAdapter(Data)
MODEL: TypeAdapter[Any] = TypeAdapter(Model)
"""What a job is given as plain values becomes a section again by ``MODEL.validate_python(values)``."""
