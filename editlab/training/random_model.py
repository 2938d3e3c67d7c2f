"""Models of a true size without their weights, for timing and for bounds on memory: nothing is downloaded.

What is written is a description: the configuration, a tokenizer trained on the statements of a data set, and a seed. The
weights are drawn where the model is loaded (:func:`editlab.networks.loading.load_model`), on its device and in its type; 16 GB of
random numbers on a disk would serve nobody. Such a model knows nothing: only times and memory of its runs mean anything.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from editlab.config.models import SHAPES, RandomModel
from editlab.data import neutral_sentences, true_statements
from editlab.data.requests import EditRequest
from editlab.errors import ModelError, one_line
from editlab.files.artifacts import write_json
from editlab.networks.loading import RANDOM, check_family
from editlab.training.substrate import train_tokenizer


def write_random_model(directory: Path, options: RandomModel, requests: Sequence[EditRequest]) -> None:
    """Write the description of a model of ``options.shape``.

    Raises:
        ModelError: the configuration cannot be read, or is of no family that can be edited.
    """
    from transformers import AutoConfig

    try:
        given = SHAPES[options.shape][0] if options.shape in SHAPES else json.loads(Path(options.shape).read_text())
        config = AutoConfig.for_model(**given)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{options.shape}: not the configuration of a model ({one_line(error)})") from None
    check_family(config, options.shape)
    statements = [f"{prompt} {target}" for prompt, target in true_statements(requests)]
    tokenizer = train_tokenizer(statements + neutral_sentences(500, options.seed), options.vocabulary)
    config.bos_token_id = config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    if options.layers is not None:
        config.num_hidden_layers = options.layers
    config.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    write_json(directory / RANDOM, {"seed": options.seed})
