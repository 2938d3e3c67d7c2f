# Attacks: what retraining on the other facts brings back, of unlearned models and of the controls.


rule attack_model:
    input:
        facts=facts_of,
        model=model_attacked,
    output:
        "<unlearned>/attacks/attack~{attack}/{target}/seed~{seed}.csv",
    log:
        "<logs>/attack_model/{attack}/{target}/{seed}.log",
    benchmark:
        "<results>/benchmarks/rules/attack_model/{attack}/{target}/{seed}.jsonl"
    wildcard_constraints:
        seed=r"\d+",
        attack="full|lora|prompt|probe",
        target=r"control~[a-z]+|point~[a-z]+/method~[^/]+/rank~\d+",
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=need("attack_model", "mem_mb"),
        runtime=need("attack_model", "runtime"),
        gpu=need("attack_model", "gpu"),
    params:
        options=UNLEARNING.retraining.model_dump(mode="json"),
        scoring=UNLEARNING.scoring.model_dump(mode="json"),
        attack=lambda w: w.attack,
        splits=UNLEARNING.splits,
        study_seed=lambda w: int(w.seed),
        loading=LOADED,
        code=code_digest("unlearning/attack_model"),
    message:
        "Attack {wildcards.target} ({wildcards.attack}), seed {wildcards.seed}"
    script:
        "../../workflow_scripts/unlearning/attack_model.py"
