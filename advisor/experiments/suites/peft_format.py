"""Runs in the JSON of PEFT's method comparison, so that its app and scripts open them.

The layout is that of ``method_comparison/`` in https://github.com/huggingface/peft (its ``utils.py`` writes results,
its ``processing.py`` reads them; August 2026).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advisor.core.code_version import TRAINING_LIBRARIES
from advisor.core.metrics import METRICS
from advisor.core.run import RunRecord
from advisor.core.serialization import to_dict

PACKAGES = (*TRAINING_LIBRARIES, "datasets")
NOTE = (
    "the mean and the 99th percentile of memory are not recorded: the peak stands in for them; test accuracy is the "
    "held-out rows'"
)


def file_name(experiment: str) -> str:
    """Of a result: ``lora--rank8.json`` for the experiment ``lora/rank8``."""
    return f"{experiment.replace('/', '--')}.json"


def peft_result(record: RunRecord, experiment: str, peft_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """A finished run as one result.

    Args:
        record: Of the run.
        experiment: ``method/name``.
        peft_config: Of the saved adapter; ``None`` of a method without, which their app calls full fine-tuning.
    """
    plan, measured = record.plan, record.measurement
    figures = {} if measured.benchmark is None else measured.benchmark.efficiency
    peak = measured.reserved_peak_bytes or measured.device_peak_bytes or measured.allocated_peak_bytes or 0
    rows = round(plan.data_profile.train_rows * plan.strategy.num_train_epochs)
    tokens = round(rows * plan.data_profile.mean_tokens(plan.execution.max_seq_length))
    losses = dict(measured.train_losses)
    last: dict[str, Any] = {
        "step": len(measured.step_times_s),
        "test accuracy": _accuracy(measured.metrics),
        "train loss": next(reversed(losses.values()), None),
        "train samples": rows,
        "train total tokens": tokens,
        **{f"test {name}": value for name, value in measured.metrics.items()},
    }
    metrics = [
        {"step": step, "train loss": loss, "train samples": min(rows, step * plan.execution.effective_batch_size)}
        for step, loss in losses.items()
    ]
    return {
        "run_info": {
            "created_at": record.started_at,
            "total_time": measured.wall_s or measured.total_s,
            "experiment_name": experiment,
            "peft_branch": "main",
            "train_config": {
                "model_id": plan.model.source,
                "dtype": plan.execution.dtype,
                "max_seq_length": plan.execution.max_seq_length,
                "batch_size": plan.execution.effective_batch_size,
                "batch_size_eval": plan.execution.evaluation_batch_size,
                "max_steps": len(measured.step_times_s),
                "seed": plan.seed,
                "optimizer_type": plan.execution.optim,
                "optimizer_kwargs": {"lr": plan.strategy.learning_rate, "weight_decay": plan.strategy.weight_decay},
                "lr_scheduler": plan.strategy.lr_scheduler_type,
                "grad_norm_clip": plan.strategy.max_grad_norm,
                "attn_implementation": plan.execution.attn_implementation,
                "advisor_strategy": to_dict(plan.strategy),
            },
            "peft_config": None if peft_config is None else dict(peft_config),
            "error_msg": measured.reason,
        },
        "train_info": {
            "accelerator_memory_reserved_avg": peak,
            "accelerator_memory_max": peak,
            "accelerator_memory_reserved_99th": peak,
            "train_time": measured.training_s,
            "file_size": round(figures["saved_bytes"].value) if "saved_bytes" in figures else 0,
            "num_trainable_params": measured.trainable_parameters,
            "num_total_params": measured.total_parameters,
            "status": "success" if measured.outcome == "completed" else "failed",
            "metrics": [*metrics, last],
        },
        "meta_info": {
            "model_info": {"sha": None, "created_at": None},
            "dataset_info": {"sha": plan.data_profile.fingerprint or None, "created_at": None},
            "package_info": {
                f"{name}-{part}": record.versions.get(name) if part == "version" else None
                for name in PACKAGES
                for part in ("version", "commit-hash")
            },
            "system_info": {"accelerator": record.device_id},
            "pytorch_info": "",
            "advisor_note": NOTE,
        },
    }


def _accuracy(metrics: Mapping[str, float]) -> float:
    """The share of what was right: of items, or of tokens where a language was modelled; 0 where there is none."""
    known = [name for name in metrics if name in METRICS and METRICS.get(name).in_points]
    shares = [name for name in known if METRICS.get(name).is_share]
    better = [name for name in known if METRICS.get(name).higher_is_better]
    return next((metrics[name] for name in (*shares, *better)), 0.0)
