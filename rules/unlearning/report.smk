# What the unlearning study offers to the report: files that its tables are collected from. Their paths say what they are of.

REPORTED["unlearning"] = {
    "experiments": [],
    "settings": UNLEARNING.model_dump(mode="json"),
    "cells": lambda experiment: [],
    "files": lambda experiment, name: [],
    "inputs": {
        "runs": lambda: UNLEARNING_RUNS,
        "chosen": lambda: UNLEARNING_CHOSEN,
        "kept": lambda: UNLEARNING_POINTS,
        "attacks": lambda: UNLEARNING_ATTACKS,
    },
    "paths": {},
}
