"""Losses against torch's own, against their definitions written as loops, and against finite differences."""

import math

import pytest
import torch
from torch.nn import functional

from twofold.data.labels import builtin_taxonomy
from twofold.fuse.core.losses import adjust_logits, smooth_labels, soft_cross_entropy
from twofold.fuse.core.settings import Settings
from twofold.fuse.heads.head import build
from twofold.fuse.training.data import Batch
from twofold.fuse.training.ensemble import Spec, initialise
from twofold.fuse.training.loop import contrastive_loss


def _problem(members=3, rows=10, classes=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(members, rows, classes, generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, classes, (members, rows), generator=generator)


def test_with_one_class_a_face_it_is_torchs_weighted_cross_entropy():
    logits, label = _problem()
    weight = torch.tensor([0.5, 1.0, 2.0, 4.0, 0.1])
    found = soft_cross_entropy(logits, functional.one_hot(label, 5).float(), weight[label])
    for member in range(3):
        expected = functional.cross_entropy(logits[member].float(), label[member], weight=weight)
        assert found[member].item() == pytest.approx(expected.item(), rel=1e-5)


def test_label_smoothing_is_torchs():
    logits, label = _problem()
    target = smooth_labels(functional.one_hot(label, 5).float(), 0.2)
    found = soft_cross_entropy(logits, target, torch.ones(3, 10))
    expected = functional.cross_entropy(logits[0].float(), label[0], label_smoothing=0.2)
    assert found[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_faces_without_a_class_weigh_nothing_and_none_at_all_is_zero():
    logits, label = _problem()
    target, weight = functional.one_hot(label, 5).float(), torch.ones(3, 10)
    weight[:, 5:] = 0
    assert torch.allclose(soft_cross_entropy(logits, target, weight),
                          soft_cross_entropy(logits[:, :5], target[:, :5], weight[:, :5]))
    assert (soft_cross_entropy(logits, target, weight * 0) == 0).all()


def test_logit_adjustment_adds_the_log_of_the_prior():
    prior = torch.tensor([0.7, 0.3])
    found = adjust_logits(torch.zeros(1, 1, 2), prior, 1.0).softmax(dim=-1)[0, 0]
    assert torch.allclose(found, prior)  # a model that knows nothing is right to say the prior
    assert torch.equal(adjust_logits(torch.ones(1, 2), prior, 0.0), torch.ones(1, 2))


def _contrastive_by_loops(z, positive, temperature):
    """Equation 2 of Khosla et al., word by word."""
    total, anchors = 0.0, 0
    for i in range(len(z)):
        others = [a for a in range(len(z)) if a != i]
        mine = [p for p in others if positive[i][p]]
        if not mine:
            continue
        below = sum(math.exp(float(z[i] @ z[a]) / temperature) for a in others)
        total += -sum(math.log(math.exp(float(z[i] @ z[p]) / temperature) / below) for p in mine) / len(mine)
        anchors += 1
    return total / max(anchors, 1)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_the_contrastive_loss_is_its_definition(temperature):
    generator = torch.Generator().manual_seed(0)
    z = functional.normalize(torch.randn(2, 9, 4, generator=generator, dtype=torch.float64), dim=-1)
    label = torch.tensor([[0, 0, 1, 1, 1, 2, 3, 3, 0], [0, 1, 2, 3, 4, 5, 6, 7, 8]])
    positive = label[:, :, None] == label[:, None]
    found = contrastive_loss(z, positive, temperature)
    assert found[0].item() == pytest.approx(_contrastive_by_loops(z[0], positive[0], temperature), rel=1e-4)
    assert found[1].item() == 0  # nobody has company


@pytest.mark.parametrize("weights", [(0.0, 0.0), (0.7, 0.0), (0.0, 0.3), (0.5, 0.1)])
def test_the_papers_loss_is_the_sum_of_its_three_terms(weights):
    """L_ce + a L_basic + b L_CL (arXiv 2407.12257, Fig. 1), each by torch's own functions and by loops."""
    head = build(Spec(kind="paper", dims=(6,), classes=builtin_taxonomy("cexpr7").classes, members=2, hidden=8))
    initialise(head, (0, 1))
    generator = torch.Generator().manual_seed(0)
    label = torch.tensor([[0, 0, 1, 2, -1]]).expand(2, -1)
    batch = Batch(torch.randn(2, 5, 6, generator=generator), torch.zeros(2, 5, 7), torch.ones(2, 5),
                  torch.rand(2, 5, 8, generator=generator).softmax(dim=-1), label)
    settings = Settings(basic_weight=weights[0], contrastive_weight=weights[1], contrastive_temperature=0.5)
    output, l_ce = head(batch.x), torch.tensor([2.0, 3.0])
    found = head.add_losses(l_ce, output, batch, settings)
    for member, z in enumerate(head.projections(batch.x).detach()):
        l_basic = functional.cross_entropy(output.basic[member], batch.basic[member]).item()
        l_cl = _contrastive_by_loops(z, (label[member, :, None] == label[member]).tolist(), 0.5)
        assert found[member].item() == pytest.approx(2.0 + member + weights[0] * l_basic + weights[1] * l_cl, rel=1e-4)
