# Requests of every dataset, in one schema.


rule generate_facts:
    output:
        "<inputs>/data/{dataset}/requests.json",
    log:
        "<logs>/generate_facts/{dataset}.log",
    benchmark:
        "<inputs>/benchmarks/rules/generate_facts/{dataset}.jsonl"
    wildcard_constraints:
        dataset=names(FactsData, STUDY.datasets),
    group:
        small_jobs("generate_facts", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("generate_facts", "mem_mb"),
        runtime=resource("generate_facts", "runtime"),
    params:
        size=lambda w: STUDY.datasets[w.dataset].size,
        world_seed=lambda w: STUDY.datasets[w.dataset].seed,
        chains=lambda w: STUDY.datasets[w.dataset].chains,
        facts_a_subject=lambda w: STUDY.datasets[w.dataset].facts_a_subject,
        sweep_facts=lambda w: STUDY.datasets[w.dataset].sweep_facts,
        code=code_digest("edit/generate_facts"),
    message:
        "Generate the facts of {wildcards.dataset}"
    script:
        "../../workflow_scripts/edit/generate_facts.py"


rule download_dataset:
    output:
        "<inputs>/downloads/{dataset}.json",
    log:
        "<logs>/download_dataset/{dataset}.log",
    benchmark:
        "<inputs>/benchmarks/rules/download_dataset/{dataset}.jsonl"
    # The node of the submission is the one that has a network.
    localrule: True
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("download_dataset", "mem_mb"),
        runtime=resource("download_dataset", "runtime"),
    params:
        url=lambda w: STUDY.datasets[w.dataset].url,
        checksum=lambda w: STUDY.datasets[w.dataset].sha256,
        code=code_digest("edit/download_dataset"),
    message:
        "Download {wildcards.dataset}"
    script:
        "../../workflow_scripts/edit/download_dataset.py"


rule read_dataset:
    input:
        source=lambda w: dataset_source(w.dataset),
    output:
        requests="<inputs>/data/{dataset}/requests.json",
        account="<inputs>/data/{dataset}/account.json",
    log:
        "<logs>/read_dataset/{dataset}.log",
    benchmark:
        "<inputs>/benchmarks/rules/read_dataset/{dataset}.jsonl"
    wildcard_constraints:
        dataset=names(FileData, STUDY.datasets),
    group:
        small_jobs("read_dataset", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("read_dataset", "mem_mb"),
        runtime=resource("read_dataset", "runtime"),
    params:
        kind=lambda w: STUDY.datasets[w.dataset].kind,
        size=lambda w: STUDY.datasets[w.dataset].size,
        skip_invalid=lambda w: STUDY.datasets[w.dataset].skip_invalid,
        sha256=lambda w: STUDY.datasets[w.dataset].sha256,
        sweep_facts=lambda w: STUDY.datasets[w.dataset].sweep_facts,
        code=code_digest("edit/read_dataset"),
    message:
        "Read the records of {wildcards.dataset}"
    script:
        "../../workflow_scripts/edit/read_dataset.py"


rule fetch_text:
    output:
        "<inputs>/data/statistics_text.jsonl",
    log:
        "<logs>/fetch_text.log",
    benchmark:
        "<inputs>/benchmarks/rules/fetch_text.jsonl"
    # The node of the submission is the one that has a network.
    localrule: True
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("fetch_text", "mem_mb"),
        runtime=resource("fetch_text", "runtime"),
    params:
        hub=STUDY.statistics.hub.model_dump() if STUDY.statistics.hub else None,
        code=code_digest("edit/fetch_text"),
    message:
        "Fetch the text that second moments stream over"
    script:
        "../../workflow_scripts/edit/fetch_text.py"
