"""Checks every object of the chart for every value set: valid by Kubernetes' own schemas, and consistent.

Schemas cannot tell whether parts fit each other; `fit` does: selectors select, ports and volumes exist,
containers are locked up as the namespace level `restricted` asks.
"""

import sys

import kubernetes_validate
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PrometheusRule, ServiceMonitor

import chart

# The oldest version that the chart supports, and the newest version of the validator.
VERSIONS = ["1.29", "1.37"]
CUSTOM = {"ScaledObject": ScaledObject, "ServiceMonitor": ServiceMonitor, "PrometheusRule": PrometheusRule}


def main():
    failures, count = [], 0
    for name, values in chart.value_sets().items():
        failures += [f"{name}: lint: {said}" for said in chart.lint(values)]
        objects, notes = chart.render(values)
        if "forebay serves" not in notes:
            failures.append(f"{name}: no notes")
        for obj in objects:
            count += 1
            what = f"{name}: {obj['kind']} {obj['metadata']['name']}"
            failures += [f"{what}: {problem}" for problem in validate(obj)]
        failures += [f"{name}: {problem}" for problem in fit(objects)]
    failures += refused()
    failures += values_are_documented()
    print("\n".join(failures) or f"{count} objects of {len(chart.value_sets())} value sets are valid")
    sys.exit(bool(failures))


def validate(obj):
    """Validates by Kubernetes' schema, or by the operator's model for other kinds."""
    if model := CUSTOM.get(obj["kind"]):
        try:
            kept = model.model_validate(obj).model_dump(mode="json", by_alias=True, exclude_unset=True)
        except ValueError as error:
            return [str(error)]
        return [f"{path} is not known" for path in lost(obj, kept)]
    problems = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(obj, version, strict=True)
        except Exception as error:
            problems.append(f"{version}: {error}")
    return problems


