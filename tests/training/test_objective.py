"""The objective against formulas written out in float64."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from scedit_core.errors import BaseModelError, ConfigError
from scedit_core.fitting.objective import Objective, loss_of
from training.config import ObjectiveConfig

SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


def reference_alphas() -> torch.Tensor:
    """alpha_bar of Stable Diffusion's schedule, in float64 from its definition."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0)


def objective(prediction: str = "v_prediction", **options) -> Objective:
    return Objective(DDPMScheduler(**SD).alphas_cumprod, prediction, ObjectiveConfig(**options))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("timestep", [0, 1, 500, 998, 999])
def test_target_and_noisy_latents_follow_the_definition(prediction, timestep):
    draw = torch.Generator().manual_seed(timestep)
    x, noise = (torch.randn(2, 4, 3, 5, dtype=torch.float64, generator=draw) for _ in range(2))
    alpha = reference_alphas()[timestep]
    problem = objective(prediction).at(x.float(), noise.float(), torch.tensor([timestep, timestep]))
    torch.testing.assert_close(problem.noisy.double(), alpha.sqrt() * x + (1 - alpha).sqrt() * noise, atol=2e-6, rtol=0)
    target = noise if prediction == "epsilon" else alpha.sqrt() * noise - (1 - alpha).sqrt() * x
    torch.testing.assert_close(problem.target.double(), target, atol=2e-6, rtol=0)


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("gamma", [1.0, 5.0, 20.0])
def test_min_snr_weights_follow_the_paper(prediction, gamma):
    alphas = reference_alphas()
    snr = alphas / (1 - alphas)
    expected = snr.clamp(max=gamma) / (snr if prediction == "epsilon" else snr + 1)
    found = objective(prediction, min_snr_gamma=gamma).snr_weights(torch.arange(1000))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-4)
    assert found[0] < 0.02  # nearly clean pictures count little
    assert (found[-1] > 0.99) == (prediction == "epsilon")


def test_zero_terminal_betas_follow_the_published_algorithm():
    """Lin et al. 2023, algorithm 1, in float64."""
    root = reference_alphas().sqrt()
    first, last = root[0].clone(), root[-1].clone()
    shifted = (root - last) * first / (first - last)
    found = objective(zero_terminal_snr=True).alphas_cumprod
    torch.testing.assert_close(found.sqrt(), shifted, atol=2e-4, rtol=0)
    assert found[-1] == 0
    torch.testing.assert_close(found[0], reference_alphas()[0], atol=1e-6, rtol=0)


def test_zero_terminal_weights_are_finite():
    weights = objective(zero_terminal_snr=True, min_snr_gamma=5.0).snr_weights(torch.arange(1000))
    assert torch.isfinite(weights).all()
    assert weights[-1] == 0


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("options", [{"min_snr_gamma": 5.0}, {"weighting": "debiased"}])
def test_weights_are_finite_on_a_schedule_from_no_noise_to_no_signal(prediction, options):
    """Where both ends are reached the weights are limits; between them they are the formulas, to the bit."""
    alphas = torch.linspace(1, 0, 1000)
    found = Objective(alphas, prediction, ObjectiveConfig(**options)).snr_weights(torch.arange(1000))
    assert torch.isfinite(found).all()
    assert found[0] == 0
    snr = (alphas.double() / (1 - alphas.double()))[1:-1]
    epsilon = prediction == "epsilon"
    if "weighting" in options:
        expected = 1 / snr.sqrt() if epsilon else snr.sqrt() / (snr + 1)
    else:
        expected = snr.clamp(max=5.0) / (snr if epsilon else snr + 1)
    assert torch.equal(found[1:-1], expected.float())
    assert found[-1] == (found[-2] if epsilon else 0)


def test_a_base_with_zero_terminal_betas_keeps_them():
    own = DDIMScheduler(**SD, rescale_betas_zero_snr=True).alphas_cumprod
    for wish in ("auto", True):
        assert Objective(own, "v_prediction", ObjectiveConfig(zero_terminal_snr=wish)).alphas_cumprod[-1] < 1e-6
    with pytest.raises(ConfigError, match="set it to auto"):
        Objective(own, "v_prediction", ObjectiveConfig(zero_terminal_snr=False))


def test_what_cannot_be_is_refused():
    with pytest.raises(ConfigError, match="zero_terminal_snr"):
        objective("epsilon", zero_terminal_snr=True)
    with pytest.raises(BaseModelError, match="epsilon or v_prediction"):
        objective("sample")


