"""Targets and heads on seventeen architectures, against what their authors call these modules."""

from __future__ import annotations

import pytest
from torch import nn

from advisor.core.errors import InputError
from advisor.strategies.skeleton import build_skeleton
from advisor.strategies.targets import (
    attention_linears,
    backbone_layers,
    backbone_linears,
    feedforward_outputs,
    final_norms,
    head_linears,
    head_modules,
    linear_shape,
    resolve_targets,
    shortest_suffixes,
)
from tests.strategies.architectures import CONFIGS, spec_of

QUERY_VALUE = {
    "bert": {"query", "value"}, "roberta": {"query", "value"}, "electra": {"query", "value"},
    "albert": {"query", "value"},
    "distilbert": {"q_lin", "v_lin"}, "deberta-v2": {"query_proj", "value_proj"}, "modernbert": {"Wqkv"},
    "llama": {"q_proj", "v_proj"}, "mistral": {"q_proj", "v_proj"}, "qwen2": {"q_proj", "v_proj"},
    "gemma2": {"q_proj", "v_proj"}, "opt": {"q_proj", "v_proj"}, "phi3": {"qkv_proj"}, "gpt2": {"c_attn"},
    "gpt_neox": {"query_key_value"}, "bloom": {"query_key_value"}, "t5": {"q", "v"},
}  # fmt: skip

FEEDFORWARD = {
    "bert": "output.dense", "roberta": "output.dense", "electra": "output.dense", "deberta-v2": "output.dense",
    "distilbert": "lin2", "albert": "ffn_output", "modernbert": "mlp.Wo", "llama": "down_proj", "mistral": "down_proj",
    "qwen2": "down_proj", "gemma2": "down_proj", "phi3": "down_proj", "gpt2": "mlp.c_proj", "gpt_neox": "dense_4h_to_h",
    "opt": "fc2", "bloom": "dense_4h_to_h", "t5": "wo",
}  # fmt: skip

HEADS = {
    "bert": ("bert.pooler", "classifier"), "roberta": ("classifier",), "electra": ("classifier",),
    "distilbert": ("pre_classifier", "classifier"), "deberta-v2": ("pooler", "classifier"),
    "albert": ("albert.pooler", "albert.pooler_activation", "classifier"), "modernbert": ("head", "classifier"),
    "t5": ("classification_head",),
}  # fmt: skip

FINAL_NORM = {
    "llama": "model.norm", "gpt2": "transformer.ln_f", "gpt_neox": "gpt_neox.final_layer_norm",
    "bloom": "transformer.ln_f",
    "opt": "model.decoder.final_layer_norm", "modernbert": "model.final_norm",
    "t5": "transformer.decoder.final_layer_norm",
}  # fmt: skip


@pytest.fixture(params=sorted(CONFIGS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def last(names: tuple[str, ...]) -> set[str]:
    return {name.rpartition(".")[2] for name in names}


def test_query_and_value_are_found_in_every_layer(name: str) -> None:
    skeleton = build_skeleton(spec_of(name))
    found = attention_linears(skeleton)
    assert last(found) == QUERY_VALUE[name]
    blocks = 1 if name == "albert" else 9 if name == "t5" else 3
    assert len(found) == blocks * len(QUERY_VALUE[name])


def test_feedforward_outputs_lead_back_to_the_residual_width(name: str) -> None:
    skeleton = build_skeleton(spec_of(name))
    found = feedforward_outputs(skeleton)
    assert len(found) == {"albert": 1, "t5": 6}.get(name, 3)
    assert all(path.endswith(f".{FEEDFORWARD[name]}") for path in found)
    assert not any("attention" in path.partition(".layer.")[2] for path in found)
    assert all(linear_shape(skeleton.get_submodule(path))[1] == 32 for path in found)


def test_head_is_what_stands_beside_the_backbone(name: str) -> None:
    skeleton = build_skeleton(spec_of(name))
    expected = HEADS.get(name, ("score",))
    assert head_modules(skeleton) == tuple(head for head in expected if head != "albert.pooler_activation")


def test_all_linear_leaves_the_head_out(name: str) -> None:
    skeleton = build_skeleton(spec_of(name))
    everything = {path for path, module in skeleton.named_modules() if hasattr(module, "weight") and _is_linear(module)}
    assert set(backbone_linears(skeleton)) == everything - set(head_linears(skeleton))
    assert set(attention_linears(skeleton)) <= set(backbone_linears(skeleton))


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def test_layers_and_final_norm(name: str) -> None:
    skeleton = build_skeleton(spec_of(name))
    assert len(backbone_layers(skeleton)[1]) == (1 if name == "albert" else 3)
    if name in FINAL_NORM:
        assert final_norms(skeleton) == (FINAL_NORM[name],)


def test_norm_of_relative_positions_is_no_final_norm() -> None:
    assert final_norms(build_skeleton(spec_of("deberta-v2"))) == ()


def test_language_models_keep_their_output_projection_out_of_all_linear() -> None:
    for name in ("llama", "gpt2", "opt"):
        skeleton = build_skeleton(spec_of(name, "causal-lm"))
        assert head_linears(skeleton) == ("lm_head",)
        assert "lm_head" not in backbone_linears(skeleton)
    masked = build_skeleton(spec_of("bert", "masked-lm"))
    assert head_modules(masked) == ("cls",)
    assert not any(path.startswith("cls") for path in backbone_linears(masked))


def test_fused_projection_counts_for_every_role() -> None:
    skeleton = build_skeleton(spec_of("gpt2"))
    assert attention_linears(skeleton, ("key",)) == attention_linears(skeleton, ("query", "value"))


def test_roles_are_told_apart() -> None:
    skeleton = build_skeleton(spec_of("llama"))
    assert last(attention_linears(skeleton, ("key", "value"))) == {"k_proj", "v_proj"}


def test_suffixes_mean_exactly_the_wanted_layers() -> None:
    skeleton = build_skeleton(spec_of("bert"))
    assert shortest_suffixes(skeleton, attention_linears(skeleton)) == ["query", "value"]
    outputs = feedforward_outputs(skeleton)
    assert shortest_suffixes(skeleton, outputs) == sorted(outputs), (
        "output.dense would also mean attention.output.dense"
    )


def test_unnamed_attention_falls_back_to_all_linears_of_attention_modules() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList(
                [nn.ModuleDict({"attn": nn.ModuleDict({"alpha": nn.Linear(4, 4)}), "up": nn.Linear(4, 4)})]
            )

    assert attention_linears(Odd()) == ("layers.0.attn.alpha",)


def test_named_targets() -> None:
    skeleton = build_skeleton(spec_of("llama"))
    assert last(resolve_targets(skeleton, ("o_proj", "up_proj"))) == {"o_proj", "up_proj"}
    assert resolve_targets(skeleton, "all-linear") == backbone_linears(skeleton)
    assert resolve_targets(skeleton, None) == attention_linears(skeleton)
    with pytest.raises(InputError, match="'q_lin'") as caught:
        resolve_targets(skeleton, ("q_lin",))
    assert "q_proj" in str(caught.value.fix)


def test_model_without_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no list of layers"):
        backbone_layers(nn.Linear(2, 2))
