#!/usr/bin/env bash
# Renders every overlay of deploy/kubernetes and holds each object to the published schema of its kind, and the dashboard
# to the types that Grafana publishes:
# tests/deploy/manifests.sh [CRD.yaml...]. Objects of a kind that Kubernetes does not come with (ServiceMonitor,
# InferencePool) need the definition's file, and are named as not checked without. What selects Pods must select the
# overlay's: the schemas allow a selector that is missing, or empty. Needs kubectl or kustomize;
# installs the schemas into build/manifests. A long check, not part of tests/run.sh.
set -euo pipefail
cd "$(dirname "$0")/../.."
venv=build/manifests
if [ ! -f $venv/with-grafana ]; then
  python3 -m venv $venv
  $venv/bin/pip install -q --disable-pip-version-check kubernetes-validate pyyaml jsonschema grafana-foundation-sdk
  touch $venv/with-grafana
fi
if command -v kustomize > /dev/null; then render=(kustomize build); else render=(kubectl kustomize); fi

$venv/bin/python - <<'PY'
import json
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard


def lost(before, after, path=""):
    """What Grafana's types do not know does not come back from them."""
    if isinstance(before, dict):
        return [p for k in before for p in (lost(before[k], after[k], f"{path}/{k}") if k in after else [f"{path}/{k}"])]
    if isinstance(before, list) and len(before) == len(after):
        return [p for i, (b, a) in enumerate(zip(before, after)) for p in lost(b, a, f"{path}/{i}")]
    return [] if before == after else [path]


board = json.load(open("deploy/grafana/sluice.json"))
unknown = lost(board, json.loads(JSONEncoder().encode(Dashboard.from_json(board))))
assert not unknown, f"deploy/grafana/sluice.json: Grafana does not know {unknown}"
print(f"dashboard: {len(board['panels'])} panels as Grafana's types have them")
PY

exec $venv/bin/python - "$@" 3< <(
  for overlay in deploy/kubernetes/overlays/*/; do
    echo "# overlay $(basename "$overlay")"
    "${render[@]}" "$overlay" || echo "# failed"
    echo ---
  done
) <<'PY'
import os, sys
import jsonschema, kubernetes_validate, yaml

PODS = {"app.kubernetes.io/name": "sluice"}
custom = {}
for path in sys.argv[1:]:
    for crd in yaml.safe_load_all(open(path)):
        spec = crd["spec"]
        for version in spec["versions"]:
            custom[f'{spec["group"]}/{version["name"]}', spec["names"]["kind"]] = version["schema"]["openAPIV3Schema"]


def strict(schema):
    """Unknown fields are errors, as they are for the API server."""
    if isinstance(schema, dict):
        if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
        for value in schema.values():
            strict(value)
    elif isinstance(schema, list):
        for value in schema:
            strict(value)


for schema in custom.values():
    strict(schema)
    schema["properties"]["metadata"].pop("additionalProperties", None)

def selectors(data):
    """By which labels an object selects Pods."""
    spec = data.get("spec", {})
    if data["kind"] == "Service":
        return [spec.get("selector")]
    if data["kind"] in ("Deployment", "PodDisruptionBudget", "InferencePool"):
        return [(spec.get("selector") or {}).get("matchLabels")]
    if data["kind"] == "NetworkPolicy":
        return [spec["podSelector"].get("matchLabels")]
    return []


counts, failed, overlay = {"checked": 0, "not checked": 0}, 0, "?"
text = os.fdopen(3).read()
for document in text.split("\n---\n"):
    for line in document.splitlines():
        if line.startswith("# overlay "):
            overlay = line.split()[-1]
            print("overlay", overlay)
        if line.startswith("# failed"):
            failed += 1
            print("  FAILED: does not render")
    data = yaml.safe_load(document)
    if not data:
        continue
    name = f'{data["kind"]}/{data["metadata"]["name"]}'
    key = data["apiVersion"], data["kind"]
    try:
        if key in custom:
            jsonschema.Draft202012Validator(custom[key]).validate(data)
        else:
            kubernetes_validate.validate(data, kubernetes_validate.latest_version(), strict=True)
        for labels in selectors(data):
            if labels != PODS:
                raise jsonschema.ValidationError(f"selects {labels}, not {PODS}")
        counts["checked"] += 1
        print("  ok", name)
    except kubernetes_validate.SchemaNotFoundError:
        counts["not checked"] += 1
        print("  not checked, no schema:", name)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        failed += 1
        print("  FAILED:", name, str(error).splitlines()[0])
print(f'Kubernetes {kubernetes_validate.latest_version()}: {counts["checked"]} objects checked, {counts["not checked"]} not, {failed} failed')
sys.exit(failed > 0 or counts["checked"] == 0)
PY
