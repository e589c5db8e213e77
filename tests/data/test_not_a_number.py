"""Outputs that are not numbers count as wrong."""

import torch
from torch import nn

from scalablevit.data.not_a_number import other_than, watched, wrong_where_nan


def test_a_sample_with_nan_is_wrong_at_any_rank() -> None:
    scores = torch.tensor([[torch.nan, 1.0, 0.0], [0.0, 2.0, 1.0], [torch.nan] * 3])
    targets = torch.tensor([0, 1, 0])
    ranked, lost = wrong_where_nan(scores, targets)
    assert lost == 2
    assert ranked.argmax(1).eq(targets).tolist() == [False, True, False]
    assert not ranked.topk(2).indices.eq(targets[:, None]).any(1)[0]
    assert scores[0, 0].isnan(), "what was given is left alone"
    same, lost = wrong_where_nan(scores[1:2], targets[1:2])
    assert lost == 0
    assert same.equal(scores[1:2])


def test_another_class_is_never_the_true_one() -> None:
    mask = torch.tensor([[0, 1, 2], [255, 0, 2]])
    other = other_than(mask, 3)
    assert not (other == mask).any()
    assert ((other >= 0) & (other < 3)).all()


def test_outputs_are_watched_and_no_hook_is_left() -> None:
    network = nn.Identity()
    with watched(network) as found:
        network(torch.ones(2))
        network(torch.tensor([0.0, torch.nan]))
        network({"a": torch.ones(2), "b": torch.tensor(torch.nan)})
    network(torch.tensor(torch.nan))
    assert found == [False, True, True]
