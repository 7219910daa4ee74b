"""Reads {"definitions": [...], "objects": [...]}; holds each object against its definition's schema, as far as JSON Schema says it.

Exit code 0: nothing is wrong. Fields that a definition does not know are faults, as for `kubectl apply`. Rules in CEL are not looked at.
"""

import json
import sys

import jsonschema


def strict(schema):
    """What structural schemas mean and JSON Schema does not: other fields are unknown, and some values have two types."""
    out = {key: value for key, value in schema.items() if not key.startswith("x-") and key != "format"}
    if schema.get("x-kubernetes-int-or-string"):
        out["type"] = ["integer", "string"]
    if "properties" in schema:
        out["properties"] = {name: strict(below) for name, below in schema["properties"].items()}
    if isinstance(schema.get("additionalProperties"), dict):
        out["additionalProperties"] = strict(schema["additionalProperties"])
    elif schema.get("type") == "object":
        out["additionalProperties"] = False
    if "items" in schema:
        out["items"] = strict(schema["items"])
    return out


def main():
    given = json.load(sys.stdin)
    schemas = {}
    for definition in given["definitions"]:
        schema = strict(definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        schema["properties"]["metadata"] = {"type": "object"}
        jsonschema.Draft7Validator.check_schema(schema)
        schemas[definition["spec"]["names"]["kind"]] = jsonschema.Draft7Validator(schema)
    faults = 0
    for item in given["objects"]:
        for error in schemas[item["kind"]].iter_errors(item):
            faults += 1
            print(f"{item['kind']} {item['metadata']['name']}: {error.json_path}: {error.message}")
    return 1 if faults else 0


sys.exit(main())
