"""Edit a ViT-B/16 with random weights at 224 pixels once, and print the peak memory of the process in MB."""

import sys
from pathlib import Path

import numpy as np
import torch
from transformers import ViTConfig, ViTForImageClassification

from editlab.config.vision import AlphaEdit
from editlab.data.images import Images, write_images
from editlab.files.artifacts import write_json
from editlab.files.timing import peak_memory_mb
from editlab.networks.vision import adapt_pretrained
from editlab.vision.keys import collect_keys
from editlab.vision.mlp import MlpEditor
from editlab.vision.pixels import read_set
from editlab.vision.samples import draw_samples, find_errors

home = Path(sys.argv[1])
torch.manual_seed(0)
ViTForImageClassification(ViTConfig(num_labels=1000)).save_pretrained(home / "hub")
rng = np.random.default_rng(0)
for name, count in (("ft_train", 40), ("discovery", 12)):
    pixels = rng.integers(0, 255, (count, 224, 224, 3), dtype=np.uint8)
    write_images(home, name, Images(pixels, np.arange(count) % 5, np.arange(count)))
write_json(home / "data.json", {"low": 0, "high": 255, "classes": list("abcde"), "ordinal": True})
classifier = adapt_pretrained(home / "hub", list("abcde"), 1)
ft_train, discovery = read_set(home / "ft_train.csv"), read_set(home / "discovery.csv")
layers = [9, 10, 11]
keys = collect_keys(classifier, ft_train, np.arange(40), layers, 40, 1)
draw = draw_samples(find_errors(classifier, discovery), 0, 5, 5)
edit, solves = MlpEditor(classifier, discovery, keys).edit(draw, layers, AlphaEdit(method="alphaedit"))
assert edit.layers == layers
assert all(row["null_space_dimension"] >= 3072 - 40 * 17 for row in solves)
with edit.applied(classifier.model), torch.no_grad():
    after = classifier(discovery.tensor(classifier, draw.rows)).softmax(-1)[range(len(draw.rows)), draw.targets]
assert bool(after.isfinite().all())
print(peak_memory_mb())