def lost(before, after, path=""):
    """Yields fields that a model dropped because it does not have them."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}.{key}"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list):
        for number, pair in enumerate(zip(before, after)):
            yield from lost(*pair, f"{path}[{number}]")


def fit(objects):
    """Yields inconsistencies that schemas cannot express."""
    deployment = chart.one(objects, "Deployment")
    template = deployment["spec"]["template"]
    labels = template["metadata"]["labels"]
    jobs = [o["spec"]["template"]["metadata"]["labels"] for o in objects if o["kind"] == "Job"]
    ports = {port["name"] for c in template["spec"]["containers"] for port in c["ports"]}
    for obj in objects:
        name, spec = f"{obj['kind']} {obj['metadata']['name']}", obj.get("spec", {})
        if obj["metadata"]["labels"].get("app.kubernetes.io/instance") != chart.RELEASE:
            yield f"{name} has no label of its release"
        selector = spec.get("selector") or spec.get("podSelector") or {}
        selector = selector.get("matchLabels", selector)
        owners = [labels]
        if obj["kind"] == "Service":
            owners += jobs
        if obj["kind"] == "ServiceMonitor":
            service = next(o for o in objects if o["kind"] == "Service" and "ports" in o["spec"])
            owners, ports_there = [service["metadata"]["labels"]], {p["name"] for p in service["spec"]["ports"]}
            if not {endpoint["port"] for endpoint in spec["endpoints"]} <= ports_there:
                yield f"{name} scrapes a port that the Service lacks"
        if selector and sum(selector.items() <= owner.items() for owner in owners) != 1:
            yield f"{name} does not select exactly the pods of its release"
        if target := spec.get("scaleTargetRef"):
            if target["name"] != deployment["metadata"]["name"]:
                yield f"{name} scales {target['name']}"
            if "replicas" in deployment["spec"]:
                yield f"{name} and the Deployment both set the number of replicas"
        named = [port.get("targetPort") for port in spec.get("ports", [])]
        named += [p["port"] for rule in spec.get("ingress") or [] for p in rule["ports"]]
        if not set(named) <= ports:
            yield f"{name} names ports {named}, expected {ports}"
        pod = spec if obj["kind"] == "Pod" else spec.get("template", {}).get("spec")
        if pod:
            yield from (f"{name}: {problem}" for problem in pod_fits(pod, objects))
        if obj["kind"] in ("Deployment", "Job") and "component" not in "".join(spec["template"]["metadata"]["labels"]):
            yield f"{name}: its labels also match other pods"


def pod_fits(pod, objects):
    volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
    own = {(o["kind"], o["metadata"]["name"]) for o in objects}
    for volume in volumes.values():
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in own:
            yield f"ConfigMap {volume['configMap']['name']} does not exist"
    security = pod["securityContext"]
    if pod.get("automountServiceAccountToken") is not False or pod.get("enableServiceLinks") is not False:
        yield "gets a token or the environment of Services"
    if security["seccompProfile"]["type"] != "RuntimeDefault" or not security["runAsNonRoot"]:
        yield "does not meet the restricted pod security standard"
    used, names = set(), []
    for container in pod.get("initContainers", []) + pod["containers"]:
        name = container["name"]
        names.append(name)
        locked = container["securityContext"]
        if locked["capabilities"] != {"drop": ["ALL"]} or locked["allowPrivilegeEscalation"]:
            yield f"{name} does not meet the restricted pod security standard"
        if not locked["readOnlyRootFilesystem"]:
            yield f"{name} has a writable root"
        # A container that the user adds may run as root; those of the chart never do.
        if name != "fill" and locked.get("runAsUser", security["runAsUser"]) != 65532:
            yield f"{name} runs as another user"
        for mount in container.get("volumeMounts", []):
            used.add(mount["name"])
            if mount["name"] not in volumes:
                yield f"{name} mounts {mount['name']}, which is not a volume of the pod"
        if len({mount["mountPath"] for mount in container.get("volumeMounts", [])}) != len(container.get("volumeMounts", [])):
            yield f"{name} mounts two volumes at one path"
        variables = {e["name"]: e.get("value", "") for e in container.get("env", [])}
        device = variables.get("FOREBAY_DEVICE", "")
        if device.startswith("cuda") and not any("gpu" in limit for limit in container["resources"].get("limits", {})):
            yield f"{name} computes on {device}, but asks for no GPU"
        # Elsewhere nothing can be written, and then no plan is measured.
        if device.startswith("cuda") and not variables.get("FOREBAY_CONV_PLAN_CACHE", "").startswith("/runs/"):
            yield f"{name} computes on {device}, but does not remember the plans of convolutions on its volume"
        if name != "fill" and "memory" not in container["resources"].get("limits", {}) and "index" not in name:
            yield f"{name} has no memory limit"
        for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
            port = container.get(kind, {}).get("httpGet", {}).get("port")
            if port and port not in {p["name"] for p in container["ports"]}:
                yield f"{name}: {kind} uses port {port}, which the container lacks"
    if used != set(volumes):
        yield f"volumes {set(volumes) - used} are not used"
    if len(set(names)) != len(names):
        yield f"container names are not unique: {names}"


def refused():
    """Checks that invalid values are refused with an error that names them."""
    for case in chart.load(chart.ROOT / "tests/deploy/refused.yaml"):
        values = merge(chart.value_sets()["minimal"], case["values"])
        try:
            chart.render(values)
            yield f"not refused: {case['values']}"
        except Exception as error:
            if case["says"] not in str(error):
                yield f"{case['values']} is refused without {case['says']!r}: {error}"


def merge(old, new):
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    merged = {**old, **{key: merge(old.get(key), value) for key, value in new.items()}}
    return {key: value for key, value in merged.items() if value is not None}


def values_are_documented():
    """Yields values that only one of values.yaml and the schema has."""
    schema, values = chart.load(chart.CHART / "values.schema.json"), chart.load(chart.CHART / "values.yaml")

    def walk(node, given, path):
        node = schema["$defs"].get(node.get("$ref", "").rpartition("/")[2], node)
        known = node.get("properties")
        if known is None or not isinstance(given, dict):
            return
        for key in known.keys() | given.keys():
            here = f"{path}.{key}"
            if key not in known:
                yield f"values.schema.json lacks {here}"
            elif key not in given:
                if path.rpartition(".")[2] not in ("resources", "image") and here != ".global":
                    yield f"values.yaml lacks {here}"
            else:
                yield from walk(known[key], given[key], here)

    yield from walk(schema, values, "")


if __name__ == "__main__":
    main()
