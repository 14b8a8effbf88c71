"""What a compiled module says of itself: the model's metadata, its digest, the target, and the steps that it runs."""

import json

from intvit.integer_model import IntegerModel
from intvit.program import Program


def described(model: IntegerModel, program: Program, target: str) -> str:
    """The JSON that a module carries."""
    steps = [[step.name, step.path, step.kernel.multiply_adds] for step in program.steps]
    outputs = [value.dtype for value in program.outputs]
    fields = {"digest": model.digest, "target": target, "steps": steps, "outputs": outputs}
    return json.dumps({"metadata": model.metadata.to_json(), **fields})
