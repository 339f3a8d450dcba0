"""The optimizer of a run: what the stock Trainer makes, or what it is handed; also without a Trainer, for traces."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from transformers import Trainer

from advisor.core.plan import BITSANDBYTES_OPTIMIZERS, ExecutionPlan
from advisor.core.strategy import StrategyConfig
from advisor.training.arguments import training_arguments


def create_optimizer(model: nn.Module, strategy: StrategyConfig, execution: ExecutionPlan) -> torch.optim.Optimizer:
    """Exactly the optimizer that a run's Trainer steps: parameter groups, class and options.

    The Trainer's own code makes it: it reads four attributes of the Trainer and nothing else, so a bare instance that
    never went through ``__init__`` (which would move the model and start accelerate) is enough. Works on real, meta and
    fake parameters; on fake ones a stand-in takes the place of bitsandbytes' 8-bit AdamW.

    Args:
        model: With ``requires_grad`` already decided by the strategy.
        strategy: Learning rate and weight decay.
        execution: Optimizer implementation; batch sizes and precision do not matter here.
    """
    own = own_optimizer(model, strategy, execution)
    if own is not None:
        return own
    trainer = object.__new__(Trainer)
    trainer.model = model
    trainer.args = training_arguments(strategy, _without_precision(execution), "unused")
    trainer.optimizer = None
    trainer.optimizer_cls_and_kwargs = _stand_in(model, strategy, trainer.args, execution)
    return trainer.create_optimizer()


def own_optimizer(model: nn.Module, strategy: StrategyConfig, execution: ExecutionPlan) -> torch.optim.Optimizer | None:
    """What the Trainer cannot make by itself and has to be handed: PEFT's LoRA-FA; else ``None``."""
    if execution.optim != "lorafa":
        return None
    from peft.optimizers import create_lorafa_optimizer

    config: Any = model.active_peft_config
    options: dict[str, Any] = {"lr": strategy.learning_rate, "weight_decay": strategy.weight_decay}
    declared = inspect.signature(create_lorafa_optimizer).parameters.get("use_rslora")
    if declared is not None and declared.default is False:
        # PEFT before 0.21 does not read it from the adapter's configuration.
        options["use_rslora"] = bool(config.use_rslora)
    return create_lorafa_optimizer(model, r=config.r, lora_alpha=config.lora_alpha, **options)


def forget_earlier_overrides(execution: ExecutionPlan) -> None:
    """Drop what earlier optimizers of this process left in bitsandbytes' global manager.

    It remembers by position and by ``id`` which parameters keep float32 moments, so that another model's parameters
    would get them as well (``GlobalOptimManager.index2config`` and ``pid2config``).
    """
    if execution.optim in BITSANDBYTES_OPTIMIZERS:
        from bitsandbytes.optim import GlobalOptimManager

        GlobalOptimManager.get_instance().initialize()


def _stand_in(
    model: nn.Module, strategy: StrategyConfig, arguments: Any, execution: ExecutionPlan
) -> tuple[type[torch.optim.Optimizer], dict[str, Any]] | None:
    """Class and options in place of bitsandbytes' on fake parameters; ``None`` leaves it to the Trainer.

    The Trainer keeps the moments of embeddings in float32 (``register_module_override`` in ``create_optimizer``).
    """
    fake = any(isinstance(parameter, FakeTensor) for parameter in model.parameters())
    if execution.optim not in BITSANDBYTES_OPTIMIZERS or not fake:
        return None
    from advisor.training.eight_bit import StandInAdamW8bit

    options = {
        "lr": strategy.learning_rate,
        "betas": (arguments.adam_beta1, arguments.adam_beta2),
        "eps": arguments.adam_epsilon,
        "paged": execution.optim == "paged_adamw_8bit",
        "full_precision": [module.weight for module in model.modules() if isinstance(module, nn.Embedding)],
    }
    return StandInAdamW8bit, options


def _without_precision(execution: ExecutionPlan) -> ExecutionPlan:
    """The same plan in full precision and uncompiled: both are checked against the local device, which may not be the
    target.
    """
    return dataclasses.replace(execution, amp="none", tf32=False, torch_compile=False)
