"""The training loop: members that do not mix, options that do what they say, chance that repeats."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from twofold.data.labels import BASIC, basic_pair, builtin_taxonomy
from twofold.fuse.core.kinds import Classification, one_hot
from twofold.fuse.core.settings import Settings
from twofold.fuse.heads.fusion import find_weights
from twofold.fuse.heads.head import build
from twofold.fuse.training.data import Batch, Samples, fit_scaler, mix_compounds, mixup, pools
from twofold.fuse.training.ensemble import MemberRandom, Spec, StackedMLP, initialise
from twofold.fuse.training.loop import (
    _members_at_once,
    _validate,
    flushed_denormals,
    positive_pairs,
    rate_factor,
    train,
)
from twofold.fuse.training.optimiser import BestWeights

CLASSES = builtin_taxonomy("cexpr7").classes
PARTS = builtin_taxonomy("cexpr7").basics
CPU = torch.device("cpu")


def _examples(rows=300, dim=10, seed=0, shares=None, noise=1.0, resident=True):
    generator = np.random.default_rng(seed)
    label = generator.choice(7, rows, p=shares)
    x = (np.random.default_rng(9).standard_normal((7, dim))[label] + noise * generator.standard_normal((rows, dim)))
    x = x.astype(np.float32)
    mean, std = fit_scaler(lambda some: x[some], np.arange(rows))
    made = Samples(task=Classification(builtin_taxonomy("cexpr7")), target=one_hot(label, 7), label=label,
                   basic=np.zeros((rows, 8), np.float32), basic_label=label % 7 + 1,
                   read=lambda some: (x[some] - mean) / std, device=CPU)
    return made.resident() if resident else made


def _train(settings, data, val, seeds=(0,), dims=(10,), kind="mlp", together=0, precision="fp32"):
    spec = Spec(kind=kind, dims=dims, classes=CLASSES, members=len(seeds), hidden=16, dropout=settings.dropout)
    head = build(spec)
    initialise(head, seeds)
    return head, train(head, data, val, spec=spec, settings=settings, seeds=seeds, together=together,
                       precision=precision)


QUICK = Settings(epochs=6, lr=1e-2, warmup=1, hidden=16, compound_mixup=0.0, stream_dropout=0.0,
                 balanced_sampling=0.0, label_smoothing=0.0, batch_size=128)


@pytest.mark.parametrize("kind", ["mlp", "gated", "paper", "linear"])
def test_members_learn_the_same_in_groups_of_any_size(kind):
    data, val = _examples(noise=3.0), _examples(noise=3.0, seed=1)
    settings = replace(QUICK, epochs=12, patience=2, dropout=0.3, mixup=0.4)  # members end at different epochs
    made = [_train(settings, data, val, seeds=(3, 4, 5), kind=kind, together=size) for size in (3, 2, 1)]
    for head, history in made[1:]:
        for a, b in zip(made[0][0].parameters(), head.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-4)
        assert history == sorted(history, key=lambda line: (line.epoch, line.member))
        for member in range(3):
            own = [line.score for line in history if line.member == member]
            assert own == [line.score for line in made[0][1] if line.member == member][:len(own)]


def test_wide_heads_train_in_groups_on_a_cpu_and_all_at_once_where_features_are_streamed():
    spec = Spec(kind="mlp", dims=(2816,), classes=CLASSES, members=8, hidden=512)
    resident, streamed = (_examples(rows=20, dim=2816, resident=resident) for resident in (True, False))
    wide, narrow = (build(replace(spec, hidden=hidden)) for hidden in (512, 8))
    assert [_members_at_once(wide, resident, QUICK), _members_at_once(wide, streamed, QUICK)] == [5, 8]
    assert _members_at_once(narrow, resident, QUICK) > 8
    long_rows = _examples(rows=20, dim=12 * 768)
    assert _members_at_once(narrow, long_rows, replace(QUICK, batch_size=256)) == 1


def test_validation_passes_no_more_rows_for_many_members_than_for_one():
    data, passed = _examples(rows=40), []
    head = build(Spec(kind="mlp", dims=(10,), classes=CLASSES, members=3, hidden=4))
    head.register_forward_pre_hook(lambda _, args: passed.append(len(head.mlp.last.weight) * args[0].numel()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twofold.fuse.training.data.BLOCK_NUMBERS", 300)
        _validate(head, data, "fp32")
    assert max(passed) == 300 and sum(passed) == 3 * 40 * 10


@pytest.mark.parametrize("before", [False, True])
def test_how_denormals_count_is_as_before_once_a_head_has_learned(before):
    """An encoder that runs in the same process afterwards rounds as in any other."""
    torch.set_flush_denormal(before)
    try:
        with flushed_denormals():
            assert torch.tensor(1e-40) * 1 == 0
        assert (torch.tensor(1e-40) * 1 == 0) == before
    finally:
        torch.set_flush_denormal(False)


def test_bf16_learns_within_autocast_of_a_caller_as_without():
    data, val = _examples(noise=2.0), _examples(noise=2.0, seed=1)
    alone = _train(QUICK, data, val, precision="bf16")[1]
    with torch.autocast("cpu", enabled=False):  # which keeps torch's cache of cast weights
        within = _train(QUICK, data, val, precision="bf16")[1]
    assert within == alone != _train(QUICK, data, val)[1]


def test_without_options_it_is_a_plain_torch_loop():
    """One member against nn.Sequential with torch's Adam and cross-entropy on the same order of the same batches."""
    data, val = _examples(rows=100), _examples(seed=1)
    settings = replace(QUICK, epochs=1, batch_size=25, warmup=0, schedule="constant", lr=1e-3)
    spec = Spec(kind="mlp", dims=(10,), classes=CLASSES, members=1, hidden=16)
    head = build(spec)
    initialise(head, (7,))
    plain = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 7))
    with torch.no_grad():
        for layer, ours in ((plain[0], head.mlp.first), (plain[2], head.mlp.last)):
            layer.weight.copy_(ours.weight[0].T)
            layer.bias.copy_(ours.bias[0, 0])
    train(head, data, val, spec=spec, settings=settings, seeds=(7,))
    optimiser = torch.optim.Adam(plain.parameters(), lr=1e-3)
    for some in MemberRandom((7,), CPU).order(100)[0].split(25):
        optimiser.zero_grad()
        nn.functional.cross_entropy(plain(data.x[some]), torch.from_numpy(data.label)[some]).backward()
        optimiser.step()
    assert torch.allclose(head.mlp.first.weight[0].T, plain[0].weight, atol=1e-5)


