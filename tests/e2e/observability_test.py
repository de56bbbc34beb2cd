"""What the dashboard and the alerts read is there, and the runbook says what each alert means."""

import json
import re

from conftest import ROOT

BOARD = ROOT / "deploy/grafana/sluice.json"
ALERTS = ROOT / "deploy/prometheus/alerts.yml"


def metrics_of(text):
    return set(re.findall(r"\bsluice_\w+", text))


def test_every_metric_of_dashboard_alerts_and_autoscaling_is_exposed(demo):
    demo.post("/v1/completions", {"prompt": "The fox", "max_tokens": 2})  # there are ended requests then
    exposed = {line.split("{")[0].split(" ")[0]
               for line in demo.http.get("/metrics").text.splitlines() if line and line[0] != "#"}
    board = json.loads(BOARD.read_text())
    panels = [p for p in board["panels"] if p["type"] != "row"]
    expressions = [t["expr"] for p in panels for t in p["targets"]]
    scaling = ROOT / "deploy/kubernetes/overlays/autoscaling"
    expressions += [ALERTS.read_text(), (scaling / "autoscaler.yaml").read_text()]
    wanted = set().union(*map(metrics_of, expressions))
    assert len(panels) > 20 and len(wanted) > 25
    assert wanted <= exposed, sorted(wanted - exposed)


def test_the_runbook_has_every_alert():
    runbook = (ROOT / "docs/runbook.md").read_text()
    alerts = re.findall(r"- alert: (\w+)", ALERTS.read_text())
    tested = (ROOT / "tests/deploy/alerts_test.yml").read_text()
    assert len(alerts) >= 12
    for name in alerts:
        assert f"### {name}" in runbook, name
        assert f'alertname="{name}"' in tested, name
