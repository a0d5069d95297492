"""The optimiser, its groups by layer and weight decay: timm's own."""

from timm import optim as timm_optim
from torch import nn, optim

from twofold.extract.finetune.learner import Learner
from twofold.extract.finetune.settings import Settings


def build_optimizer(learner: Learner, settings: Settings) -> optim.Optimizer:
    """Adam or AdamW over what learns; each group has `lr_scale`, its share of the rate."""
    skipped = learner.no_weight_decay()
    if settings.layer_decay == 1.0:
        groups = timm_optim.param_groups_weight_decay(  # pyright: ignore[reportPrivateImportUsage]
            learner, settings.weight_decay, no_weight_decay_list=skipped)
    else:
        groups = timm_optim.param_groups_layer_decay(  # pyright: ignore[reportPrivateImportUsage]
            learner, settings.weight_decay, no_weight_decay_list=skipped, layer_decay=settings.layer_decay)
    return timm_optim.create_optimizer_v2(  # pyright: ignore[reportPrivateImportUsage]
        groups, opt=settings.optimizer, lr=settings.lr, weight_decay=0.0)


def set_rate(optimizer: optim.Optimizer, rate: float) -> None:
    """Give each group its share of the learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def clip_gradients(learner: nn.Module, largest: float) -> None:
    """Scale all gradients down together so that their norm is at most `largest`; 0 leaves them alone."""
    if largest:
        nn.utils.clip_grad_norm_(learner.parameters(), largest)
