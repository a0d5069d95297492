"""Does the suite notice a bug in what figures depend on? `python -m tests.mutations [WORDS ...]`.

Each mutation is one deliberate bug in training, selection, calibration, splitting or statistics. The tree is copied,
one bug at a time is put into it, and the tests that should notice run until the first one fails. WORDS: only mutations
whose description contains one of them. Takes some seconds a mutation; ends with code 1 if more than two survive.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MOST_SURVIVORS = 2


class Mutation(NamedTuple):
    """A bug: `old`, which stands once in the file below fuse/, becomes `new`. tests: names below tests/fuse/test_*."""

    bug: str
    file: str
    old: str
    new: str
    tests: str


MUTATIONS = [Mutation(*fields) for fields in (
    # training
    ("L_ce is dropped", "training/loop.py", "loss = task.loss(", "loss = 0 * task.loss(", "training"),
    ("L_basic is dropped", "heads/fusion.py", "settings.basic_weight * soft_cross_entropy",
     "0 * soft_cross_entropy", "losses"),
    ("L_CL is dropped", "heads/fusion.py", "settings.contrastive_weight * contrastive_loss(", "0 * contrastive_loss(",
     "losses"),
    ("weights of samples are ignored", "core/losses.py", "return (weights * each).sum(dim=-1) / weights.sum(dim=-1)",
     "return each.sum(dim=-1) / torch.ones_like(weights).sum(dim=-1)", "losses training"),
    ("class weights are ignored", "training/loop.py", ") ** settings.class_weights", ") ** 0",
     "training_details training figures_hold"),
    ("the logit adjustment has the wrong sign", "core/losses.py", "logits + tau * prior", "logits - tau * prior",
     "losses training"),
    ("labels are not smoothed", "core/kinds.py", " smooth_labels(target, settings.label_smoothing), weight)",
     " target, weight)", "training training_details"),
    ("sampling is not balanced", "training/loop.py", "random.sample(weight[drawn], len(drawn))",
     "random.order(len(drawn))", "training training_details"),
    ("corrections start from raw counts", "training/loop.py", "count ** (1 - settings.balanced_sampling)",
     "count ** 1.0", "figures_hold"),
    ("one epoch too few", "training/loop.py", "for epoch in range(settings.epochs):",
     "for epoch in range(1, settings.epochs):", "training training_details"),
    ("the best epoch is chosen on training samples", "training/loop.py", "figures = _validate(head, val,",
     "figures = _validate(head, data,", "training training_details"),
    ("all seeds draw alike", "training/loop.py", "random = MemberRandom(seeds, data.device)",
     "random = MemberRandom([seeds[0]] * len(seeds), data.device)", "training training_details"),
    ("the average of weights forgets too fast", "training/loop.py", "1 - min(settings.ema, (1 + step) / (10 + step))",
     "min(settings.ema, (1 + step) / (10 + step))", "training training_details"),
    ("no warm-up", "training/loop.py", "if progress < settings.warmup:", "if progress < 0:",
     "training training_details"),
    ("of equal epochs the last is kept", "training/optimiser.py", "if score > self.score[member]",
     "if score >= self.score[member]", "training training_details"),
    ("patience is one epoch longer", "training/optimiser.py", "self.since >= patience", "self.since > patience",
     "training training_details"),
    ("weights do not decay", "training/optimiser.py", "weight_decay=self.weight_decay", "weight_decay=0.0",
     "training_details training"),
    ("mixup leaves the targets", "training/data.py",
     "target=torch.cat([shares, mixed(batch.target[..., classes:])], dim=-1)", "target=batch.target",
     "training training_details losses"),
    ("all streams of a sample may be dropped", "training/data.py", "((draws >= drop) | luckiest)", "(draws >= drop)",
     "training training_details losses"),
    ("test samples are in the standardisation", "heads/head.py", "views), rows, width=features.width)",
     "views), np.arange(len(features)), width=features.width)", "fuse"),
    ("the loop leaves out a head's own losses", "training/loop.py",
     "loss = head.add_losses(loss, output, batch, settings)", "pass", "training_details"),
    ("missing cells teach that a label is absent", "core/losses.py", "mask = ~targets.isnan()\n    present",
     "mask = torch.ones_like(targets) > 0\n    present", "tasks"),
    ("hard labels teach where there are soft ones", "core/kinds.py", '(~soft | (self.teach == "hard"))', "soft",
     "tasks"),
    ("numbers stay without their mean", "heads/head.py", ".bias.mul_(scale).add_(shift)", ".bias.mul_(scale)", "tasks"),
    ("probabilities keep the weight of rare labels", "core/kinds.py", "-weight.log().numpy()", "0 * weight.numpy()",
     "tasks"),
    # selection
    ("the best single is chosen on test", "fuse.py", "key=lambda each: each.task.score.rank(each.system.val_score)",
     "key=lambda each: (each.predicted == each.target).mean()", "fuse"),
    ("late is validated on what chose its weights", "heads/fusion.py",
     "cross_fitted(val, target, groups, **how) if chosen else None", "None", "figures_hold"),
    ("late keeps the worst weights", "heads/fusion.py", "(reached := score(weights)) > best_score",
     "(reached := score(weights)) < best_score", "figures_hold training"),
    ("a sweep ranks from the worst", "sweep.py", "else -trial.metric.rank(trial.score)",
     "else trial.metric.rank(trial.score)", "figures_hold"),
    ("the honest choice looks at one fold", "sweep.py", 'trial[0]["val_scores"][fold]', 'trial[0]["val_scores"][0]',
     "figures_hold"),
    ("logreg keeps its last penalty", "heads/sklearn.py", "max(fits, key=lambda fit: fit[0])", "fits[-1]",
     "figures_hold"),
    ("every threshold is a half", "core/kinds.py", "thresholds = labels.choose_thresholds(truth, outputs)",
     "thresholds = np.full(truth.shape[1], 0.5)", "tasks"),
    # calibration
    ("the temperature multiplies", "metrics/scores.py", "np.log(np.maximum(probabilities, 1e-12)) / temperature",
     "np.log(np.maximum(probabilities, 1e-12)) * temperature", "metrics"),
    ("all folds have the temperature of the first", "experiment.py", ".mean(axis=0), each.calibration)",
     ".mean(axis=0), trained[0].calibration)", "fuse"),
    ("over- and underconfidence cancel out", "metrics/scores.py", "np.abs(self.right - self.confidence).sum()",
     "abs((self.right - self.confidence).sum())", "metrics"),
    # splitting
    ("groups of test samples train", "core/split.py", "(grouped | features.holds(", "(features.holds(",
     "partition fuse seen"),
    ("validation is carved without groups", "core/split.py", "features.group[own], fraction=",
     "features.keys[own], fraction=", "partition fuse"),
    ("folds are divided anew where samples lack features", "core/split.py", "assigned = task.assign_folds(manifest,",
     "assigned = task.assign_folds(replace(manifest, table=manifest.table[manifest.table['key'].isin(features.keys)]"
     ".reset_index(drop=True)),", "partition"),
    ("an encoder's training samples validate", "core/split.py", "left[name] = clean",
     "left[name] = clean if name == 'test' else rows", "figures_hold taught"),
    ("validation samples count as unseen", "core/split.py", '(b"l", b"c")', '(b"l",)', "seen evaluate"),
    ("a learned group counts as unseen", "core/split.py", "self.group[fitted], [b\"\"]", "self.group[:0], [b\"\"]",
     "seen"),
    ("members predict samples that they have seen", "evaluate.py", "share = use / np.sum(use, axis=1, keepdims=True)",
     "share = np.ones(use.shape) / use.shape[1]", "seen evaluate taught"),
    # statistics
    ("samples are resampled, not groups", "metrics/statistics.py", "    sizes = np.bincount(number)\n",
     "    number = np.arange(len(target))\n    sizes = np.bincount(number)\n", "statistics"),
    ("the interval is of 90 %", "metrics/statistics.py", "/ errors, (2.5, 97.5))", "/ errors, (5, 95))", "statistics"),
    ("the test is one-sided", "metrics/statistics.py", "shares[np.abs(sums) >=", "shares[sums >=", "statistics"),
    ("the report compares sample by sample", "report/analysis.py",
     "result = compare_predictions(ours, theirs, seed=0)",
     "result = compare_predictions(replace(ours, group=ours.key), theirs, seed=0)", "figures_hold"),
)]


def survivors(mutations: list[Mutation]) -> list[Mutation]:
    """The mutations that no test notices. Raises RuntimeError where the tests fail without any."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "twofold"  # the package's name: the folder that holds it is all that Python needs
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "demo", "*.egg-info"))
        every = " ".join(dict.fromkeys(" ".join(mutation.tests for mutation in mutations).split()))
        if tests_fail(tree, every):
            raise RuntimeError(f"without any mutation, the tests fail: {every}")
        alive = []
        for mutation in mutations:
            path = tree / "fuse" / mutation.file
            content = path.read_text(encoding="utf-8")
            path.write_text(content.replace(mutation.old, mutation.new), encoding="utf-8")
            killed = tests_fail(tree, mutation.tests)
            path.write_text(content, encoding="utf-8")
            print(f"{'killed' if killed else 'SURVIVES':9} {mutation.bug}", flush=True)
            alive += [] if killed else [mutation]
    return alive


def tests_fail(tree: Path, names: str) -> bool:
    """True if a test in these files below tests/fuse fails."""
    files = [f"tests/fuse/test_{name}.py" for name in names.split()]
    done = subprocess.run([sys.executable, "-B", "-m", "pytest", "-q", "-x", "-m", "not slow", "-p", "no:cacheprovider",
                           *files],
                          cwd=tree, env=os.environ | {"PYTHONPATH": str(tree.parent)}, capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout + done.stderr)
    return done.returncode == 1


def main() -> int:
    words = sys.argv[1:]
    chosen = [mutation for mutation in MUTATIONS if not words or any(word in mutation.bug for word in words)]
    alive = survivors(chosen)
    print(f"{len(chosen) - len(alive)} of {len(chosen)} killed")
    return int(len(alive) > MOST_SURVIVORS)


if __name__ == "__main__":
    raise SystemExit(main())
