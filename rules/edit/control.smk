# A model of the substrate's kind that is trained on the new facts: what to expect of an edit at best.


rule train_control:
    input:
        model="<inputs>/models/{model}",
        requests="<inputs>/data/{dataset}/requests.json",
        known="<inputs>/known/{model}/{dataset}.csv",
    output:
        "<results>/trained_control/{model}/{dataset}.csv",
    log:
        "<logs>/train_control/{model}-{dataset}.log",
    benchmark:
        "<results>/benchmarks/rules/train_control/{model}-{dataset}.jsonl"
    wildcard_constraints:
        model=names(SubstrateModel, STUDY.models),
    conda:
        "../../envs/editlab.yaml"
    threads: 2
    resources:
        mem_mb=resource("train_control", "mem_mb"),
        runtime=resource("train_control", "runtime"),
    params:
        options=lambda w: STUDY.models[w.model].model_dump(
            exclude={"source", "dataset", "device"}
        ),
        evaluation=plain("evaluation"),
        num_edits=lambda w: STUDY.experiments["edit"].num_edits,
        seeds=lambda w: STUDY.experiments["edit"].seeds,
        known_only=lambda w: STUDY.experiments["edit"].known_only,
        repeats=STUDY.control_repeats,
        partial=f"{OUT}/trained_control/partial-{{model}}-{{dataset}}.safetensors",
        # As of the substrate: each step is two shards, side by side or one after the other.
        torch_threads=2,
        code=code_digest("edit/train_control"),
    message:
        "Train a model on the new facts of {wildcards.dataset}"
    script:
        "../../workflow_scripts/edit/train_control.py"
