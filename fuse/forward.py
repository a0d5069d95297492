"""The one way from a head and features to scores: training's validation apart, all probabilities come from here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from twofold.fuse.features.features import FusedFeatures
from twofold.fuse.heads.registry import StandardisedHead

STEP = 2048  #: members x faces of one pass, at most


@dataclass(frozen=True)
class MemberScores:
    """What the M members of a head say of n faces, as float32.

    probabilities: (M, n, C). shares: (M, n, K) of the streams in the decision, of heads that weigh them; basic:
    (M, n, 8) probabilities of the basic emotions, of heads that predict them on the way; else None.
    """

    probabilities: np.ndarray
    shares: np.ndarray | None
    basic: np.ndarray | None


@torch.inference_mode()
def member_scores(
    head: StandardisedHead, features: FusedFeatures, rows: np.ndarray, streams: Sequence[int],
) -> MemberScores:
    """Run a head on these rows of the features, of which it takes the streams with these numbers, in order."""
    step = max(64, STEP // head.spec.members)
    blocks = [scores_of(head, features.read(rows[start:start + step], streams))
              for start in range(0, max(len(rows), 1), step)]
    shares = [block.shares for block in blocks if block.shares is not None]
    basic = [block.basic for block in blocks if block.basic is not None]
    return MemberScores(np.concatenate([block.probabilities for block in blocks], axis=1),
                        np.concatenate(shares, axis=1) if shares else None,
                        np.concatenate(basic, axis=1) if basic else None)


@torch.inference_mode()
def scores_of(head: StandardisedHead, features: np.ndarray) -> MemberScores:
    """The same of raw features (n, D) float32."""
    output = head(torch.from_numpy(features))
    return MemberScores(output.logits.float().softmax(dim=-1).numpy(),
                        None if output.gates is None else output.gates.float().numpy(),
                        None if output.basic is None else output.basic.float().softmax(dim=-1).numpy())
