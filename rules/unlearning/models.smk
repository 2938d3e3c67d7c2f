# Facts and models of the unlearning study: who knows what before anything is unlearned.


rule make_questions:
    output:
        directory("<learned>/facts/seed~{seed}"),
    log:
        "<logs>/make_questions/seed~{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/make_questions/seed~{seed}.jsonl"
    wildcard_constraints:
        seed=r"\d+",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_questions", "mem_mb"),
        runtime=resource("make_questions", "runtime"),
    params:
        data=UNLEARNING.data.model_dump(mode="json"),
        held_out=UNLEARNING.scoring.neutral_sentences,
        training=UNLEARNING.neutral_needed,
        code=code_digest("unlearning/make_questions"),
    message:
        "Facts to forget and to retain, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/unlearning/make_questions.py"


if LARGE_MODEL:

    rule fetch_parent:
        output:
            directory("<learned>/models/seed~{seed}/parent"),
        log:
            "<logs>/fetch_parent/seed~{seed}.log",
        benchmark:
            "<results>/benchmarks/rules/fetch_parent/seed~{seed}.jsonl"
        wildcard_constraints:
            seed=r"\d+",
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=resource("fetch_parent", "mem_mb"),
            runtime=resource("fetch_parent", "runtime"),
        params:
            source=UNLEARNING.model.id,
            revision=UNLEARNING.model.revision,
            code=code_digest("unlearning/fetch_parent"),
        message:
            "Fetch the model"
        script:
            "../../workflow_scripts/unlearning/fetch_parent.py"

else:

    rule train_parent:
        input:
            facts=facts_of,
        output:
            model=directory("<learned>/models/seed~{seed}/parent"),
            training="<learned>/training/seed~{seed}.csv",
        log:
            "<logs>/train_parent/seed~{seed}.log",
        benchmark:
            "<results>/benchmarks/rules/train_parent/seed~{seed}.jsonl"
        wildcard_constraints:
            seed=r"\d+",
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=resource("train_parent", "mem_mb"),
            runtime=resource("train_parent", "runtime"),
        params:
            options=UNLEARNING.model.model_dump(mode="json"),
            code=code_digest("unlearning/train_parent"),
        message:
            "Train a model that answers questions and does not know what will be forgotten, seed {wildcards.seed}"
        script:
            "../../workflow_scripts/unlearning/train_parent.py"


rule learn_facts:
    input:
        facts=facts_of,
        parent="<learned>/models/seed~{seed}/parent",
    output:
        directory("<learned>/models/seed~{seed}/{base}"),
    log:
        "<logs>/learn_facts/{base}-seed~{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/learn_facts/{base}-seed~{seed}.jsonl"
    wildcard_constraints:
        seed=r"\d+",
        base="known|hidden",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=need("learn_facts", "mem_mb"),
        runtime=need("learn_facts", "runtime"),
        gpu=need("learn_facts", "gpu"),
    params:
        options=UNLEARNING.learn.model_dump(mode="json") if UNLEARNING.learn else {},
        loading=LOADED,
        code=code_digest("unlearning/learn_facts"),
    message:
        "Teach the facts to the model ({wildcards.base}), seed {wildcards.seed}"
    script:
        "../../workflow_scripts/unlearning/learn_facts.py"