def test_streamed_features_train_as_well_as_resident_ones():
    kept = []
    for resident in (True, False):  # 9,000 rows: two blocks
        _, history = _train(replace(QUICK, epochs=3), _examples(rows=9_000, resident=resident), _examples(seed=1))
        kept.append(max(line.score for line in history))
    assert kept[1] == pytest.approx(kept[0], abs=0.04) and kept[0] > 0.6


def test_streamed_blocks_hold_every_face_once_in_another_order_each_time():
    data = _examples(rows=20_000, dim=2, resident=False)
    generator = np.random.default_rng(0)
    orders = [np.concatenate([positions for positions, _ in data.blocks(generator)]) for _ in range(2)]
    assert not np.array_equal(*orders)
    assert all(np.array_equal(np.sort(order), np.arange(20_000)) for order in orders)
    for positions, x in data.blocks(generator):
        assert torch.allclose(x, torch.from_numpy(data.read(positions)))


def test_the_scale_is_numpys_and_a_constant_column_stays_finite():
    x = np.random.default_rng(0).normal(50, 3, (20_000, 5)).astype(np.float32)
    x[:, 2] = 7.25
    mean, std = fit_scaler(lambda rows: x[rows], np.arange(len(x)))
    assert np.allclose(mean, x.mean(axis=0, dtype=np.float64), rtol=1e-5)
    assert np.allclose(np.delete(std, 2), np.delete(x.std(axis=0, dtype=np.float64), 2), rtol=1e-4)
    assert std[2] == 1 and mean[2] == 7.25


def _minority_calls(**options):
    """How often the rarest class is called on balanced faces after training on skewed ones."""
    skewed = _examples(rows=400, noise=2.0, shares=[0.5, 0.2, 0.1, 0.1, 0.05, 0.03, 0.02])
    head, _ = _train(replace(QUICK, epochs=15, **options), skewed, skewed)
    return int((head(_examples(rows=700, noise=2.0, seed=5).x).logits.argmax(-1) >= 4).sum())


@pytest.mark.parametrize("options", [{"class_weights": 1.0}, {"balanced_sampling": 1.0}, {"logit_adjustment": 1.0}])
def test_what_is_against_imbalance_calls_rare_classes_more_often(options):
    assert _minority_calls(**options) > 1.3 * _minority_calls()


def test_smoothing_and_decay_keep_the_head_modest():
    data = _examples(noise=0.3)

    def size(**options):
        head, _ = _train(replace(QUICK, epochs=20, **options), data, data)
        return head(data.x).logits.std().item()

    assert size(label_smoothing=0.3) < 0.8 * size()
    assert size(weight_decay=3.0) < 0.9 * size()


def test_patience_ends_training_and_averaging_differs_from_the_last_step():
    data, val = _examples(noise=3.0), _examples(noise=3.0, seed=1)
    _, short = _train(replace(QUICK, epochs=200, patience=3), data, val)
    best = max(range(len(short)), key=lambda epoch: short[epoch].score)
    assert len(short) == best + 1 + 3
    once = replace(QUICK, epochs=1, batch_size=8, schedule="constant")
    last, short, long = (_train(replace(once, ema=ema), data, val)[0].mlp.first.weight for ema in (0.0, 0.5, 0.99))
    assert (long - last).norm() > 1.5 * (short - last).norm() > 0  # the longer average is further behind


def test_the_best_epoch_is_kept_and_a_member_out_of_patience_takes_no_more():
    weight = torch.zeros(3, 1)
    best = BestWeights([weight], 3)
    for epoch, found in enumerate([(0.5, 0.1, 0.5), (0.4, 0.2, 0.5), (0.9, 0.3, 0.4)], 1):
        weight.fill_(epoch)
        best.update([weight], found, patience=1)
    assert best.weights[0].flatten().tolist() == [1, 3, 1]  # of equal epochs the first


