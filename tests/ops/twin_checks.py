"""What the tests of fast twins share: outputs with gradients, and how far they are off."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def randn(shape: Sequence[int], *, seed: int) -> Tensor:
    """Normal numbers, the same for the same seed, in fp64."""
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def out_and_grads(
    function: Callable[..., Tensor],
    inputs: dict[str, Tensor | None],
    dtype: torch.dtype,
    *,
    given_in: torch.dtype | None = None,
) -> dict[str, Tensor]:
    """Run `function` on the inputs cast to `dtype`: its output, and the gradient of every input, in fp64.

    The gradient that flows in differs from element to element. It and the inputs are rounded to `given_in` first.
    """
    given_in = given_in or dtype
    leaves = {
        name: None if x is None else x.to(given_in).to(dtype).detach().requires_grad_() for name, x in inputs.items()
    }
    out = function(*leaves.values())
    out.backward(randn(out.shape, seed=99).to(given_in).to(dtype))
    found = {"out": out.detach().double()}
    for name, leaf in leaves.items():
        if leaf is not None:
            assert leaf.grad is not None, f"no gradient reaches {name}"
            found[f"d{name}"] = leaf.grad.double()
    return found


def max_error(value: Tensor, exact: Tensor) -> float:
    """Largest absolute difference."""
    return (value - exact).abs().max().item()


def assert_errs_no_more_than_eager(
    fast: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    inputs: dict[str, Tensor | None],
    dtype: torch.dtype,
) -> None:
    """The fast twin may be off by at most twice what the definition itself is off in that precision.

    Exact is the definition in fp64, of the rounded numbers that both are given. On top comes the rounding of a result:
    where few numbers are compared, the definition may have been lucky with it.
    """
    exact = out_and_grads(reference, inputs, torch.float64, given_in=dtype)
    ours = out_and_grads(fast, inputs, dtype)
    if dtype == torch.float64:
        for name in exact:
            torch.testing.assert_close(
                ours[name], exact[name], rtol=1e-10, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )
        return
    eager = out_and_grads(reference, inputs, dtype)
    for name in exact:
        bound = 2 * max_error(eager[name], exact[name]) + torch.finfo(dtype).eps / 2 * exact[name].abs() + 1e-6
        excess = ((ours[name] - exact[name]).abs() - bound).max()
        assert excess <= 0, f"{name} is {excess:.2g} further off than allowed"


def assert_finite_where_defined(
    fast: Callable[..., Tensor], reference: Callable[..., Tensor], inputs: dict[str, Tensor | None]
) -> None:
    """Where the definition gives numbers the fast twin gives the same, whatever is infinite elsewhere; in fp32.

    In the output, what the definition makes infinite or NaN is so in the twin's too: nothing is hidden.
    """
    expected = out_and_grads(reference, inputs, torch.float32)
    found = out_and_grads(fast, inputs, torch.float32)
    for name, exact in expected.items():
        is_defined = exact.isfinite()
        torch.testing.assert_close(
            found[name][is_defined], exact[is_defined], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )
    assert torch.equal(found["out"].isfinite(), expected["out"].isfinite())
    assert all(expected[name].isfinite().any() for name in expected), "nothing is compared"


def assert_normalised_in_fp32(
    ours: Callable[..., Tensor], definition: Callable[..., Tensor], inputs: dict[str, Tensor]
) -> None:
    """Assert that a map in fp32 is normalised in fp32, as under autocast: the products alone are in half precision.

    Args:
        ours: the twin; arguments are the values of `inputs`.
        definition: the same, by definition.
        inputs: a map, a LayerNorm, and "weight" and "bias" of what is behind it.
    """
    mixed = [x.to(torch.bfloat16 if name in ("weight", "bias") else torch.float32) for name, x in inputs.items()]
    exact = definition(*(x.double() for x in mixed))
    eager, found = definition(*mixed), ours(*mixed)
    assert found.dtype == eager.dtype == torch.bfloat16
    assert (found - exact).abs().max() <= 2 * (eager - exact).abs().max()


def assert_strides_do_not_matter(function: Callable[..., Tensor], inputs: dict[str, Tensor]) -> None:
    """Assert that inputs which are not contiguous give the same, in bfloat16."""
    plain = [x.bfloat16() for x in inputs.values()]
    turned = [x.mT.contiguous().mT if x.dim() > 1 else torch.stack([x, x], 1)[:, 0] for x in plain]
    assert not any(x.is_contiguous() for x in turned)
    assert torch.equal(function(*turned), function(*plain))
