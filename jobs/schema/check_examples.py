#!/usr/bin/python3
"""The JSON Schema must agree with the parser about every example in jobs/testdata: take the good ones, refuse the bad
ones. A bad one that no schema can refuse says why in a comment "schema passes: …", and must then really pass."""

import json
import pathlib
import re
import sys

import jsonschema
import yaml

HERE = pathlib.Path(__file__).resolve().parent
TESTDATA = HERE.parent / "testdata"
EXAMPLES = HERE.parent / "examples"


def faults(validator, path):
    """What the schema, or YAML itself, has against the manifest."""
    try:
        document = yaml.safe_load(path.read_bytes())
    except (yaml.YAMLError, UnicodeDecodeError) as broken:
        return [f"not YAML: {broken}"]
    try:
        # Dates and the like become what they are in JSON.
        document = json.loads(json.dumps(document, default=str))
    except (TypeError, ValueError) as broken:
        return [f"not JSON: {broken}"]
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


def main():
    schema = json.loads((HERE / "stillpoint-v1.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    wrong = []
    good = sorted((TESTDATA / "good").glob("*.yaml")) + sorted(EXAMPLES.glob("*/*.yaml"))
    bad = sorted((TESTDATA / "bad").glob("*.yaml"))
    for path in good:
        wrong += [f"{path.name}: good, but the schema says {fault}" for fault in faults(validator, path)]
    for path in bad:
        passes = re.search(rb"# schema passes: \S", path.read_bytes()) is not None
        if passes != (not faults(validator, path)):
            wrong.append(f"{path.name}: the schema {'refuses' if passes else 'takes'} it")
    print("\n".join(wrong) or f"{len(good)} good and {len(bad)} bad manifests: the schema agrees")
    return 1 if wrong or not good or not bad else 0


if __name__ == "__main__":
    sys.exit(main())