def test_each_process_sees_its_rows_of_one_batch():
    one = objective(noise_offset=0.1)
    latents = torch.randn(6, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    whole = one.pose(latents, seed=3, step=17)
    for rank in range(2):
        half = one.pose(latents[rank::2], seed=3, step=17, size=6, part=(rank, 2))
        for name in ("noisy", "timesteps", "target", "weights"):
            assert torch.equal(getattr(half, name), getattr(whole, name)[rank::2]), name
    other = one.pose(latents, seed=3, step=18)
    assert not torch.equal(other.noisy, whole.noisy)


def test_noise_offset_moves_whole_channels():
    latents = torch.zeros(400, 4, 16, 16)
    plain, moved = (objective("epsilon", noise_offset=o).pose(latents, 0, 0).target for o in (0.0, 0.5))
    means = moved.mean((2, 3)) - plain.mean((2, 3))
    assert abs(means.std() - 0.5) < 0.03
    assert (moved - plain).var((2, 3)).max() < 1e-10


def test_masks_and_weights_in_the_loss():
    one = objective("epsilon")
    latents = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    problem = one.pose(latents, 0, 0)
    answer = problem.target.clone()
    answer[:, :, :4] += 2.0  # wrong in the upper half only
    plain = loss_of(answer, problem)
    torch.testing.assert_close(plain, torch.tensor(2.0))
    masks = torch.zeros(3, 1, 8, 8)
    masks[:, :, 4:] = 1
    assert loss_of(answer, problem, masks) == 0
    torch.testing.assert_close(loss_of(answer, problem, 1 - masks), torch.tensor(4.0))
    assert loss_of(answer, problem, torch.zeros(3, 1, 8, 8)) == 0
    assert loss_of(answer, problem, torch.ones(3, 1, 8, 8)) == pytest.approx(plain.item(), rel=1e-6)
    weights = torch.tensor([1.0, 0.0, 0.5])
    torch.testing.assert_close(loss_of(answer, problem, None, weights), torch.tensor(1.0))


# ---- timesteps, weighting, and the Huber loss ----


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_debiased_weights_follow_the_paper(prediction):
    """1 / sqrt(snr) of the error of epsilon; that of v is (snr + 1) / snr of it."""
    alphas = reference_alphas()
    snr = alphas / (1 - alphas)
    expected = snr**-0.5 * (1 if prediction == "epsilon" else snr / (snr + 1))
    found = objective(prediction, weighting="debiased").snr_weights(torch.arange(1000))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-4)
    zero = objective("v_prediction", weighting="debiased", zero_terminal_snr=True).snr_weights(torch.tensor([999]))
    assert zero.item() == 0


def drawn(**options) -> torch.Tensor:
    made = objective(**options)
    return made._drawn(20000, torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize("span", [None, (200, 599)])
def test_timesteps_are_drawn_from_the_range_in_the_shares_that_are_asked_for(span):
    """Means of densities that are even, fall or rise linearly; of the logit-normal one, the share of the middle half,
    |x| < log 3 of a normal x."""
    first, last = span or (0, 999)
    means = {"uniform": 1 / 2, "low": 1 / 3, "high": 2 / 3, "middle": 1 / 2}
    for how, mean in means.items():
        place = (drawn(timestep_sampling=how, timestep_range=span) - first) / (last + 1 - first)
        assert 0 <= place.min() < 0.02
        assert 0.98 < place.max() < 1
        assert place.mean().item() == pytest.approx(mean, abs=0.01)
    assert ((place > 0.25) & (place < 0.75)).double().mean().item() == pytest.approx(0.728, abs=0.01)


def test_the_range_of_timesteps_ends_with_those_of_the_base():
    assert objective(timestep_range=(999, 999)).pose(torch.zeros(3, 4, 2, 2), 0, 0).timesteps.tolist() == [999] * 3
    with pytest.raises(ConfigError, match=r"timestep_range: expected timesteps from 0 to 999, found \[0, 1000\]"):
        objective(timestep_range=(0, 1000))


def test_the_huber_loss_is_the_square_for_small_errors_and_the_size_for_large_ones():
    x, noise = torch.zeros(1, 4, 2, 2), torch.zeros(1, 4, 2, 2)
    problem = objective("epsilon", loss="huber", huber_delta=0.1).at(x, noise, torch.tensor([500]))
    for error, expected in ((1e-3, 1e-6), (0.1, 2 * 0.1 * (0.02**0.5 - 0.1)), (100.0, 2 * 0.1 * (100 - 0.1))):
        found = loss_of(torch.full_like(x, error), problem).item()
        assert found == pytest.approx(expected, rel=1e-3)
    plain = objective("epsilon").at(x, noise, torch.tensor([500]))
    assert loss_of(torch.full_like(x, 0.1), plain).item() == pytest.approx(0.01, rel=1e-5)


def test_the_delta_falls_from_one_to_what_is_set():
    made = objective("epsilon", loss="huber", huber_delta=0.01, huber_schedule="falling")
    assert made.huber_deltas(torch.tensor([0, 999])).tolist() == pytest.approx([1.0, 0.01])
    assert made.huber_deltas(torch.tensor([499])).item() == pytest.approx(0.01 ** (499 / 999), rel=1e-5)
    constant = objective("epsilon", loss="huber", huber_delta=0.01)
    assert constant.huber_deltas(torch.tensor([0, 999])).tolist() == pytest.approx([0.01, 0.01])
