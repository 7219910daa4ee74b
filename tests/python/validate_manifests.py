"""Reads a JSON list of Kubernetes manifests; says what is wrong with each by the schemas of a released version.

Exit code 0: nothing. Custom resources have no schema there and are passed over; what is ours is tested elsewhere.
"""

import json
import sys

import kubernetes_validate

OURS = ("fusewire.io/", "monitoring.coreos.com/", "kustomize.config.k8s.io/")


def items(document):
    if document.get("kind") == "List":
        for item in document["items"]:
            yield from items(item)
    elif not document["apiVersion"].startswith(OURS):
        yield document


def main():
    faults = 0
    for document in json.load(sys.stdin):
        for item in items(document):
            try:
                kubernetes_validate.validate(item, "1.37", strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
                faults += 1
                print(f"{item.get('kind')} {item.get('metadata', {}).get('name')}: {error}")
    return 1 if faults else 0


sys.exit(main())
