"""docs/deployment.md says what the results of the deployment benchmark give."""

import json

import pytest
import torch

import deployment
from deployment import EAGER, PAGE, PLAIN, RESULTS, Part, cpu_features, filled, table


def test_page_is_what_the_results_give() -> None:
    page = PAGE.read_text()
    assert "<!-- table: deployment -->" in page
    assert filled(page) == page, "run benchmarks/deployment.py"


@pytest.mark.parametrize("path", sorted(RESULTS.glob("deployment-*.json")), ids=lambda p: p.stem)
def test_written_results_are_whole(path) -> None:
    result = json.loads(path.read_text())
    assert result["device"]
    for part in result["parts"].values():
        assert set(part["conditions"]) >= {"date", "commit", "device", "torch", "threads"}
        for found in part["forms"].values():
            assert len(found["seconds"]) == part["rounds"]
            assert found["images_per_second"] > 0


def test_forms_are_timed_in_turns_and_compared(tmp_path) -> None:
    network = torch.nn.Conv2d(3, 4, 3).eval()
    part = Part(network, mean=(0.0,) * 3, std=(1.0,) * 3, images=torch.rand(2, 3, 8, 8), folder=tmp_path)
    twice = torch.nn.Conv2d(3, 4, 3).eval()
    with torch.no_grad():
        twice.weight.copy_(network.weight * 2)
        twice.bias.copy_(network.bias * 2)
    part.networks["twice"] = twice
    found = part.measure(rounds=2)
    assert found["forms"]["twice"]["difference"] == pytest.approx(1, abs=1e-5)
    assert found["forms"][EAGER]["median_of_ratios"] == 1
    assert found["forms"][EAGER]["bytes"] == 4 * (4 * 27 + 4)
    about = {"date": "2026-01-02T03:04:05", "commit": "abc", "torch": "2", "threads": 2}
    forms = {**found["forms"], PLAIN: found["forms"][EAGER]}
    whole = {"title": "net", **found, "forms": forms, "conditions": about}
    text = table({"device": "a CPU", "features": [], "parts": {"x": whole}})
    assert "none of avx2" in text
    assert "speed, plain definition = 1" in text
    assert "| twice |" in text
    measured = {**whole, "metric": "mIoU", "forms": {EAGER: {**found["forms"][EAGER], "metric": 0.5}}}
    assert "| 50.00% |" in table({"device": "a CPU", "features": ["avx2"], "parts": {"x": measured}})


def test_features_are_known_ones() -> None:
    assert set(cpu_features()) <= set(deployment.FEATURES)


def test_detectors_are_compared_by_their_scores(tmp_path) -> None:
    class Detector(torch.nn.Module):
        def __init__(self, scores: list[float]) -> None:
            super().__init__()
            self.scores = scores

        def forward(self, images: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            return [{"scores": torch.tensor(self.scores)} for _ in images]

    images = [torch.rand(3, 8, 9)]
    part = Part(Detector([0.8, 0.4]), mean=(0.0,) * 3, std=(1.0,) * 3, images=images, folder=tmp_path)
    part.networks["one less"] = Detector([0.8])
    part.networks["one more"] = Detector([0.8, 0.4, 0.1])
    found = part.measure(rounds=2)
    assert found["images"] == [1, 3, 8, 9]
    differences = [found["forms"][name]["difference"] for name in (EAGER, "one less", "one more")]
    assert differences == pytest.approx([0, 0.5, 0.125])
    about = {"date": "2026-01-02T03:04:05", "commit": "abc", "torch": "2", "threads": 2}
    forms = {EAGER: {**found["forms"][EAGER], "metric": 0.5, "mask_ap": 0.25}}
    part_found = {"title": "net", **found, "forms": forms, "conditions": about, "metric": "box AP"}
    text = table({"device": "a CPU", "features": [], "parts": {"x": part_found}})
    assert "| box AP | mask AP |" in text
    assert "| 50.00% | 25.00% |" in text
