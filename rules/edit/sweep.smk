# How the recipes of a study were chosen: a grid on facts that the data set keeps for it.


rule sweep_recipes:
    input:
        model="<inputs>/models/{model}",
        requests="<inputs>/data/{dataset}/requests.json",
        known="<inputs>/known/{model}/{dataset}.csv",
        contexts="<inputs>/contexts/{model}.json",
        statistics=lambda w: expand(
            "<inputs>/statistics/{model}/layer-{layer}.safetensors",
            model=w.model,
            layer=STUDY.sweep.layers,
        ),
        curvature=swept_curvature,
    output:
        points="<results>/sweep/{model}/{dataset}/points.csv",
        best="<results>/sweep/{model}/{dataset}/best.csv",
    log:
        "<logs>/sweep_recipes/{model}-{dataset}.log",
    benchmark:
        "<results>/benchmarks/rules/sweep_recipes/{model}-{dataset}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=model_resource("sweep_recipes", "mem_mb", STUDY),
        runtime=model_resource("sweep_recipes", "runtime", STUDY),
        gpu=model_resource("sweep_recipes", "gpu", STUDY),
    params:
        recipes={
            name: recipe.model_dump(mode="json", exclude_unset=True)
            for name, recipe in STUDY.methods.items()
        },
        axes=STUDY.sweep.axes,
        facts=STUDY.sweep.facts,
        batch=STUDY.sweep.batch,
        known_only=STUDY.sweep.known_only,
        seeds=STUDY.sweep.seeds,
        loading=lambda w: loading(w.model),
        code=code_digest("edit/sweep_recipes"),
    message:
        "Sweep the recipes on {wildcards.model}"
    script:
        "../../workflow_scripts/edit/sweep_recipes.py"
