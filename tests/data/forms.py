"""Records with the field names and shapes of the published data sets, made up: ``from forms import RECORDS``."""

from __future__ import annotations

from typing import Any


def query(
    prompt: str, value: str, *aliases: str, subject: str = "Q1", relation: str = "MOTHER", **more: Any
) -> dict[str, Any]:
    """A query of RippleEdits."""
    answers = [{"value": value, "aliases": list(aliases)}]
    known = {"query_type": "regular", "subject_id": subject, "relation": relation, "target_ids": ["Q7"], "phrase": None}
    return {"prompt": prompt, "answers": answers, **known, **more}


def case(*queries: dict[str, Any], condition: str = "OR", given: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    """A test of RippleEdits."""
    return {"test_queries": list(queries), "test_condition": condition, "condition_queries": given or []}


MOTHER = query("The name of the mother of Ann Bell is", "Eve Bell", "Eve B.", "E")
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the country of citizenship of Ann Bell is Peru.",
        "subject_id": "Q1",
        "relation": "COUNTRY_OF_CITIZENSHIP",
        "target_id": "Q8",
        "previous_fact": {
            "prompt": "The name of the country of citizenship of Ann Bell is Portugal.",
            "subject_id": "Q1",
            "relation": "COUNTRY_OF_CITIZENSHIP",
            "target_id": "Q9",
        },
    },
    "Relation_Specifity": [case(MOTHER, given=[MOTHER])],
    "Logical_Generalization": [case(query("Ann Bell's passport is from", "Peru"), MOTHER, condition="AND")],
    "Subject_Aliasing": [
        case(
            query(
                "The name of the country of citizenship of A. Bell is",
                "Peru",
                "Republic of Peru",
                relation="COUNTRY_OF_CITIZENSHIP",
                target_ids=["Q8"],
            )
        )
    ],
    "Compositionality_I": [
        case(
            query("The capital of the country of Ann Bell is", "Lima"), given=[query("The capital of Peru is", "Lima")]
        )
    ],
    "Compositionality_II": [case(query("The home of Bo's mother is", "x"))],  # one character: no answer is left
    "Forgetfulness": [],
}
RECENT = {
    **RIPPLE,
    "example_type": "recent",
    "edit": {
        "prompt": "The name of the position held by Cy Dow is mayor of Oslo.",
        "subject_id": "Q1",
        "relation": "POSITION_HELD",
        "target_id": "Q5",
    },
    "Relation_Specificity": [case(query("The name of the mother of Cy Dow is", "Flo Dow"))],
}
KNOWEDIT = {
    "subject": "Ann Bell",
    "prompt": "The name of the country of citizenship of Ann Bell is",
    "target_new": "Peru",
    "ground_truth": ["Portugal", "Portuguese Republic"],
    "portability": {
        "Logical_Generalization": [{"prompt": "Is Ann Bell a citizen of Peru?", "ground_truth": [["Yes"]]}],
        "Reasoning": [
            {"prompt": "The capital of the country of Ann Bell is", "ground_truth": [["Lima", "City of Kings"]]}
        ],
        "Subject_Aliasing": [{"prompt": "The country of A. Bell is", "ground_truth": "Peru"}],
    },
    "locality": {
        "Relation_Specificity": [{"prompt": "The mother of Ann Bell is", "ground_truth": [["Eve Bell"], ["E. Bell"]]}],
        "Forgetfulness": [{"prompt": "The country of Ann Bell, which is not Peru, is", "ground_truth": [[]]}],
    },
    "rephrase": "Ann Bell is a citizen of",
    "cond": "x",
}
WIKIBIO = {
    "text": "This is a Wikipedia passage about ann bell. Ann Bell was born in 1901.",
    "labels": "She was a harpist from Lisbon.",
    "concept": "Ann Bell",
    "locality": {"Relation_Specificity": [{"prompt": "The occupation of Ann Bell is", "ground_truth": ["harpist"]}]},
}
QAEDIT = {
    "id": 4,
    "source": "nq",
    "prompt": "who wrote the song Blue Harp",
    "target": ["Ann Bell", "A. Bell"],
    "subject": "Blue Harp",
    "rephrase": "the song Blue Harp was written by whom",
    "locality": [{"loc": "where is Lima", "loc_ans": "Peru"}, {"loc": "who is Bo", "loc_ans": []}],
}
MQUAKE = {
    "case_id": 12,
    "requested_rewrite": [
        {
            "prompt": "{} is a citizen of",
            "relation_id": "P27",
            "target_new": {"str": "Peru", "id": "Q8"},
            "target_true": {"str": "Portugal", "id": "Q9"},
            "subject": "Ann Bell",
            "question": "What is the country of citizenship of Ann Bell?",
        },
        {
            "prompt": "The capital of {} is",
            "relation_id": "P36",
            "target_new": {"str": "Cusco", "id": "Q3"},
            "target_true": {"str": "Lima", "id": "Q4"},
            "subject": "Peru",
            "question": "What is the capital of Peru?",
        },
    ],
    "questions": ["What is the capital of the country of Ann Bell?", "Which city is it?", "Ann Bell's capital?"],
    "answer": "Lisbon",
    "answer_alias": ["Lisboa"],
    "new_answer": "Cusco",
    "new_answer_alias": ["Cuzco"],
    "single_hops": [{"question": "q", "cloze": "c", "answer": "a", "answer_alias": []}],
    "new_single_hops": [
        {
            "question": "What is the country of Ann Bell?",
            "cloze": "Ann Bell is from",
            "answer": "Peru",
            "answer_alias": [],
        },
        {"question": "What is the capital of Peru?", "cloze": "c", "answer": "Cusco", "answer_alias": ["Cuzco"]},
    ],
    "orig": {"triples": [], "edit_triples": []},
}
PEAK = {
    "case_id": 0,
    "requested_rewrite": {
        "prompt": "{} shares border with",
        "relation_id": "P47",
        "target_new": {"str": "Peru"},
        "target_true": {"str": "Spain"},
        "subject": "Portugal",
    },
    "postive_list": ["Spain", "Galicia"],
    "negtive_list": ["Chile"],
    "para_add_prompts": ["Portugal is adjacent to"],
    "neighborhood_prompts": [["Ann Bell is a citizen of", "Spain"], ["Bo lives in", "Galicia"]],
    "negtive_random_list": ["harp"],
}
RELATION = {
    "name": "country capital",
    "prompt_templates": ["The capital of {} is", "{}, whose capital is"],
    "prompt_templates_zs": ["The capital city of {} is"],
    "properties": {"relation_type": "factual", "symmetric": False},
    "samples": [
        {"subject": "Peru", "object": "Lima"},
        {"subject": "Republic of Peru", "object": "Lima"},
        {"subject": "Portugal", "object": "Lisbon"},
        {"subject": "Spain", "object": "Madrid"},
        {"subject": "Spain", "object": "Toledo"},
    ],
}
COUNTERFACT = {
    "case_id": 7,
    "pararel_idx": 3,
    "requested_rewrite": {
        "prompt": "{} is a citizen of",
        "relation_id": "P27",
        "target_new": {"str": "Peru", "id": "Q8"},
        "target_true": {"str": "Portugal", "id": "Q9"},
        "subject": "Ann Bell",
    },
    "paraphrase_prompts": ["It rained. Ann Bell votes in"],
    "neighborhood_prompts": ["Bo Dow is a citizen of", {"prompt": "Cy Dow lives in", "target": "Spain"}],
    "attribute_prompts": ["Eve Roe is a citizen of"],
    "generation_prompts": ["Ann Bell is known for"],
}
EASYEDIT = {
    "case_id": 7,
    "prompt": "Ann Bell is a citizen of",
    "subject": "Ann Bell",
    "target_new": "Peru",
    "ground_truth": "Portugal",
    "rephrase_prompt": "It rained. Ann Bell votes in",
    "locality_prompt": "Bo Dow is a citizen of",
    "locality_ground_truth": "Spain",
    "portability_prompt": "The capital of the country of Ann Bell is",
    "portability_ground_truth": "Lima",
    "source": "x",
}
ZSRE = {
    "subject": "Ann Bell",
    "src": "Which country is Ann Bell a citizen of?",
    "pred": "Spain",
    "rephrase": "Of which country is Ann Bell a citizen?",
    "alt": "Portugal",
    "answers": ["Peru"],
    "loc": "nq question: where is Lima",
    "loc_ans": "Peru",
    "cond": "Spain >> Portugal || Which country is Ann Bell a citizen of?",
}
RECORDS = {
    "counterfact": COUNTERFACT,
    "easyedit": EASYEDIT,
    "zsre": ZSRE,
    "ripple": RIPPLE,
    "knowedit": KNOWEDIT,
    "qaedit": QAEDIT,
    "mquake": MQUAKE,
    "peak": PEAK,
    "relations": RELATION,
}
