# Images of every data set, split into the four sets of the protocol.


rule download_images:
    output:
        "<inputs>/vision/downloads/{dataset}.npz",
    log:
        "<logs>/download_images/{dataset}.log",
    benchmark:
        "<results>/benchmarks/rules/download_images/{dataset}.jsonl"
    localrule: True
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("download_images", "mem_mb"),
        runtime=resource("download_images", "runtime"),
    params:
        url=lambda w: vision_data(w.dataset).url,
        checksum=lambda w: vision_data(w.dataset).md5,
        code=code_digest("vision/download_images"),
    message:
        "Download {wildcards.dataset}"
    script:
        "../../workflow_scripts/vision/download_images.py"


rule convert_liver:
    input:
        images=lambda w: str(source_files(vision_data(w.dataset))["images"]),
        labels=lambda w: str(source_files(vision_data(w.dataset))["labels"]),
    output:
        "<inputs>/vision/converted/{dataset}.npz",
    log:
        "<logs>/convert_liver/{dataset}.log",
    benchmark:
        "<results>/benchmarks/rules/convert_liver/{dataset}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("convert_liver", "mem_mb"),
        runtime=resource("convert_liver", "runtime"),
    params:
        code=code_digest("vision/convert_liver"),
    message:
        "Convert the pickled images of {wildcards.dataset}, running nothing that is in them"
    script:
        "../../workflow_scripts/vision/convert_liver.py"


rule split_images:
    input:
        source=vision_source,
    output:
        expand(
            "<inputs>/vision/{dataset}/data/{name}.{kind}",
            name=["ft_train", "discovery", "ft_val", "test"],
            kind=["csv", "npy"],
            allow_missing=True,
        ),
        "<inputs>/vision/{dataset}/data/data.json",
        "<inputs>/vision/{dataset}/data/data_split_info.csv",
    log:
        "<logs>/split_images/{dataset}.log",
    benchmark:
        "<results>/benchmarks/rules/split_images/{dataset}.jsonl"
    conda:
        "../../envs/editlab.yaml"
    threads: 1
    resources:
        mem_mb=resource("split_images", "mem_mb"),
        runtime=resource("split_images", "runtime"),
    params:
        data=lambda w: vision_data(w.dataset).model_dump(mode="json"),
        code=code_digest("vision/split_images"),
    message:
        "Split {wildcards.dataset} into its four sets"
    script:
        "../../workflow_scripts/vision/split_images.py"
