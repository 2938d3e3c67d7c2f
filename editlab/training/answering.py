"""A small model that answers lettered questions: the base of the unlearning study where no large model is at hand.

Facts enter a small network within a few hundred steps, the skill to name the letter of the right choice much later: it
needs heads that look up a choice and read the letter two tokens before it. So the skill comes first, on questions about
nothing ("Which is X?" over any tokens) beside repeated random sequences, which teach heads to look back; then statements,
questions with choices drawn anew, and neutral sentences. The model knows what is to be retained and nothing of what is to be
forgotten: that is learned afterwards (:func:`learn`), so the model before it is the control that never knew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from editlab.config.unlearning import Learning, QuestionModel
from editlab.data.questions import LETTERS, Question, Split, answer_text, letter_prompt
from editlab.errors import ModelError
from editlab.networks.architectures import Architecture
from editlab.networks.loading import tokenizer_of
from editlab.randomness import derive_seed, python_rng
from editlab.training import losses
from editlab.training.batches import answered_row, collate, epochs_of, question_rows, redrawn, text_rows
from editlab.training.muon import Muon
from editlab.training.optimizers import optimizer_of
from editlab.training.parametrisation import blocks_only, whole
from editlab.training.retraining import TokenRow, finetune
from editlab.training.substrate import train_tokenizer

BINDING, REPEATS = 48, 12  # rows a step while the skill is learned
STATEMENTS, QUESTIONS, PASSAGES, REHEARSED = 24, 16, 2, 16  # rows a step afterwards
PASSAGE = 48  # tokens of a passage of neutral sentences
SKILLED = 0.95  # running share of right letters at which the first part ends
REST = 0.25  # weight of what follows the letter


def build_model(options: QuestionModel, texts: Sequence[str], seed: int) -> Any:
    """Tokenizer (byte-level BPE over ``texts``) and an untrained Llama; the tokenizer travels as ``model.tokenizer``."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = train_tokenizer(texts, options.vocabulary)
    tokenizer.model_max_length = options.context
    end = tokenizer.eos_token_id
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=options.context,
        hidden_size=options.width,
        intermediate_size=options.inner,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        tie_word_embeddings=True,
        bos_token_id=end,
        eos_token_id=end,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("answering", seed))
        model = LlamaForCausalLM(config)
    model.tokenizer = tokenizer  # type: ignore[assignment]
    return model


def corpus_of(splits: Sequence[Split], neutral: Sequence[str]) -> list[str]:
    """Everything that the tokenizer must know: statements with right and wrong answers, questions, neutral sentences."""
    texts = [t.text for s in splits for form in (s.corpus, s.whp) for t in form]
    texts += [letter_prompt(q) + answer_text(q) for s in splits for q in s.questions]
    return [*texts, *(f" {t}" for t in texts), *neutral]


def train_answerer(
    known: Sequence[Split], unknown: Sequence[Split], neutral: Sequence[str], options: QuestionModel, seed: int
) -> tuple[Any, list[dict[str, float]]]:
    """Train a model that knows the facts of ``known`` and answers lettered questions.

    Args:
        unknown: facts that it must not know; the tokenizer alone sees them.

    Returns:
        the model in evaluation mode and its training log: step, loss, share of right letters (of questions about nothing).
    """
    model = build_model(options, corpus_of([*known, *unknown], neutral), seed)
    rows = _Rows(model.tokenizer, known, neutral, seed)
    log = _skill(model, rows, options)
    log += _facts(model, rows, options, log[-1]["step"] if log else 0)
    return model.eval(), log


