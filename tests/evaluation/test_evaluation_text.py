"""Perplexity and generated text against naive loops and hand-computed examples."""

from __future__ import annotations

import math

import pytest
import torch
from tiny import FAMILIES, tiny_model

from editlab.config.preparation import ContextTemplates
from editlab.errors import ConfigError, DataError, ModelError
from editlab.evaluation.generation import generate, make_contexts, ngram_entropy
from editlab.evaluation.perplexity import negative_log_likelihood, perplexity


@pytest.fixture(scope="module")
def gpt2():
    return tiny_model("gpt2")


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

    def test_the_likeliest_token_is_that_of_a_naive_loop_despite_padding(self, gpt2, monkeypatch):
        monkeypatch.setattr("editlab.evaluation.generation.TOP_K", 1)
        texts = generate(gpt2, self.PROMPTS, 6, allow_end=False)
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
        with pytest.raises(ConfigError, match="max_new_tokens: 0"):
            generate(gpt2, ["A"], 0)
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
        options = ContextTemplates(lengths=[3, 6], per_length=3, seed=1)
        contexts = make_contexts(gpt2, options)
        assert contexts[0] == ["{}"]
        assert len(contexts) == 2
        assert len(contexts[1]) == 6
        assert all(t.endswith(". {}") and t.count("{") == t.count("}") == 1 for t in contexts[1])
        assert all(t.startswith(s) for t, s in zip(contexts[1], 2 * ["The", "Therefore", "Because"], strict=True))
        assert contexts == make_contexts(gpt2, options)
        assert contexts != make_contexts(gpt2, options.model_copy(update={"seed": 2}))
        assert make_contexts(gpt2, ContextTemplates(lengths=[])) == [["{}"]]

    def test_braces_in_generated_text_go(self, gpt2, monkeypatch):
        monkeypatch.setattr("editlab.evaluation.generation.generate", lambda *a, **k: ["The {odd}\n text"])
        assert make_contexts(gpt2, ContextTemplates(lengths=[3], per_length=1)) == [["{}"], ["The odd text. {}"]]
