"""The chart, rendered by Helm's own engine (helm-python-sdk)."""

import pathlib

import helm_python as helm
import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
CHART = ROOT / "deploy/helm/forebay"
RELEASE, NAMESPACE = "demo", "ml"


def value_sets():
    """The value sets of the chart's tests, by name."""
    return {path.stem: load(path) for path in sorted((CHART / "ci").glob("*.yaml"))}


def load(path):
    return yaml.safe_load(pathlib.Path(path).read_text())


def render(values):
    """All objects of a release, as Helm sends them, and NOTES.txt under that name."""
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts = chart.render(values, name=RELEASE, namespace=NAMESPACE)
    objects, notes = [], ""
    for path, text in texts.items():
        if path.endswith("NOTES.txt"):
            notes = text
        else:
            objects += [obj for obj in yaml.safe_load_all(text) if obj]
    return objects, notes


def lint(values):
    """The warnings and errors of `helm lint --strict`."""
    report = helm.lint(CHART, values, strict=True, namespace=NAMESPACE, kube_version="v1.31.0")
    said = [message["error"] for message in report["messages"] if message["severity"] > 1]
    return said + report["errors"]


def one(objects, kind, name=None):
    """The only object of a kind, optionally with a part of its name."""
    found = [o for o in objects if o["kind"] == kind and (name or "") in o["metadata"]["name"]]
    assert len(found) == 1, f"{len(found)} of {kind} {name or ''}"
    return found[0]