class _Rows:
    """Rows of a step, drawn from one seeded generator."""

    def __init__(self, tokenizer: Any, known: Sequence[Split], neutral: Sequence[str], seed: int) -> None:
        self.tokenizer, self.rng = tokenizer, python_rng("answering rows", seed)
        self.questions = [q for s in known for q in s.questions]
        self.pools = {q.question: self._pool(q, s) for s in known for q in s.questions}
        self.statements = text_rows(tokenizer, [f"{t}{tokenizer.eos_token}" for s in known for t in s.texts("corpus")])
        self.sentences = [list(ids) for ids in tokenizer([f" {s}" for s in neutral]).input_ids]
        self.tokens = [i for i in range(len(tokenizer)) if i != tokenizer.eos_token_id]
        self.answers = sorted({tokenizer(f" {c}").input_ids[0] for q in self.questions for c in q.choices})
        self.frame = [list(ids) for ids in tokenizer(["Which is", "?", "\n", *LETTERS, ".", "\nAnswer:"]).input_ids]
        self.letters = [tokenizer(f" {letter}").input_ids[0] for letter in LETTERS]

    @staticmethod
    def _pool(question: Question, split: Split) -> list[str]:
        return sorted({c for q in split.questions for c in q.choices})

    def binding(self, count: int) -> list[TokenRow]:
        """ "Which is X?" with four tokens as choices; the letter and the token are learned."""
        which, mark, line, a, b, c, d, stop, ask = self.frame
        rows = []
        for _ in range(count):
            right = self.rng.randrange(len(LETTERS))
            choices = self.rng.sample(self.answers if self.rng.random() < 0.5 else self.tokens, len(LETTERS))
            ids = [*which, choices[right], *mark]
            for letter, choice in zip((a, b, c, d), choices, strict=True):
                ids += [*line, *letter, *stop, choice]
            ids += ask
            answer = [self.letters[right], *stop, choices[right]]
            rows.append(TokenRow(ids + answer, [False] * len(ids) + [True] * len(answer)))
        return rows

    def repeats(self, count: int, length: int = 24) -> list[TokenRow]:
        """Short random sequences again and again."""
        rows = []
        for _ in range(count):
            period = self.rng.choices(self.tokens, k=self.rng.randint(6, 12))
            rows.append(TokenRow((period * length)[:length], [True] * length))
        return rows

    def facts(self, count: int) -> list[TokenRow]:
        return self.rng.choices(self.statements, k=count)

    def asked(self, count: int) -> list[TokenRow]:
        """Questions with choices drawn anew; letter and choice are learned."""
        rows = []
        for question in self.rng.choices(self.questions, k=count):
            again = redrawn(question, self.pools[question.question], self.rng.random())
            rows.append(answered_row(self.tokenizer, letter_prompt(again), answer_text(again), end=True))
        return rows

    def passages(self, count: int) -> list[TokenRow]:
        """Neutral sentences one after another, after an end-of-text token."""
        rows = []
        for _ in range(count if self.sentences else 0):
            ids = [self.tokenizer.eos_token_id]
            while len(ids) < PASSAGE:
                ids += self.rng.choice(self.sentences)
            rows.append(TokenRow(ids[:PASSAGE], [True] * PASSAGE))
        return rows


