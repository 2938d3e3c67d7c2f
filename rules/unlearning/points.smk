# Unlearning: every point of the grids, the points that are chosen, and the models that are kept of them.


rule unlearn:
    input:
        facts=facts_of,
        model=model_before,
    output:
        f"<unlearned>/runs/{GRID_POINT}.csv",
    log:
        "<logs>/unlearn/{method}-{rank}-{lr}-{retain}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/unlearn/{method}-{rank}-{lr}-{retain}-{seed}.jsonl"
    wildcard_constraints:
        seed=r"\d+",
        rank=r"\d+",
        lr="[^/]+",
        retain="[^/]+",
        method="[^/]+",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=need("unlearn", "mem_mb"),
        runtime=need("unlearn", "runtime"),
        gpu=need("unlearn", "gpu"),
    params:
        method=lambda w: UNLEARNING.methods[w.method].model_dump(mode="json"),
        scoring=UNLEARNING.scoring.model_dump(mode="json"),
        rank=lambda w: int(w.rank),
        lr=lambda w: float(w.lr),
        retain=lambda w: float(w.retain),
        study_seed=lambda w: int(w.seed),
        loading=LOADED,
        code=code_digest("unlearning/unlearn"),
    message:
        "Unlearn by {wildcards.method}, rank {wildcards.rank}, rate {wildcards.lr}, retain {wildcards.retain}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/unlearning/unlearn.py"


rule choose_points:
    input:
        grid_files,
    output:
        "<unlearned>/chosen/method~{method}/rank~{rank}/seed~{seed}.json",
    log:
        "<logs>/choose_points/{method}-{rank}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/choose_points/{method}-{rank}-{seed}.jsonl"
    wildcard_constraints:
        seed=r"\d+",
        rank=r"\d+",
        method="[^/]+",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("choose_points", "mem_mb"),
        runtime=resource("choose_points", "runtime"),
    params:
        points=lambda w: [
            point
            for point in UNLEARNING.grid()
            if all(point[k] == w[k] for k in ("method", "rank", "seed"))
        ],
        selection=UNLEARNING.selection.model_dump(mode="json"),
        scoring=UNLEARNING.scoring.model_dump(mode="json"),
        code=code_digest("unlearning/choose_points"),
    message:
        "Choose the points of {wildcards.method}, rank {wildcards.rank}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/unlearning/choose_points.py"


rule keep_point:
    input:
        facts=facts_of,
        model=model_before,
        chosen="<unlearned>/chosen/method~{method}/rank~{rank}/seed~{seed}.json",
    output:
        model=directory(
            "<unlearned>/models/point~{point}/method~{method}/rank~{rank}/seed~{seed}"
        ),
        scores="<unlearned>/kept/point~{point}/method~{method}/rank~{rank}/seed~{seed}.csv",
    log:
        "<logs>/keep_point/{point}-{method}-{rank}-{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/keep_point/{point}-{method}-{rank}-{seed}.jsonl"
    wildcard_constraints:
        seed=r"\d+",
        rank=r"\d+",
        method="[^/]+",
        point="selected|matched|budget",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=need("keep_point", "mem_mb"),
        runtime=need("keep_point", "runtime"),
        gpu=need("keep_point", "gpu"),
    params:
        method=lambda w: UNLEARNING.methods[w.method].model_dump(mode="json"),
        scoring=UNLEARNING.scoring.model_dump(mode="json"),
        rank=lambda w: int(w.rank),
        study_seed=lambda w: int(w.seed),
        point=lambda w: w.point,
        loading=LOADED,
        code=code_digest("unlearning/keep_point"),
    message:
        "Keep the {wildcards.point} point of {wildcards.method}, rank {wildcards.rank}, seed {wildcards.seed}"
    script:
        "../../workflow_scripts/unlearning/keep_point.py"
