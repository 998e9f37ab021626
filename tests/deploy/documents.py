"""Checks that the dashboard matches Grafana's own types, that each alert has a test that fires it, and that the
containers of the compose file are restricted and mount existing files."""

import json
import pathlib
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

import chart


def main():
    if sys.argv[1:2] == ["--compose"]:
        return compose(json.loads(pathlib.Path(sys.argv[2]).read_text()))
    board = json.loads((chart.CHART / "files/dashboard.json").read_text())
    kept = json.loads(JSONEncoder().encode(Dashboard.from_json(board)))
    assert len(kept["panels"]) == len(board["panels"]) and kept["title"] == board["title"]
    areas, panels = set(), [panel for panel in board["panels"]]
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"])
                 for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24 and not cells & areas, f"{panel['title']} lies over another panel"
        areas |= cells
        assert panel["type"] == "row" or panel["targets"], panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)

    alerts = {rule["alert"] for group in chart.load(chart.CHART / "files/alerts.yaml")["groups"] for rule in group["rules"]}
    cases = [case for test in chart.load(chart.ROOT / "tests/deploy/alerts.test.yaml")["tests"]
             for case in test.get("alert_rule_test", [])]
    fired = {case["alertname"] for case in cases if case.get("exp_alerts")}
    quiet = {case["alertname"] for case in cases if not case.get("exp_alerts")}
    assert fired == quiet == alerts, f"without a test: {alerts - fired} {alerts - quiet}"
    print(f"{len(panels)} panels, {len(alerts)} alerts with a test each")


def compose(file):
    for name, service in file["services"].items():
        for mount in service.get("volumes", []):
            source = pathlib.Path(mount["source"])
            assert mount["type"] == "volume" or source == pathlib.Path("/data") or source.exists(), source
        if service["image"].startswith("forebay/"):
            assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["user"] == "65532:65532", name
            target = service["build"]["target"]
            stages = (chart.ROOT / service["build"]["dockerfile"]).read_text()
            assert f" AS {target}\n" in stages, f"{name}: no target {target}"
    print(f"{len(file['services'])} services")


if __name__ == "__main__":
    main()