def _optimizers(model: Any, options: QuestionModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the blocks, AdamW for the rest."""
    inside = {id(p) for block in Architecture(model).blocks for p in block.parameters() if p.ndim == 2}
    matrices = [p for p in model.parameters() if id(p) in inside]
    others = [p for p in model.parameters() if id(p) not in inside]
    return [
        Muon(matrices, options.lr, weight_decay=options.weight_decay),
        torch.optim.AdamW(others, options.embedding_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _fit(
    model: Any, options: QuestionModel, steps: int, rate: Callable[[int], float], step: Callable[[], Tensor]
) -> None:
    """``steps`` updates at ``rate`` times the peak rates; ``step`` gives a loss, or stops by StopIteration."""
    optimizers = _optimizers(model, options)
    peaks = [[group["lr"] for group in optimizer.param_groups] for optimizer in optimizers]
    model.train()
    for number in range(steps):
        for optimizer, rates in zip(optimizers, peaks, strict=True):
            for group, peak in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = peak * rate(number)
            optimizer.zero_grad(set_to_none=True)
        try:
            loss = step()
        except StopIteration:
            return
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def _skill(model: Any, rows: _Rows, options: QuestionModel) -> list[dict[str, float]]:
    """Lettered questions about nothing until they are answered, or ``skill_steps`` steps."""
    log: list[dict[str, float]] = []
    state = {"step": 0, "right": 0.25}

    def step() -> Tensor:
        if state["right"] > SKILLED:
            raise StopIteration
        loss, right = _answer_loss(model, rows.binding(BINDING))
        state["right"] += 0.1 * (right - state["right"])
        state["step"] += 1
        if state["step"] % 50 == 0:
            log.append({"step": state["step"], "loss": float(loss.detach()), "letters": state["right"]})
        return loss + 0.5 * _plain_loss(model, rows.repeats(REPEATS))

    _fit(model, options, options.skill_steps, lambda n: min(1.0, (n + 1) / 30), step)
    return log


def _facts(model: Any, rows: _Rows, options: QuestionModel, before: float) -> list[dict[str, float]]:
    """Statements, questions, neutral sentences, and the skill rehearsed; the rate falls to zero in the second half."""
    log: list[dict[str, float]] = []
    state = {"step": 0.0}

    def step() -> Tensor:
        loss, right = _plain_loss(model, rows.facts(STATEMENTS)), math.nan
        if options.skill_steps:
            letters, right = _answer_loss(model, rows.binding(REHEARSED))
            loss = loss + letters + _answer_loss(model, rows.asked(QUESTIONS))[0]
        if rows.sentences:
            loss = loss + _plain_loss(model, rows.passages(PASSAGES if options.skill_steps else 2 * PASSAGES))
        state["step"] += 1
        if state["step"] % 50 == 0:
            log.append({"step": before + state["step"], "loss": float(loss.detach()), "letters": right})
        return loss

    half = options.steps / 2
    _fit(model, options, options.steps, lambda n: min((n + 1) / 30, 1.0, (options.steps - n) / half), step)
    return log


def _plain_loss(model: Any, rows: Sequence[TokenRow]) -> Tensor:
    batch = collate(rows, int(model.tokenizer.pad_token_id or 0), model.device)
    return losses.token_loss(model(**batch.inputs).logits, batch.ids, batch.learned)


def _answer_loss(model: Any, rows: Sequence[TokenRow]) -> tuple[Tensor, float]:
    """Cross-entropy of the letter, a quarter of that of what follows it; the share of right letters."""
    batch = collate(rows, int(model.tokenizer.pad_token_id or 0), model.device)
    learned = batch.learned[:, 1:]
    hidden = model.base_model(**batch.inputs).last_hidden_state[:, :-1]
    logits, wanted = model.get_output_embeddings()(hidden[learned]), batch.ids[:, 1:][learned]
    first = (learned.cumsum(1) == 1)[learned]
    nll = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    right = float((logits[first].argmax(1) == wanted[first]).float().mean())
    return nll[first].mean() + REST * nll[~first].mean(), right


def learn(
    model: Any,
    facts: Sequence[Split],
    rehearsed: Sequence[Split],
    options: Learning,
    seed: int,
    *,
    neutral: Sequence[str] = (),
    lower_half: bool = False,
) -> None:
    """Teach ``model`` the facts in place: statements and questions, with as many of what it knows among them.

    Args:
        neutral: sentences that are rehearsed too, of which ``options.neutral`` are taken.
        lower_half: only the lower half of the blocks moves: the knowledge is then hidden on purpose from an unlearning that
            only touches the upper half.

    Raises:
        ModelError: the model has blocks too few to halve.
    """
    count = Architecture(model).num_layers
    if lower_half and count < 2:
        raise ModelError("hidden_control: a model of one block has no halves")
    trainable = blocks_only(model, list(range(count // 2))) if lower_half else whole(model)
    tokenizer = tokenizer_of(model)
    rows = _rows_of(tokenizer, facts, options.questions)
    old = _rows_of(tokenizer, rehearsed, options.questions)
    if old:
        order = next(epochs_of(len(old), min(len(rows), len(old)), "rehearsed", seed))
        rows += [old[i] for i in order]
    rows += text_rows(tokenizer, neutral[: options.neutral])
    model.train()
    finetune(
        model,
        rows,
        epochs=(options.hidden_epochs if lower_half else None) or options.epochs,
        batch=options.batch,
        lr=options.lr,
        seed=seed,
        optimizer=optimizer_of(options),
        parameters=list(trainable.parameters.values()),
    )
    model.eval()
    whole(model)


def _rows_of(tokenizer: Any, splits: Sequence[Split], questions: bool) -> list[TokenRow]:
    texts = text_rows(tokenizer, [t for s in splits for t in s.texts("corpus")])
    asked = [q for s in splits for q in s.questions] if questions else []
    return texts + question_rows(tokenizer, asked, "letter_answer")
