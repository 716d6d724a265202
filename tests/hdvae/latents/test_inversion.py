"""Draws by inversion follow their distribution, also with extreme logits and noise."""

import pytest
import torch

from hdvae.latents.distributions import Categorical
from hdvae.latents.inversion import draw_classes
from tests.hdvae.latents.laws import ROWS, expanded, law_of
from tests.hdvae.oracle import assert_law, source


@pytest.mark.parametrize("shape", [(5,), (3, 3), (4, 4), (7, 7)])
def test_draws_follow_the_law_and_know_their_probability(shape):
    law = expanded(law_of(shape), ROWS)
    drawn = draw_classes(law, source(ROWS).uniform(1, len(shape), 3))
    joint = law.joint().detach()
    for c in range(3):
        assert_law(drawn.slots[:, 0, c], joint[0, 0].exp())
    pairs = drawn.slots[:, 0, 0] * law.classes + drawn.slots[:, 0, 1]
    assert_law(pairs, (joint[0, 0].exp().unsqueeze(1) * joint[0, 0].exp()).flatten())
    torch.testing.assert_close(drawn.pi, joint.gather(-1, drawn.slots).exp())


@pytest.mark.parametrize("classes", [256, 260, 300, 301])
@pytest.mark.parametrize("scale", [0.0, 1.0, 5.0])
def test_many_classes_are_drawn_in_proportion(classes, scale):
    """Evenly spaced numbers: as many of them find a class as it has weight, whichever way the sums run."""
    count = 40_000
    law = expanded(law_of((classes,), scale=scale), 1)
    drawn = draw_classes(law, ((torch.arange(count, dtype=torch.float64) + 0.5) / count).view(1, 1, 1, count))
    pi = law.joint().detach().exp()
    found = torch.bincount(drawn.slots.flatten(), minlength=classes)
    assert ((found - count * pi.flatten()).abs() < 1 + 1e-6).all()
    torch.testing.assert_close(drawn.pi, pi.gather(-1, drawn.slots.long()), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("classes", [8, 256, 301])
def test_a_class_without_weight_is_never_drawn(classes):
    """In single precision, where sums round: every third class alone has weight, and numbers lie next to all sums."""
    logits = torch.full((1, 1, classes), -1000.0)
    logits[..., 1::3] = torch.randn(1, 1, len(range(1, classes, 3)), generator=torch.Generator().manual_seed(4))
    edges = logits.softmax(-1).double().cumsum(-1).float()
    steps = torch.arange(-20, 21) * 2.0**-24
    numbers = (edges.unsqueeze(-1) + steps).clamp(0, 1 - 2.0**-24).view(1, 1, 1, -1)
    drawn = draw_classes(Categorical([logits]), numbers)
    assert (drawn.slots % 3 == 1).all()
    assert (drawn.pi > 0).all()


@pytest.mark.parametrize("number", [0.0, 1 - 2.0**-24])
@pytest.mark.parametrize("scale", [1e-3, 200.0])
@pytest.mark.parametrize("shape", [(9, 9), (8, 8), (13,), (300, 300), (301, 301)])
def test_extreme_noise_gives_classes_that_exist(number, scale, shape):
    law = expanded(law_of(shape, scale=scale, dtype=torch.float32), 4)
    drawn = draw_classes(law, torch.full((4, 1, len(shape), 2), number))
    assert ((drawn.slots >= 0) & (drawn.slots < law.classes)).all()
    assert ((drawn.pi >= 0) & (drawn.pi <= 1 + 1e-6)).all()
