"""What a job asks of a cluster: memory, minutes and GPUs, from the size of the model, the batch and the number of edits.

``config.resources`` has an entry by rule; what an entry leaves out comes from ``default``, then from the defaults of
:class:`~editlab.config.sections.Resources`. Jobs that do not load the model get the entry as it stands. For the others

- memory (MB) = ``mem_mb`` + ``model_copies`` x weights + ``mem_mb_per_fact`` x batch;
- minutes = ``runtime`` + ``runtime_per_billion`` x billions of parameters; for a cell the second term is multiplied by
  edits / 1,000, and ``runtime_per_1000_edits`` x edits / 1,000 is added;
- GPUs = ``gpu``, or one from ``gpu_from`` billions of parameters on.

Memory doubles with each retry, so that a job that was killed for its memory gets through; minutes do not, because a
time above the partition's limit would wait for ever.
"""

from __future__ import annotations

import math

from editlab.config.sections import HubModel, Resources, SubstrateModel
from editlab.config.study import Study

_BYTES = {"float64": 8, "float32": 4, "auto": 4, "bfloat16": 2, "float16": 2}
Model = SubstrateModel | HubModel


def of_rule(study: Study, rule: str) -> Resources:
    """The entry of a rule, completed from ``default``."""
    given = {
        field: getattr(entry, field)
        for name in ("default", rule)
        if (entry := study.resources.get(name)) is not None
        for field in entry.model_fields_set
    }
    return Resources(**given)


def billions(model: Model) -> float:
    """Parameters in billions: counted for a substrate, as configured for a hub model (0 where it is not)."""
    if isinstance(model, HubModel):
        return (model.parameters or 0.0) / 1e9
    inner = model.inner or 4 * model.width
    block = 4 * model.width**2 + (3 if model.architecture == "llama" else 2) * model.width * inner
    embeddings = (2 if model.architecture == "llama" else 1) * model.vocabulary + model.context
    return (model.layers * block + embeddings * model.width) / 1e9


def weights_mb(model: Model) -> float:
    """Size of the weights in MB (1e6 bytes)."""
    dtype = model.dtype if isinstance(model, HubModel) else "float32"
    return billions(model) * 1e3 * _BYTES[dtype]


def memory(study: Study, rule: str, attempt: int = 1, model: str | None = None, batch: int = 0) -> int:
    """MB of a job; ``attempt`` counts from 1."""
    entry = of_rule(study, rule)
    amount = float(entry.mem_mb)
    if model is not None:
        amount += entry.model_copies * weights_mb(study.models[model]) + entry.mem_mb_per_fact * batch
    return math.ceil(amount) * 2 ** (attempt - 1)


def minutes(study: Study, rule: str, model: str | None = None, edits: int | None = None) -> int:
    """Time limit of a job in minutes; ``edits`` is given for cells."""
    entry = of_rule(study, rule)
    amount = float(entry.runtime)
    thousands = 1.0 if edits is None else edits / 1000
    if edits is not None:
        amount += entry.runtime_per_1000_edits * thousands
    if model is not None:
        amount += entry.runtime_per_billion * billions(study.models[model]) * thousands
    return math.ceil(amount)


def gpus(study: Study, rule: str, model: str | None = None) -> int:
    """Number of GPUs of a job."""
    entry = of_rule(study, rule)
    large = model is not None and entry.gpu_from is not None and billions(study.models[model]) >= entry.gpu_from
    return max(entry.gpu, 1) if large else entry.gpu


def is_small(study: Study, rule: str, model: str) -> bool:
    """Whether jobs of the rule are so short that several should share one submission; False where the size is unknown."""
    chosen = study.models[model]
    known = isinstance(chosen, SubstrateModel) or chosen.parameters is not None
    return known and billions(chosen) < of_rule(study, rule).group_below