def test_the_rate_warms_up_then_falls_as_a_cosine():
    settings = replace(QUICK, epochs=11, warmup=1)
    assert [round(rate_factor(progress, settings), 3) for progress in (0.5, 1, 6, 11)] == [0.5, 1, 0.5, 0]
    assert rate_factor(9, replace(settings, schedule="constant")) == 1


def _batch(members=2, rows=64, dim=6):
    label = torch.arange(rows).remainder(7).expand(members, rows)
    return Batch(torch.randn(members, rows, dim), nn.functional.one_hot(label, 7).float(), torch.ones(members, rows),
                 torch.zeros(members, rows, 8), label)


def test_mixup_mixes_features_and_labels_by_the_same_share():
    batch = replace(_batch(), x=_batch().target.repeat(1, 1, 1))
    mixed = mixup(batch, 0.5, MemberRandom((0, 1), CPU), classes=7)
    assert torch.allclose(mixed.x, mixed.target, atol=1e-6)
    assert torch.allclose(mixed.target.sum(-1), torch.ones(2, 64)) and not torch.equal(mixed.target, batch.target)


def test_made_compounds_lie_between_faces_of_their_two_basics():
    basic_label = np.repeat(np.arange(8), 5)
    x = nn.functional.one_hot(torch.from_numpy(basic_label), 8).float()
    batch = replace(_batch(dim=8), x=torch.zeros(2, 64, 8))
    made = mix_compounds(batch, x, pools(basic_label, PARTS, CPU), 0.25, torch.ones(7), MemberRandom((0, 1), CPU))
    assert (made.x[:, :48] == 0).all() and (made.label[:, 48:] == -1).all()
    for member, row in [(0, 48), (0, 63), (1, 50)]:
        present = {BASIC[e] for e in np.flatnonzero(made.x[member, row].numpy())}
        assert present == set(basic_pair(CLASSES[int(made.target[member, row].argmax())]))
        assert made.x[member, row].min() >= 0 and made.x[member, row].max() <= 0.7 + 1e-6
    assert pools(np.full(10, -1), PARTS, CPU) is None


def test_dropout_keeps_the_mean():
    mask = MemberRandom((0,), CPU).keep(0.3, 500, 500)
    assert mask.mean().item() == pytest.approx(1, abs=0.01)
    assert (mask == 0).float().mean().item() == pytest.approx(0.3, abs=0.01)


def test_stacked_layers_are_their_members():
    stack = StackedMLP(3, 6, 5, 4, 0.0)
    initialise(stack, (0, 1, 2))
    x = torch.randn(8, 6)
    for member in range(3):
        h = (x @ stack.first.weight[member] + stack.first.bias[member]).relu()
        assert torch.allclose(stack(x)[member], h @ stack.last.weight[member] + stack.last.bias[member], atol=1e-6)


def test_versions_of_a_face_and_faces_of_a_class_belong_together():
    table = positive_pairs(torch.tensor([[0, 0, -1, -1]]), 8)[0]
    assert table[0, 1] and table[0, 5] and table[2, 6] and not table[2, 3] and not table[2, 7] and not table[0, 2]


@pytest.mark.parametrize("how", ["weighted", "per-class"])
def test_late_weights_leave_a_useless_head_aside(how):
    generator = np.random.default_rng(0)
    truth = np.arange(300) % 3
    good = 0.2 * np.eye(3)[truth] + 0.27 + 0.05 * generator.random((300, 3))
    bad = np.eye(3)[generator.integers(0, 3, 300)]
    found = np.stack([good / good.sum(1, keepdims=True), bad])
    weights = find_weights(found, truth, how=how, seed=0)
    assert np.allclose(weights.sum(axis=0), 1) and (weights[0] > 0.7).all()
    assert (find_weights(found, truth, how="mean", seed=0) == 0.5).all()


def test_a_paper_head_starts_at_the_pairs_and_ignores_enhanced_columns_in_prediction():
    spec = Spec(kind="paper", dims=(4, 2), classes=CLASSES, members=2, hidden=8)
    head = build(spec)
    initialise(head, (0, 1))
    x = torch.randn(2, 5, 18)
    assert torch.equal(head(x).logits, head(x[..., :6]).logits)
    assert torch.equal(head.pairs[0].sum(0), torch.full((7,), 2.0))
    z = head.projections(x)
    assert z.shape == (2, 15, 128) and torch.allclose(z.norm(dim=-1), torch.ones(2, 15), atol=1e-5)


def test_gates_are_shares():
    spec = Spec(kind="gated", dims=(4, 2), classes=CLASSES, members=2, hidden=8)
    head = build(spec)
    initialise(head, (0, 1))
    gates = head(torch.randn(5, 6)).stream_weights
    assert gates.shape == (2, 5, 2) and torch.allclose(gates.sum(-1), torch.ones(2, 5), atol=1e-6)
