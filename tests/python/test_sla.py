"""The SLA tracker's figures for predictions through the front door."""

from __future__ import annotations

import pytest

from poll import until
from truth import truth

FOREST = "breast-cancer-forest"
FIGURES = ["uptime_percentage", "response_time_p95", "coverage_percentage"]
# The balancer reports every 5 s.
REPORTED_WITHIN_S = 20


@pytest.fixture
def predicted(rest, platform):
    row = [float(value) for value in truth(FOREST, "2").features[0]]
    request = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, len(row)], "data": row}]}
    for _ in range(20):
        response = rest.post(f"/v2/models/{FOREST}/infer", json=request, headers=platform.bearer("analyst"))
        assert response.status_code == 200, response.text


def test_uptime_p95_and_coverage_are_figures_after_predictions(rest, predicted):
    """Without a token: the summary is public."""

    def figures() -> dict | None:
        response = rest.get("/api/sla/ml-services/current")
        assert response.status_code == 200, response.text
        current = response.json()
        return current if all(isinstance(current[name], int | float) for name in FIGURES) else None

    current = until("figures instead of nothing", REPORTED_WITHIN_S, figures)
    assert 0 < current["uptime_percentage"] <= 100
    assert 0 < current["coverage_percentage"] <= 100
    assert 0 < current["response_time_p95"] < 60_000
