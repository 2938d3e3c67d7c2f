"""The evaluation room against naive references, hand-computed examples and a real pretrained model."""

from __future__ import annotations

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

from editlab.errors import ConfigError, DataError, ModelError
from editlab.evaluation import evaluate
from editlab.evaluation.generation import generate, make_contexts, ngram_entropy
from editlab.evaluation.perplexity import negative_log_likelihood, perplexity
from editlab.evaluation.retention import retention
from editlab.evaluation.scoring import pack, score_requests, score_targets
from editlab.evaluation.summary import harmonic_mean, per_case, summarize

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
        with pytest.raises(DataError, match="target is blank"):
            score_targets(gpt2, [("It is", "fine"), ("It is", "")])
        with pytest.raises(DataError, match="prompt '' has no tokens"):
            score_targets(gpt2, [("", "fine")])
        with pytest.raises(ModelError, match="context holds 128"):
            score_targets(gpt2, [("a b " * 200, "c")])
        with pytest.raises(ConfigError, match="probes: 'other'"):
            score_requests(gpt2, tiny_requests(1), ("other",))

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


def frame_of(rows: list[tuple[str, str, int, float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["case_id", "probe", "index", "success", "accuracy", "magnitude"])


@pytest.fixture
def three_cases() -> pd.DataFrame:
    return frame_of(
        [
            ("a", "rewrite", 0, 1, 1, 0.5),
            ("b", "rewrite", 0, 1, 0, 0.2),
            ("c", "rewrite", 0, 0, 0, -0.1),
            ("a", "paraphrase", 0, 1, 1, 0.4),
            ("a", "paraphrase", 1, 0, 0, -0.2),
            ("b", "paraphrase", 0, 1, 0, 0.1),
            ("c", "paraphrase", 0, 0, 0, 0.0),
            ("a", "neighborhood", 0, 1, 1, 0.3),
            ("b", "neighborhood", 0, 1, 1, 0.3),
            ("b", "neighborhood", 1, 1, 0, 0.1),
            ("c", "neighborhood", 0, 0, 0, -0.3),
        ]
    )


def value(summary: pd.DataFrame, metric: str, protocol: str = "success", column: str = "value") -> float:
    row = summary[(summary["metric"] == metric) & (summary["protocol"] == protocol)]
    assert len(row) == 1
    return row[column].iloc[0]


class TestSummary:
    def test_by_hand(self, three_cases):
        summary = summarize(three_cases)
        assert list(summary.columns) == ["metric", "protocol", "value", "n", "ci_low", "ci_high"]
        assert len(summary) == 11
        assert value(summary, "ES") == pytest.approx(2 / 3)
        assert value(summary, "PS") == pytest.approx((0.5 + 1 + 0) / 3)
        assert value(summary, "NS") == pytest.approx(2 / 3)
        assert value(summary, "S") == pytest.approx(3 / (1.5 + 2 + 1.5))
        assert value(summary, "NS", "accuracy") == pytest.approx((1 + 0.5 + 0) / 3)
        assert value(summary, "PS", "magnitude") == pytest.approx((0.1 + 0.1 + 0) / 3)
        assert (summary["n"] == 3).all()
        assert ((summary["ci_low"] <= summary["value"]) & (summary["value"] <= summary["ci_high"])).all()

    def test_intervals_are_seeded_and_know_no_order(self, three_cases):
        first = summarize(three_cases, seed=5)
        pd.testing.assert_frame_equal(first, summarize(three_cases.sample(frac=1, random_state=1), seed=5))
        many = frame_of([(str(i), "rewrite", 0, i % 2, i % 3 == 0, math.sin(i)) for i in range(30)])
        assert summarize(many, seed=5).equals(summarize(many, seed=5))
        assert not summarize(many, seed=5).equals(summarize(many, seed=6))

    def test_interval_covers_the_truth(self):
        rng = np.random.default_rng(0)
        hits = 0
        for trial in range(100):
            draws = rng.random(60) < 0.7
            frame = frame_of([(str(i), "rewrite", 0, float(d), float(d), 0.0) for i, d in enumerate(draws)])
            summary = summarize(frame, seed=trial, resamples=300)
            hits += value(summary, "ES", column="ci_low") <= 0.7 <= value(summary, "ES", column="ci_high")
        assert 86 <= hits <= 100

    def test_bootstrap_matches_resampling_written_out(self, three_cases):
        cases = per_case(three_cases)["ES"]["success"].to_numpy()
        means = [np.mean([cases[i], cases[j], cases[k]]) for i in range(3) for j in range(3) for k in range(3)]
        summary = summarize(three_cases, confidence=0.8, resamples=20_000)
        assert value(summary, "ES", column="ci_low") == pytest.approx(np.quantile(means, 0.1), abs=1e-9)
        assert value(summary, "ES", column="ci_high") == pytest.approx(np.quantile(means, 0.9), abs=1e-9)

    def test_absent_probe_set(self, three_cases):
        summary = summarize(three_cases[three_cases["probe"] != "paraphrase"])
        assert math.isnan(value(summary, "PS"))
        assert value(summary, "PS", column="n") == 0
        assert math.isnan(value(summary, "S"))
        assert value(summary, "ES") == pytest.approx(2 / 3)
        assert summarize(three_cases.iloc[:0])["value"].isna().all()

    def test_case_without_paraphrases_counts_elsewhere(self, three_cases):
        frame = three_cases[~((three_cases["probe"] == "paraphrase") & (three_cases["case_id"] == "c"))]
        summary = summarize(frame)
        assert value(summary, "PS") == pytest.approx(0.75)
        assert value(summary, "PS", column="n") == 2
        assert value(summary, "ES", column="n") == 3

    def test_harmonic_mean(self):
        parts = np.array([[1.0, 1.0, 1.0], [0.5, 0.25, 1.0], [0.0, 1.0, 1.0], [np.nan, 1.0, 0.0]])
        np.testing.assert_allclose(harmonic_mean(parts), [1.0, 3 / 7, 0.0, np.nan])

    def test_bad_arguments(self, three_cases):
        with pytest.raises(ConfigError, match="confidence: 1"):
            summarize(three_cases, confidence=1.5)
        with pytest.raises(ConfigError, match="resamples: -1"):
            summarize(three_cases, resamples=-1)
        assert summarize(three_cases, resamples=0)["ci_low"].isna().all()


class TestPerplexity:
    TEXTS = ("Anna Abel was born in Paris.", "A", "The doctor and the lawyer.", "Oslo and London " * 8)

    @pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
    @pytest.mark.parametrize("max_tokens", [1, 40, 16384])
    def test_equals_a_naive_loop(self, family, max_tokens):
        model = tiny_model(family)
        total, count = 0.0, 0
        for text in self.TEXTS:
            ids = torch.tensor([model.tokenizer(text).input_ids])
            with torch.no_grad():
                log_probs = model(ids).logits[0, :-1].log_softmax(-1)
            total -= float(log_probs[range(ids.shape[1] - 1), ids[0, 1:]].sum())
            count += ids.shape[1] - 1
        assert perplexity(model, self.TEXTS, max_tokens=max_tokens) == pytest.approx(math.exp(total / count), rel=1e-5)

    def test_long_texts_are_cut(self, gpt2):
        nll, tokens = negative_log_likelihood(gpt2, ["Oslo and London " * 200, "A"], max_length=10)
        assert tokens.tolist() == [9, 0]
        assert nll[1] == 0
        assert negative_log_likelihood(gpt2, ["Oslo and London " * 200])[1].tolist() == [127]

    def test_nothing_to_predict(self, gpt2):
        for texts in ([], ["A"]):
            with pytest.raises(DataError, match="two or more tokens"):
                perplexity(gpt2, texts)
        with pytest.raises(ConfigError, match="max_length: 1"):
            perplexity(gpt2, ["A b"], max_length=1)


class TestGeneration:
    PROMPTS = ("Anna Abel was born in", "The", "A lawyer and the")

    def test_greedy_equals_a_naive_loop_despite_padding(self, gpt2):
        texts = generate(gpt2, self.PROMPTS, 6, temperature=0, allow_end=False)
        for prompt, text in zip(self.PROMPTS, texts, strict=True):
            ids = torch.tensor([gpt2.tokenizer(prompt).input_ids])
            for _ in range(6):
                ids = torch.cat([ids, gpt2(ids).logits[:, -1:].argmax(-1)], 1)
            assert text == gpt2.tokenizer.decode(ids[0], skip_special_tokens=True)

    @pytest.mark.parametrize("family", FAMILIES)
    def test_seeded_without_touching_the_global_state(self, family):
        model = tiny_model(family)
        torch.manual_seed(11)
        state = torch.get_rng_state()
        first = generate(model, self.PROMPTS, 8, seed=1)
        assert torch.equal(torch.get_rng_state(), state)
        torch.manual_seed(12)
        assert generate(model, self.PROMPTS, 8, seed=1) == first
        assert generate(model, self.PROMPTS, 8, seed=2) != first
        assert all(text.startswith(prompt) for text, prompt in zip(first, self.PROMPTS, strict=True))

    def test_bad_arguments(self, gpt2):
        for argument in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": math.nan}, {"top_k": -1}):
            with pytest.raises(ConfigError, match=next(iter(argument))):
                generate(gpt2, ["A"], **{"max_new_tokens": 2, **argument})
        with pytest.raises(ModelError, match="context holds"):
            generate(gpt2, ["A"], 500)
        assert generate(gpt2, [], 3) == []
        assert len(generate(gpt2, [""], 3)) == 1

    def test_entropy_by_hand(self):
        # a b a b: bigrams ab, ba, ab -> H = log2(3) - 2/3; trigrams aba, bab -> H = 1
        expected = (2 / 3 * (math.log2(3) - 2 / 3) + 4 / 3 * 1) / 2
        assert ngram_entropy(["a b a b"]) == pytest.approx(expected)
        assert ngram_entropy(["a b a b", "a a a a"]) == pytest.approx(expected / 2)
        assert ngram_entropy(["one"]) == 0
        assert ngram_entropy(["x, y."]) == ngram_entropy(["x , y ."])
        with pytest.raises(DataError):
            ngram_entropy([])

    def test_contexts_are_grouped_and_seeded(self, gpt2):
        contexts = make_contexts(gpt2, [(3, 4), (6, 2)], seed=1)
        assert contexts[0] == ["{}"]
        assert len(contexts) == 2
        assert len(contexts[1]) == 6
        assert all(t.endswith(". {}") and t.count("{") == t.count("}") == 1 for t in contexts[1])
        assert all(t.startswith(s) for t, s in zip(contexts[1], ("The", "Therefore", "Because", "I"), strict=False))
        assert contexts == make_contexts(gpt2, [(3, 4), (6, 2)], seed=1)
        assert contexts != make_contexts(gpt2, [(3, 4), (6, 2)], seed=2)
        assert make_contexts(gpt2, []) == [["{}"]]

    def test_braces_in_generated_text_go(self, gpt2, monkeypatch):
        monkeypatch.setattr("editlab.evaluation.generation.generate", lambda *a, **k: ["The {odd}\n text"])
        assert make_contexts(gpt2, [(3, 1)]) == [["{}"], ["The odd text. {}"]]

    def test_bad_lengths(self, gpt2):
        with pytest.raises(ConfigError, match=r"contexts: \(0, 5\)"):
            make_contexts(gpt2, [(0, 5)])


class TestRetention:
    def test_by_age(self):
        now = frame_of([(c, "rewrite", 0, s, s, 0.0) for c, s in zip("abcdx", [0, 1, 1, 1, 0], strict=True)])
        then = frame_of([(c, "rewrite", 0, s, s, 0.0) for c, s in zip("abcd", [1, 0, 1, 1], strict=True)])
        curve = retention(now, {"a": 10, "b": 10, "c": 20, "d": 40}, 40, immediate=then, bins=2)
        assert curve["age_low"].tolist() == [0, 20]
        assert curve["age_high"].tolist() == [20, 40]
        assert curve["n"].tolist() == [1, 3]
        assert curve["success"].tolist() == [1.0, pytest.approx(2 / 3)]
        assert curve["immediate_success"].tolist() == [1.0, pytest.approx(2 / 3)]
        assert curve["retained"].tolist() == [1.0, 0.5]

    def test_edges_and_unknown(self):
        now = frame_of([("a", "rewrite", 0, 1.0, 0.0, 0.0), ("b", "rewrite", 0, 0.0, 0.0, 0.0)])
        curve = retention(now, {"a": 8, "b": 1}, 8, bins=[0, 1, 7])
        assert curve[["age_low", "age_high", "n"]].to_numpy().tolist() == [[0, 1, 1], [1, 7, 1]]
        assert curve["retained"].isna().all()
        assert retention(now, {"a": 8}, 8, bins=[2, 4]).empty
        with pytest.raises(DataError, match="'a' was inserted at 9"):
            retention(now, {"a": 9}, 8)
        with pytest.raises(ConfigError, match="bins"):
            retention(now, {"a": 1}, 8, bins=[3, 1])


class TestRealModel:
    """stories260K: a pretrained Llama-architecture model of 260,032 parameters."""

    SENTENCES = (
        "Once upon a time, there was a little girl named Lily. She loved to play outside.",
        "One day, a boy went to the park with his mom. He saw a big dog.",
        "The cat was very happy. She said thank you to her friend.",
    )

    @pytest.fixture(scope="class")
    def stories(self, shared_data):
        from editlab.models import load_model

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
        contexts = make_contexts(stories, [(5, 5), (10, 5)])
        assert len(set(contexts[1])) > 5
        assert all(t.count("{}") == 1 for t in contexts[1])


def naive_joined(model, prompt: str, target: str) -> float:
    """Tokens of the running text, split after the prompt's."""
    start = len(model.tokenizer(prompt).input_ids)
    ids = torch.tensor([model.tokenizer(f"{prompt} {target}").input_ids])
    with torch.no_grad():
        log_probs = model(ids).logits[0, start - 1 : -1].log_softmax(-1)
    return float(log_probs[range(ids.shape[1] - start), ids[0, start:]].mean())
