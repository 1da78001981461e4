"""Rules of openapi.yaml's descriptions that its schemas cannot express. With them schemathesis generates requests that
are really valid, or really invalid."""

import json

import schemathesis


@schemathesis.hook
def before_load_schema(context, raw_schema):
    components, paths = raw_schema["components"], raw_schema["paths"]
    text = components["schemas"]["Text"]["pattern"]

    # Cursors come from lists. Only the empty one can be generated.
    components["parameters"]["Cursor"]["schema"]["enum"] = [""]

    # The catalogue of the tested keyd.
    components["parameters"]["Scope"]["schema"]["enum"] = ["chat:companion", "read"]
    bodies = [components["schemas"]["NewKey"], body_of(components["requestBodies"]["ImportedKey"])]
    lines = components["requestBodies"]["ImportedKeys"]["content"]["application/x-ndjson"]["schema"]["items"]
    lines["properties"]["account"] = {"enum": ["a"]}
    bodies.append(lines)
    for key in bodies:
        key["properties"]["scopes"]["items"] = {"enum": ["read"]}
        key["properties"]["expires_at"] = {"enum": ["2999-01-01T00:00:00Z", None]}

    # For sidecars null means an absent field, names are printable, and max_stale_ms is limited by longest_max_stale.
    for path in ["/v1/changes", "/v1/usage"]:
        body = body_of(paths[path]["post"]["requestBody"])
        body["properties"]["sidecar"]["pattern"] = text
        optional_may_be_null(body)
    changes = body_of(paths["/v1/changes"]["post"]["requestBody"])
    changes["properties"]["after"].update(minimum=-1, maximum=2**63 - 1)
    changes["properties"]["max_stale_ms"]["maximum"] = 604800000
    used = body_of(paths["/v1/usage"]["post"]["requestBody"])["properties"]["used"]["items"]
    for count in ["allowed", "denied"]:
        used["properties"][count]["maximum"] = 2**63 - 1
    optional_may_be_null(used)


@schemathesis.serializer("application/x-ndjson")
def write_lines(context, value):
    return "\n".join(json.dumps(item) for item in (value if isinstance(value, list) else [value])).encode()


@schemathesis.deserializer("application/x-ndjson")
def read_lines(context, response):
    return [json.loads(line) for line in response.content.splitlines()]


def body_of(request_body):
    return request_body["content"]["application/json"]["schema"]


def optional_may_be_null(schema):
    for name, field in schema["properties"].items():
        if name not in schema["required"]:
            field["type"] = [field["type"], "null"]
