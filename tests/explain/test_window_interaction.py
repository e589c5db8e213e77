"""Interaction between windows: zero without LIM, and what passes a stage."""

import torch

from scalablevit.backbone import ScalableViT
from scalablevit.explain.window_interaction import exchanged, window_interaction

TINY = dict(embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2), depths=(2, 2, 2, 2), head="plain", window_size=3)


def tiny(**options):
    torch.manual_seed(0)
    return ScalableViT(num_classes=3, **{**TINY, **options}).eval()


def images_of(height=96, width=80, batch=2):
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def test_black_windows_swap_their_content_and_white_ones_keep_it():
    x = torch.arange(7 * 9.0).view(1, 7, 9, 1)  # 2 x 3 whole windows, and a row that is none
    changed, is_white = exchanged(x, (3, 3))
    black = ~is_white
    black[6:] = False
    assert torch.equal(changed[:, is_white], x[:, is_white])
    assert torch.equal(changed[:, 6:], x[:, 6:])
    assert not (changed[:, black] == x[:, black]).any()
    assert torch.equal(changed[:, black].sort(dim=1).values, x[:, black].sort(dim=1).values)  # the same tokens
    assert int(is_white.sum()) == 3 * 9
    turned, _ = exchanged(torch.arange(2.0 * 4).view(1, 2, 4, 1), (2, 2))  # one black window: turned in its place
    assert turned[0, :, :, 0].tolist() == [[0, 1, 7, 6], [4, 5, 3, 2]]


def test_windows_interact_by_lim_alone_inside_iwsa():
    model, images = tiny(), images_of()
    found = window_interaction(model, images)
    assert [stage.stage for stage in found] == [0, 1, 2]  # the last map, 3 x 3, is one window
    for stage in found:
        assert stage.attention.shape == (2,)
        assert (stage.attention > 0.01).all()
        assert torch.equal(stage.attention_without_lim, torch.zeros(2))
        assert (stage.stage_end > 0).all()
        assert (stage.stage_end_without_lim > 0).all()  # SSA and PEG pass something on
    without = window_interaction(tiny(lim=False), images)
    assert all(torch.equal(stage.attention, torch.zeros(2)) for stage in without)
    assert model.stages[0].blocks[0].attn.lim is not None
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_nothing_passes_a_stage_of_windows_alone():
    alone = window_interaction(tiny(pattern=("iwsa",), lim=False, peg=False), images_of())
    assert all(torch.equal(stage.stage_end, torch.zeros(2)) for stage in alone)
    by_lim = window_interaction(tiny(pattern=("iwsa",), peg=False), images_of())
    assert all((stage.stage_end > 0).all() for stage in by_lim)
    assert all(torch.equal(stage.stage_end_without_lim, torch.zeros(2)) for stage in by_lim)


def test_networks_without_windows_have_no_stage():
    assert window_interaction(tiny(pattern=("ssa",)), images_of()) == []
    assert window_interaction(tiny(), images_of(8, 8)) == []
