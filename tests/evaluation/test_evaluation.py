"""The evaluation room against naive references, hand-computed examples and a real pretrained model."""

from __future__ import annotations

import dataclasses
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import FAMILIES, tiny_model, tiny_requests
from zoo import TOKENIZERS, tokenizer

from editlab.config.preparation import ContextTemplates
from editlab.data.probes import Probe
from editlab.errors import ConfigError, DataError, ModelError
from editlab.evaluation import evaluate
from editlab.evaluation.generation import make_contexts
from editlab.evaluation.perplexity import perplexity
from editlab.evaluation.scoring import check_prompts, pack, score_requests, score_targets
from editlab.evaluation.summary import summarize

TARGETS = ("Paris", "Madrid", "Portuguese", "Buenos Aires", "Rome")


def naive(model, prompt: str, target: str) -> tuple[float, bool]:
    """One full forward pass over prompt and target, as one would write it on a blackboard."""
    tokenizer = model.tokenizer
    prompt_ids = tokenizer(prompt).input_ids
    target_ids = tokenizer(" " + target, add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = model(torch.tensor([prompt_ids + target_ids])).logits[0, len(prompt_ids) - 1 : -1]
    log_probs = logits.log_softmax(-1)[range(len(target_ids)), target_ids]
    return float(log_probs.mean()), bool((logits.argmax(-1) == torch.tensor(target_ids)).all())


def greedy_target(model, prompt: str, tokens: int) -> str:
    """Text that the model continues a prompt with: a target that is right."""
    ids = torch.tensor([model.tokenizer(prompt).input_ids])
    for _ in range(tokens):
        ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return model.tokenizer.decode(ids[0, -tokens:])


def sample_pairs(n: int = 6) -> list[tuple[str, str]]:
    prompts = [p for r in tiny_requests(n) for p in (r.rewrite_prompt, *r.paraphrase_prompts)]
    return [(prompt, target) for prompt in prompts for target in TARGETS]


def naive_joined(model, prompt: str, target: str) -> float:
    """Plain teacher forcing on the running text: mean over the tokens from the end of the prompt on."""
    encoded = model.tokenizer(f"{prompt} {target}")
    ids, offsets = encoded.input_ids, encoded.encodings[0].offsets
    ids = ids[:-1] if len(model.tokenizer("").input_ids) > 1 else ids  # a token after every text is no part of it
    wanted = [i for i in range(len(ids)) if offsets[i][0] >= len(prompt)]
    with torch.no_grad():
        log_probs = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(torch.stack([log_probs[i - 1, ids[i]] for i in wanted]).mean())


@pytest.fixture(scope="module")
def gpt2():
    return tiny_model("gpt2")


class TestScoring:
    @pytest.mark.parametrize("family", FAMILIES)
    def test_equals_one_full_forward_per_pair(self, family):
        model, pairs = tiny_model(family), sample_pairs()
        scores = score_targets(model, pairs, max_tokens=64)
        expected = [naive(model, *pair) for pair in pairs]
        np.testing.assert_allclose(scores.log_prob, [e[0] for e in expected], atol=1e-5)
        assert scores.correct.tolist() == [e[1] for e in expected]
        assert {1, 2, 8} <= set(scores.tokens.tolist())

    @pytest.mark.parametrize("family", ["gpt2", "gptj", "llama"])
    def test_what_the_model_says_is_correct(self, family):
        model = tiny_model(family)
        found = []
        for request in tiny_requests(12):
            for tokens in (1, 2, 3):
                text = greedy_target(model, request.rewrite_prompt, tokens)
                if text.startswith(" ") and text.strip() == text[1:]:
                    found.append((request.rewrite_prompt, text[1:]))
        expected = [naive(model, *pair)[1] for pair in found]
        assert any(expected)
        assert score_targets(model, found).correct.tolist() == expected

    @pytest.mark.parametrize("max_tokens", [1, 17, 100, 16384])
    def test_packing_changes_nothing(self, gpt2, max_tokens):
        pairs = sample_pairs()
        reference = score_targets(gpt2, pairs, max_tokens=300)
        order = list(range(len(pairs)))
        random.Random(3).shuffle(order)
        shuffled = score_targets(gpt2, [pairs[i] for i in order], max_tokens=max_tokens)
        np.testing.assert_allclose(shuffled.log_prob, reference.log_prob[order], atol=1e-5)
        assert (shuffled.correct == reference.correct[order]).all()

    def test_small_logit_budget_changes_nothing(self, gpt2, monkeypatch):
        pairs = sample_pairs()
        reference = score_targets(gpt2, pairs)
        monkeypatch.setattr("editlab.evaluation.scoring.LOGIT_BUDGET", 3 * 400)
        np.testing.assert_allclose(score_targets(gpt2, pairs).log_prob, reference.log_prob, atol=1e-5)

    def test_a_prompt_runs_once_for_all_its_targets(self, gpt2, monkeypatch):
        rows: list[int] = []

        def count(_module, _args, kwargs):
            if kwargs.get("past_key_values") is None:
                rows.append(len(kwargs["input_ids"]))

        prompts = [r.rewrite_prompt for r in tiny_requests(5)]
        handle = gpt2.base_model.register_forward_pre_hook(count, with_kwargs=True)
        try:
            scores = score_targets(gpt2, [(p, t) for p in prompts for t in TARGETS] * 2)
        finally:
            handle.remove()
        assert sum(rows) == len(prompts)
        assert (scores.log_prob[: len(prompts) * 5] == scores.log_prob[len(prompts) * 5 :]).all()

    def test_leaves_the_model_as_it_was(self, gpt2):
        gpt2.train()
        before = {k: v.clone() for k, v in gpt2.state_dict().items()}
        first = score_targets(gpt2, sample_pairs(2))
        assert gpt2.training
        assert all(p.requires_grad and p.grad is None for p in gpt2.parameters())
        assert all(torch.equal(v, before[k]) for k, v in gpt2.state_dict().items())
        gpt2.eval()
        assert (first.log_prob == score_targets(gpt2, sample_pairs(2)).log_prob).all(), "dropout was on"

    @pytest.mark.parametrize("kind", TOKENIZERS)
    def test_equals_teacher_forcing_on_the_running_text(self, kind):
        """Whatever a tokenizer does with spaces: byte-level, SentencePiece, WordPiece, with and without BOS, ..."""
        model = tiny_model("llama", vocab_size=1000)
        model.tokenizer = tokenizer(kind)
        pairs = [(p, t) for p in ("They live in", "She plays the") for t in ("London", "red house", "piano", "O'Brien")]
        scores = score_targets(model, pairs)
        np.testing.assert_allclose(scores.log_prob, [naive_joined(model, *p) for p in pairs], atol=1e-5)

    def test_half_precision_model_scores_in_float32(self):
        model = tiny_model("llama").to(torch.bfloat16)
        pairs = sample_pairs(2)
        scores = score_targets(model, pairs)
        np.testing.assert_allclose(scores.log_prob, [naive(model.float(), *p)[0] for p in pairs], atol=0.1)

    def test_a_model_of_nan_predicts_nothing(self):
        model = tiny_model("gpt2")
        with torch.no_grad():
            model.transformer.h[1].mlp.c_proj.weight.fill_(math.nan)
        scores = score_targets(model, sample_pairs(2))
        assert (scores.log_prob == -math.inf).all()
        assert not scores.correct.any()
        summary = evaluate(model, tiny_requests(3), resamples=10)
        assert (summary["value"] == 0).all()
        assert perplexity(model, ["Anna and the doctor"]) == math.inf

    def test_empty_and_bad_input(self, gpt2):
        assert len(score_targets(gpt2, []).log_prob) == 0
        with pytest.raises(ConfigError, match="max_tokens: 0"):
            score_targets(gpt2, [("a", "b")], max_tokens=0)
        with pytest.raises(DataError, match=r"is blank|no tokens|empty"):
            score_targets(gpt2, [("It is", "fine"), ("It is", "")])
        with pytest.raises(DataError, match="prompt '' has no tokens"):
            score_targets(gpt2, [("", "fine")])
        with pytest.raises(ModelError, match="context holds 128"):
            score_targets(gpt2, [("a b " * 200, "c")])
        with pytest.raises(ConfigError, match="probes: 'other'"):
            score_requests(gpt2, tiny_requests(1), ("other",))

    def test_what_is_too_long_is_found_before_anything_is_edited(self, gpt2):
        request, *others = tiny_requests(3)
        check_prompts(gpt2, [request, *others])
        long = "a b " * 200
        neighbours = {"neighborhood_prompts": (long,), "neighborhood_targets": ("c",)}
        asked = Probe.simple("Reasoning", long, ("c",))
        for changed in ({"paraphrase_prompts": (long,)}, neighbours, {"probes": (asked,)}, {"target_true": long}):
            with pytest.raises(ModelError, match=r"context holds 128 \(it begins with"):
                check_prompts(gpt2, [*others, dataclasses.replace(request, **changed)])

    def test_pack(self):
        assert pack([5, 1, 3, 1, 9], 6) == [[1, 3], [2], [0], [4]]
        assert pack([], 6) == []


class TestRequests:
    def test_conventions(self, gpt2):
        requests = tiny_requests(4)
        frame = score_requests(gpt2, requests).set_index(["case_id", "probe", "index"])
        assert len(frame) == 4 * (1 + 2 + 3)
        request = requests[1]
        (new, new_right), (true, true_right) = (
            naive(gpt2, request.rewrite_prompt, t) for t in (request.target_new, request.target_true)
        )
        row = frame.loc[(request.case_id, "rewrite", 0)]
        assert row["log_prob_new"] == pytest.approx(new, abs=1e-5)
        assert row["success"] == float(new > true)
        assert row["accuracy"] == float(new_right)
        assert row["magnitude"] == pytest.approx(math.exp(new) - math.exp(true), abs=1e-6)
        prompt, right = request.neighbors()[2]
        (new, _), (true, true_right) = (naive(gpt2, prompt, t) for t in (request.target_new, right))
        row = frame.loc[(request.case_id, "neighborhood", 2)]
        assert row["log_prob_true"] == pytest.approx(true, abs=1e-5)
        assert row["success"] == float(true > new)
        assert row["accuracy"] == float(true_right)
        assert row["magnitude"] == pytest.approx(math.exp(true) - math.exp(new), abs=1e-6)

    def test_a_neighbour_keeps_its_own_answer(self, gpt2):
        import dataclasses

        request = dataclasses.replace(tiny_requests(1)[0], neighborhood_targets=("Oslo", "taxi driver", "Rome"))
        frame = score_requests(gpt2, [request], ("neighborhood",))
        for (prompt, right), (_, row) in zip(request.neighbors(), frame.iterrows(), strict=True):
            assert row["log_prob_true"] == pytest.approx(naive(gpt2, prompt, right)[0], abs=1e-5)

    def test_evaluate_is_summary_of_scores_and_ignores_order(self, gpt2):
        requests = tiny_requests(6)
        summary = evaluate(gpt2, requests, resamples=50)
        pd.testing.assert_frame_equal(summary, summarize(score_requests(gpt2, requests), resamples=50))
        pd.testing.assert_frame_equal(summary, evaluate(gpt2, requests[::-1], resamples=50), rtol=1e-5)

    def test_package_imports_nothing_heavy(self):
        code = "import sys, editlab.evaluation; print(sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)))"
        root = Path(__file__).parents[2]
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
        assert result.stdout.strip() == "[]"


class TestRealModel:
    """stories260K: a pretrained Llama-architecture model of 260,032 parameters."""

    SENTENCES = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside.",
        "One day, a boy went to the park with his mom. He saw a big dog.",
        "The cat was very happy. She said thank you to her friend.",
    )

    @pytest.fixture(scope="class")
    def stories(self, shared_data):
        from editlab.networks.loading import load_model

        path = shared_data / "models" / "stories260K"
        if not path.is_dir():
            pytest.skip(f"{path} is absent")
        return load_model(path)

    def test_english_beats_shuffled_words(self, stories):
        for number, text in enumerate(self.SENTENCES):
            words = text.split()
            random.Random(number).shuffle(words)
            assert perplexity(stories, [text]) < 0.5 * perplexity(stories, [" ".join(words)])

    def test_scores_equal_naive_and_prefer_sense(self, stories):
        prompt = "Once upon a time, there was a little"
        pairs = [(prompt, target) for target in ("girl", "girl named Lily", "seven", "Lily girl named")]
        scores = score_targets(stories, pairs)
        np.testing.assert_allclose(scores.log_prob, [naive_joined(stories, *p) for p in pairs], atol=1e-5)
        assert scores.log_prob[0] > scores.log_prob[2]
        assert scores.log_prob[1] > scores.log_prob[3]
        assert scores.correct[0]

    def test_contexts_read_like_text(self, stories):
        contexts = make_contexts(stories, ContextTemplates())
        assert len(set(contexts[1])) > 5
        assert all(t.count("{}") == 1 for t in contexts[1])
