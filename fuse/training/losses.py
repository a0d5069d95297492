"""Losses of several members at once: each returns (M,), one value a member. Inputs are logits, never probabilities."""

import torch


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean over B of -sum(target * log softmax): logits and targets (M, B, C), weights (M, B).

    With one-hot targets and class weights it is torch's weighted cross-entropy. Zero where all weights are zero.
    """
    each = -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1)
    return (weights * each).sum(dim=-1) / weights.sum(dim=-1).clamp_min(1e-12)


def smoothed(targets: torch.Tensor, amount: float) -> torch.Tensor:
    """Targets (..., C) with `amount` of their mass spread evenly (Szegedy et al., arXiv 1512.00567, section 7)."""
    if not amount:
        return targets
    return (1 - amount) * targets + amount * targets.sum(-1, keepdim=True) / targets.shape[-1]


def adjusted(logits: torch.Tensor, prior: torch.Tensor, tau: float) -> torch.Tensor:
    """Logits (..., C) plus tau log prior (C,), for the loss only (Menon et al., arXiv 2007.07314, equation 10)."""
    return logits if not tau else logits + tau * prior.clamp_min(1e-12).log()


def contrastive(z: torch.Tensor, positive: torch.Tensor, temperature: float) -> torch.Tensor:
    """Supervised contrastive loss (Khosla et al., arXiv 2004.11362, equation 2), mean over anchors with a positive.

    z: (M, V, P) of unit length; positive: (M, V, V) bool, who belongs with whom (the diagonal is ignored).
    """
    alone = torch.eye(z.shape[1], dtype=torch.bool, device=z.device)
    positive = (positive & ~alone).float()
    similarity = (z @ z.transpose(1, 2)).float() / temperature
    log_share = similarity - similarity.masked_fill(alone, float("-inf")).logsumexp(dim=-1, keepdim=True)
    count = positive.sum(dim=-1)
    each = -(positive * log_share).sum(dim=-1) / count.clamp_min(1)
    anchors = (count > 0).float()
    return (each * anchors).sum(dim=-1) / anchors.sum(dim=-1).clamp_min(1)
