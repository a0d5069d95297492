"""Losses of the tasks, in torch: a value for each of M members that are trained at once."""

import torch


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted mean over B of -sum(target * log softmax): logits and targets (M, B, C), weights (M, B).

    With one-hot targets and class weights it is torch's weighted cross-entropy; with distributions it is their
    Kullback-Leibler divergence from the prediction plus a constant. Zero where all weights are zero.
    """
    each = -(targets * logits.float().log_softmax(dim=-1)).sum(dim=-1)
    return (weights * each).sum(dim=-1) / weights.sum(dim=-1).clamp_min(1e-12)


def smooth_labels(targets: torch.Tensor, amount: float) -> torch.Tensor:
    """Targets (..., C) with `amount` of their mass spread evenly (Szegedy et al., arXiv 1512.00567, section 7)."""
    if not amount:
        return targets
    return (1 - amount) * targets + amount * targets.sum(-1, keepdim=True) / targets.shape[-1]


def adjust_logits(logits: torch.Tensor, prior: torch.Tensor, tau: float) -> torch.Tensor:
    """Logits (..., C) plus tau log prior (C,), for the loss only (Menon et al., arXiv 2007.07314, equation 10)."""
    return logits if not tau else logits + tau * prior.clamp_min(1e-12).log()


def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor, positive_weight: torch.Tensor) -> torch.Tensor:
    """(M,) mean over the cells (M, B, L) that are not nan; positive_weight (L,): of a label that is present."""
    mask = ~targets.isnan()
    present = torch.where(mask, targets, 0)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logits.float(), present, pos_weight=positive_weight, reduction="none")
    return (each * mask).sum(dim=(1, 2)) / mask.sum(dim=(1, 2)).clamp_min(1)


def concordance_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(M,) one minus Lin's concordance, plus the mean squared error, of the cells (M, B, D) that are not nan; the mean
    over columns. A column with fewer than two cells has its squared error only."""
    mask = ~targets.isnan()
    count = mask.sum(dim=1).clamp_min(1)
    x, y = torch.where(mask, outputs.float(), 0), torch.where(mask, targets, 0)
    mean_x, mean_y = (values.sum(dim=1, keepdim=True) / count[:, None] for values in (x, y))
    dx, dy = torch.where(mask, x - mean_x, 0), torch.where(mask, y - mean_y, 0)
    spread = (dx**2 + dy**2).sum(dim=1) / count + (mean_x - mean_y)[:, 0] ** 2
    concordance = 2 * (dx * dy).sum(dim=1) / count / spread.clamp_min(1e-8)
    squared = ((x - y) ** 2).sum(dim=1) / count
    several = (count > 1).float()
    return (squared + several * (1 - concordance)).mean(dim=-1)
