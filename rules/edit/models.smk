# Models: a substrate trained here, or one from the hub; the contexts that it writes; the layers that it keeps facts in.


rule train_substrate:
    input:
        requests=lambda w: f"<inputs>/data/{STUDY.models[w.model].dataset}/requests.json",
    output:
        model=directory("<inputs>/models/{model}"),
        training="<inputs>/training/{model}.csv",
    log:
        "<logs>/train_substrate/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/train_substrate/{model}.jsonl"
    wildcard_constraints:
        model=names(SubstrateModel, STUDY.models),
    group:
        small_jobs("train_substrate", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 2
    resources:
        mem_mb=resource("train_substrate", "mem_mb"),
        runtime=resource("train_substrate", "runtime"),
        gpu=resource("train_substrate", "gpu"),
    params:
        options=lambda w: STUDY.models[w.model].model_dump(
            exclude={"source", "dataset", "device"}
        ),
        device=lambda w: STUDY.models[w.model].device,
        # The weights do not depend on it: each step is two shards, side by side or one after the other.
        torch_threads=2,
        partial=f"{INPUTS}/training/partial-{{model}}.safetensors",
        code=code_digest("edit/train_substrate"),
    message:
        "Train the substrate {wildcards.model} on its facts"
    script:
        "../../workflow_scripts/edit/train_substrate.py"


rule fetch_model:
    output:
        model=directory("<inputs>/models/{model}"),
    log:
        "<logs>/fetch_model/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/fetch_model/{model}.jsonl"
    wildcard_constraints:
        model=names(HubModel, STUDY.models),
    # The node of the submission is the one that has a network.
    localrule: True
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("fetch_model", "mem_mb"),
        runtime=resource("fetch_model", "runtime"),
    params:
        source=lambda w: STUDY.models[w.model].id,
        revision=lambda w: STUDY.models[w.model].revision,
        code=code_digest("edit/fetch_model"),
    message:
        "Fetch {wildcards.model} from the hub, or link its directory"
    script:
        "../../workflow_scripts/edit/fetch_model.py"


rule make_random_model:
    input:
        requests=lambda w: f"<inputs>/data/{STUDY.models[w.model].dataset}/requests.json",
    output:
        model=directory("<inputs>/models/{model}"),
    log:
        "<logs>/make_random_model/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/make_random_model/{model}.jsonl"
    wildcard_constraints:
        model=names(RandomModel, STUDY.models),
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("make_random_model", "mem_mb"),
        runtime=resource("make_random_model", "runtime"),
    params:
        options=lambda w: STUDY.models[w.model].model_dump(),
        code=code_digest("edit/make_random_model"),
    message:
        "Describe the random model {wildcards.model}"
    script:
        "../../workflow_scripts/edit/make_random_model.py"


rule make_contexts:
    input:
        model="<inputs>/models/{model}",
    output:
        "<inputs>/contexts/{model}.json",
    log:
        "<logs>/make_contexts/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/make_contexts/{model}.jsonl"
    group:
        small_jobs("make_contexts", "prepare", STUDY)
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("make_contexts", "mem_mb", STUDY),
        runtime=model_resource("make_contexts", "runtime", STUDY),
        gpu=model_resource("make_contexts", "gpu", STUDY),
    params:
        contexts=STUDY.contexts.model_dump(exclude={"rome"}),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/make_contexts"),
    message:
        "Let {wildcards.model} write its context templates"
    script:
        "../../workflow_scripts/edit/make_contexts.py"


# Rank-one recipes may have contexts of their own.
use rule make_contexts as make_rome_contexts with:
    output:
        "<inputs>/contexts/rome/{model}.json",
    log:
        "<logs>/make_rome_contexts/{model}.log",
    benchmark:
        "<inputs>/benchmarks/rules/make_rome_contexts/{model}.jsonl"
    params:
        contexts=(STUDY.contexts.rome or STUDY.contexts).model_dump(exclude={"rome"}),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/make_contexts"),


rule trace_layers:
    input:
        model="<inputs>/models/{model}",
        requests="<inputs>/data/{dataset}/requests.json",
        known="<inputs>/known/{model}/{dataset}.csv",
    output:
        trace="<inputs>/layers/{model}/{dataset}/trace.csv",
        effects="<inputs>/layers/{model}/{dataset}/indirect_effects.csv",
    log:
        "<logs>/trace_layers/{model}-{dataset}.log",
    benchmark:
        "<inputs>/benchmarks/rules/trace_layers/{model}-{dataset}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("trace_layers", "mem_mb", STUDY),
        runtime=model_resource("trace_layers", "runtime", STUDY),
        gpu=model_resource("trace_layers", "gpu", STUDY),
    params:
        tracing=STUDY.tracing.model_dump(),
        loading=lambda w: loading(w.model),
        code=code_digest("edit/trace_layers"),
    message:
        "Trace where {wildcards.model} keeps the facts of {wildcards.dataset}"
    script:
        "../../workflow_scripts/edit/trace_layers.py"


checkpoint choose_layers:
    input:
        effects="<inputs>/layers/{model}/{dataset}/indirect_effects.csv",
    output:
        layers="<inputs>/layers/{model}/{dataset}/layers.json",
    log:
        "<logs>/choose_layers/{model}-{dataset}.log",
    benchmark:
        "<inputs>/benchmarks/rules/choose_layers/{model}-{dataset}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("choose_layers", "mem_mb"),
        runtime=resource("choose_layers", "runtime"),
    params:
        top=STUDY.tracing.top,
        code=code_digest("edit/choose_layers"),
    message:
        "Choose the layers of {wildcards.model} from the trace"
    script:
        "../../workflow_scripts/edit/choose_layers.py"
