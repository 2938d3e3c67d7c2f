"""The studies of this house, one line each.

The name is the key of the study's block in a run, the folder of its rules (``rules/NAME``) and of its scripts, the package
of its topics (``editlab.analysis.NAME``), and the folder of its cells; the value is the class of the block.
"""

STUDIES = {
    "edit": "editlab.config.edit:EditStudy",
    "vision": "editlab.config.vision:VisionStudy",
    "unlearning": "editlab.config.unlearning:UnlearningStudy",
    "adapters": "editlab.config.adapters:AdaptersStudy",
}
