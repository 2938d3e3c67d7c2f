# The search: chunks of cells in one process each, ranked by discovery; test is scored afterwards, by rules of their own.

if VISION.search is not None:

    rule search_grid:
        input:
            model="<inputs>/vision/{dataset}/models/seed~{seed}",
            discovery=vision_set("discovery"),
            errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
            preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
            statistics=vision_search_ranking,
        output:
            directory("<results>/vision/{dataset}/search/seed~{seed}/grid~{chunk}"),
        log:
            "<logs>/search_grid/{dataset}-{seed}-{chunk}.log",
        benchmark:
            "<results>/benchmarks/rules/search_grid/{dataset}-{seed}-{chunk}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=vision_resource("search_grid", "mem_mb"),
            runtime=vision_resource("search_grid", "runtime"),
            gpu=vision_resource("search_grid", "gpu"),
        params:
            recipe=VISION.methods[VISION.search.method].model_dump(mode="json"),
            max_edits=VISION.max_edits,
            points=VISION.grid(),
            chunk=VISION.search.chunk,
            device=vision_device,
            code=code_digest("vision/search_grid"),
        message:
            "Search {wildcards.dataset}, seed {wildcards.seed}, chunk {wildcards.chunk}"
        script:
            "../../workflow_scripts/vision/search_grid.py"

    rule search_best:
        input:
            lambda w: expand(
                f"{V_SEARCH}/seed~{{seed}}/grid~{{chunk}}",
                dataset=w.dataset,
                seed=VISION.search.seeds,
                chunk=vision_chunks(),
            ),
        output:
            "<results>/vision/{dataset}/search/best.json",
        log:
            "<logs>/search_best/{dataset}.log",
        benchmark:
            "<results>/benchmarks/rules/search_best/{dataset}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=resource("search_best", "mem_mb"),
            runtime=resource("search_best", "runtime"),
        params:
            points=VISION.grid(),
            code=code_digest("vision/search_best"),
        message:
            "Choose the best cell of {wildcards.dataset} by discovery"
        script:
            "../../workflow_scripts/vision/search_best.py"

    rule search_refined:
        input:
            model="<inputs>/vision/{dataset}/models/seed~{seed}",
            discovery=vision_set("discovery"),
            errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
            preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
            statistics=vision_search_ranking,
            best="<results>/vision/{dataset}/search/best.json",
        output:
            directory("<results>/vision/{dataset}/search/seed~{seed}/refined"),
        log:
            "<logs>/search_refined/{dataset}-{seed}.log",
        benchmark:
            "<results>/benchmarks/rules/search_refined/{dataset}-{seed}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=vision_resource("search_refined", "mem_mb"),
            runtime=vision_resource("search_refined", "runtime"),
            gpu=vision_resource("search_refined", "gpu"),
        params:
            recipe=VISION.methods[VISION.search.method].model_dump(mode="json"),
            max_edits=VISION.max_edits,
            factors=VISION.search.refine,
            device=vision_device,
            code=code_digest("vision/search_refined"),
        message:
            "Search around the best cell of {wildcards.dataset}, seed {wildcards.seed}"
        script:
            "../../workflow_scripts/vision/search_refined.py"

    rule search_bayesian:
        input:
            model="<inputs>/vision/{dataset}/models/seed~{seed}",
            discovery=vision_set("discovery"),
            errors="<results>/vision/{dataset}/seed~{seed}/errors.csv",
            preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
            statistics=vision_search_ranking,
        output:
            directory("<results>/vision/{dataset}/search/seed~{seed}/bayesian"),
        log:
            "<logs>/search_bayesian/{dataset}-{seed}.log",
        benchmark:
            "<results>/benchmarks/rules/search_bayesian/{dataset}-{seed}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=vision_resource("search_bayesian", "mem_mb"),
            runtime=vision_resource("search_bayesian", "runtime"),
            gpu=vision_resource("search_bayesian", "gpu"),
        params:
            recipe=VISION.methods[VISION.search.method].model_dump(mode="json"),
            max_edits=VISION.max_edits,
            axes=VISION.search.axes,
            trials=VISION.search.trials,
            device=vision_device,
            code=code_digest("vision/search_bayesian"),
        message:
            "Search {wildcards.dataset}, seed {wildcards.seed}, by Bayesian optimisation"
        script:
            "../../workflow_scripts/vision/search_bayesian.py"

    rule score_search:
        input:
            cells="<results>/vision/{dataset}/search/seed~{seed}/{part}",
            model="<inputs>/vision/{dataset}/models/seed~{seed}",
            test=vision_set("test"),
            ft_train=vision_set("ft_train"),
            preserved="<results>/vision/{dataset}/seed~{seed}/keys.safetensors",
        output:
            "<results>/vision/{dataset}/search/seed~{seed}/scores/{part}.csv",
        log:
            "<logs>/score_search/{dataset}-{seed}-{part}.log",
        benchmark:
            "<results>/benchmarks/rules/score_search/{dataset}-{seed}-{part}.jsonl"
        wildcard_constraints:
            part=r"grid~\d+|refined|bayesian",
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=vision_resource("score_search", "mem_mb"),
            runtime=vision_resource("score_search", "runtime"),
            gpu=vision_resource("score_search", "gpu"),
        params:
            heldout_samples=VISION.heldout_samples,
            device=vision_device,
            code=code_digest("vision/score_search"),
        message:
            "Score the cells {wildcards.part} of {wildcards.dataset}, seed {wildcards.seed}, on test"
        script:
            "../../workflow_scripts/vision/score_search.py"

    rule collect_search:
        input:
            cells=lambda w: expand(
                f"{V_SEARCH}/seed~{{seed}}/{{part}}",
                dataset=w.dataset,
                seed=VISION.search.seeds,
                part=vision_parts(),
            ),
            scores=lambda w: expand(
                f"{V_SEARCH}/seed~{{seed}}/scores/{{part}}.csv",
                dataset=w.dataset,
                seed=VISION.search.seeds,
                part=vision_parts(),
            ),
            baselines=lambda w: vision_search_baselines(w.dataset),
        output:
            "<results>/param_search_summary_{dataset}.csv",
        log:
            "<logs>/collect_search/{dataset}.log",
        benchmark:
            "<results>/benchmarks/rules/collect_search/{dataset}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=resource("collect_search", "mem_mb"),
            runtime=resource("collect_search", "runtime"),
        params:
            missing=lambda w: holes(
                f"{OUT}/param_search_summary_{w.dataset}.csv",
                [
                    *expand(
                        f"{V_SEARCH}/seed~{{seed}}/{{part}}",
                        dataset=w.dataset,
                        seed=VISION.search.seeds,
                        part=vision_parts(),
                    ),
                    *vision_search_baselines(w.dataset),
                ],
            ),
            method=VISION.search.method,
            code=code_digest("vision/collect_search"),
        message:
            "Collect the search over {wildcards.dataset}"
        script:
            "../../workflow_scripts/vision/collect_search.py"

    rule track_search:
        input:
            "<results>/param_search_summary_{dataset}.csv",
        output:
            directory("<results>/vision/{dataset}/tracking"),
        log:
            "<logs>/track_search/{dataset}.log",
        benchmark:
            "<results>/benchmarks/rules/track_search/{dataset}.jsonl"
        conda:
            "../../envs/editlab.yaml"
        threads: 1
        resources:
            mem_mb=resource("track_search", "mem_mb"),
            runtime=resource("track_search", "runtime"),
        params:
            options=VISION.tracking.model_dump(mode="json"),
            name=lambda w: f"{RUN.run}-{w.dataset}",
            code=code_digest("vision/track_search"),
        message:
            "Track the search over {wildcards.dataset}"
        script:
            "../../workflow_scripts/vision/track_search.py"
