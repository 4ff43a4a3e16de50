"""Holds configurations against the JSON schema: fits.py SCHEMA FILE ..

Each file has to fit. With a key that is not there in any one of the tables whose keys are fixed, it must not.
"""

import copy
import fnmatch
import json
import sys
import tomllib

import jsonschema

# Tables keyed by names of the user's: below these any key goes.
OPEN = [
    "key", "shared_queue", "source", "source.*.table", "share", "share.*.mask", "share.*.rename", "share.*.constants",
    "share.*.display", "bulk_group", "schedule", "target", "subscription", "subscription.*.table",
    "subscription.*.table.*.columns",
]


def tables(value, path=""):
    """Every table of a file, with its path."""
    if isinstance(value, dict):
        yield path, value
        for key, below in value.items():
            # A name may have dots of its own.
            yield from tables(below, f"{path}.{key.replace('.', '_')}".lstrip("."))
    elif isinstance(value, list):
        for below in value:
            yield from tables(below, path)


def is_open(path):
    return any(fnmatch.fnmatchcase(path, pattern) and path.count(".") == pattern.count(".") for pattern in OPEN)


schema = json.load(open(sys.argv[1]))
jsonschema.Draft7Validator.check_schema(schema)
validator = jsonschema.Draft7Validator(schema)
for name in sys.argv[2:]:
    file = tomllib.load(open(name, "rb"))
    for error in validator.iter_errors(file):
        sys.exit(f"{name}: {error.json_path}: {error.message}")
    tried = 0
    for place, (path, _) in enumerate(tables(file)):
        if is_open(path):
            continue
        wrong = copy.deepcopy(file)
        list(tables(wrong))[place][1]["colour"] = "red"
        if validator.is_valid(wrong):
            sys.exit(f"{name}: [{path}] takes a key that is not there")
        tried += 1
    assert tried > 3, name
print("all fit")
