"""Run by ModelOpt's environment: what its config classes, and JSON Schemas, say about configs.

Reads {"cases": [[MODE, config], …], "schemas": {MODE: Outrider's JSON Schema}} on stdin; prints one JSON object."""

import json
import sys

import modelopt.torch.speculative as mtsp
from jsonschema import Draft202012Validator
from pydantic import ValidationError

CLASSES = {"eagle": mtsp.EagleConfig, "medusa": mtsp.MedusaConfig}


def resolved(mode, config, strict):
    """The whole config, or null where it is refused; a validator of theirs may fail on odd values."""
    try:
        return CLASSES[mode].model_validate(config, strict=strict).model_dump()
    except (ValidationError, AttributeError):
        return None


def accepted_by(schemas, cases):
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    validators = {mode: Draft202012Validator(schema) for mode, schema in schemas.items()}
    return [validators[mode].is_valid(config) for mode, config in cases]


def main():
    request = json.load(sys.stdin)
    cases = request["cases"]
    theirs = {mode: config_class.model_json_schema() for mode, config_class in CLASSES.items()}
    print(json.dumps({
        "resolved": [resolved(mode, config, False) for mode, config in cases],
        "strict": [resolved(mode, config, True) is not None for mode, config in cases],
        "accepted_by_our_schema": accepted_by(request["schemas"], cases),
        "accepted_by_their_schema": accepted_by(theirs, cases),
        "presets": {name: getattr(mtsp, name) for name in vars(mtsp) if name.endswith("_DEFAULT_CFG")},
    }))


if __name__ == "__main__":
    main()
