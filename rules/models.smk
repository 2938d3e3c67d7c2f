# Models: a substrate trained here, or one from the hub; the contexts that it writes; the layers that it keeps facts in.


rule train_substrate:
    input:
        requests=lambda w: f"results/data/{STUDY.models[w.model].dataset}/requests.json",
    output:
        model=directory("results/models/{model}"),
        training="results/training/{model}.csv",
    log:
        "logs/train_substrate/{model}.log",
    benchmark:
        "results/benchmarks/rules/train_substrate/{model}.jsonl"
    wildcard_constraints:
        model=names(SubstrateModel, STUDY.models),
    group:
        small_jobs("train_substrate", "prepare")
    conda:
        "../envs/editlab.yaml"
    threads: 2
    resources:
        mem_mb=resource("train_substrate", "mem_mb"),
        runtime=resource("train_substrate", "runtime"),
    params:
        options=lambda w: STUDY.models[w.model].model_dump(
            exclude={"source", "dataset"}
        ),
        # The weights do not depend on it: each step is two shards, side by side or one after the other.
        torch_threads=2,
        code=code_digest("training.substrate", "data"),
    message:
        "Train the substrate {wildcards.model} on its facts"
    script:
        "../workflow_scripts/train_substrate.py"


rule fetch_model:
    output:
        model=directory("results/models/{model}"),
    log:
        "logs/fetch_model/{model}.log",
    benchmark:
        "results/benchmarks/rules/fetch_model/{model}.jsonl"
    wildcard_constraints:
        model=names(HubModel, STUDY.models),
    # The node of the submission is the one that has a network.
    localrule: True
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("fetch_model", "mem_mb"),
        runtime=resource("fetch_model", "runtime"),
    params:
        source=lambda w: STUDY.models[w.model].id,
        revision=lambda w: STUDY.models[w.model].revision,
        code=code_digest("networks.loading"),
    message:
        "Fetch {wildcards.model} from the hub, or link its directory"
    script:
        "../workflow_scripts/fetch_model.py"


rule make_contexts:
    input:
        model="results/models/{model}",
    output:
        "results/contexts/{model}.json",
    log:
        "logs/make_contexts/{model}.log",
    benchmark:
        "results/benchmarks/rules/make_contexts/{model}.jsonl"
    group:
        small_jobs("make_contexts", "prepare")
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("make_contexts", "mem_mb"),
        runtime=model_resource("make_contexts", "runtime"),
        gpu=model_resource("make_contexts", "gpu"),
    params:
        contexts=STUDY.contexts.model_dump(),
        loading=lambda w: loading(w.model),
        code=code_digest("evaluation.generation", "networks.loading"),
    message:
        "Let {wildcards.model} write its context templates"
    script:
        "../workflow_scripts/make_contexts.py"


rule trace_layers:
    input:
        model="results/models/{model}",
        requests="results/data/{dataset}/requests.json",
        known="results/known/{model}/{dataset}.csv",
    output:
        trace="results/layers/{model}/{dataset}/trace.csv",
        effects="results/layers/{model}/{dataset}/indirect_effects.csv",
    log:
        "logs/trace_layers/{model}-{dataset}.log",
    benchmark:
        "results/benchmarks/rules/trace_layers/{model}-{dataset}.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("trace_layers", "mem_mb"),
        runtime=model_resource("trace_layers", "runtime"),
        gpu=model_resource("trace_layers", "gpu"),
    params:
        tracing=STUDY.tracing.model_dump(),
        loading=lambda w: loading(w.model),
        code=code_digest("editing.tracing", "networks.loading"),
    message:
        "Trace where {wildcards.model} keeps the facts of {wildcards.dataset}"
    script:
        "../workflow_scripts/trace_layers.py"


checkpoint choose_layers:
    input:
        effects="results/layers/{model}/{dataset}/indirect_effects.csv",
    output:
        layers="results/layers/{model}/{dataset}/layers.json",
    log:
        "logs/choose_layers/{model}-{dataset}.log",
    benchmark:
        "results/benchmarks/rules/choose_layers/{model}-{dataset}.jsonl"
    conda:
        "../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("choose_layers", "mem_mb"),
        runtime=resource("choose_layers", "runtime"),
    params:
        top=STUDY.tracing.top,
        code=code_digest("editing.tracing"),
    message:
        "Choose the layers of {wildcards.model} from the trace"
    script:
        "../workflow_scripts/choose_layers.py"
