"""A strategy of another distribution, with a knob of its own, is planned, predicted, tuned and run like a built-in."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from advisor.core.model import ModelSpec
from advisor.core.plan import load_plan
from advisor.hardware import load_profile
from advisor.reporting.text import format_strategy
from advisor.search.planner.precision import precision_policies
from advisor.strategies import forget, get_strategy, strategy_names, strategy_version
from advisor.tracing.trace_store import strategy_key
from tests.cli.conftest import Advisor
from tests.plugin.conftest import install
from tests.search.planner_fakes import distilbert, mistral

BLOCK = ("--method", "layer_block")


def test_nothing_is_known_of_it_where_it_is_not_installed() -> None:
    assert "layer_block" not in strategy_names()


@pytest.mark.usefixtures("plugin")
class TestPlanning:
    """What is planned follows from what the strategy says of itself."""

    def test_it_is_listed_last(self) -> None:
        assert strategy_names()[-1] == "layer_block"

    @pytest.mark.parametrize("model", [distilbert(), mistral("causal-lm")], ids=lambda model: model.source)
    @pytest.mark.parametrize("card", ["t4", "rtx-4090", "a100-sxm4-80gb"])
    def test_data_types_and_fallbacks_are_those_of_a_built_in_that_trains_base_weights(
        self, model: ModelSpec, card: str
    ) -> None:
        own, built_in = (get_strategy(name).default_config(model) for name in ("layer_block", "partial"))
        policies = precision_policies(load_profile(card), model, own)
        assert policies == precision_policies(load_profile(card), model, built_in)
        assert any(policy.optim == "adamw_bnb_8bit" for policy in policies)

    def test_small_models_keep_float32_master_weights_and_page_optimizer_states_last(self) -> None:
        strategy = get_strategy("layer_block").default_config(distilbert())
        policies = precision_policies(load_profile("rtx-4090"), distilbert(), strategy)
        assert (policies[0].dtype, policies[0].amp) == ("float32", "bf16")
        assert policies[-1].optim == "paged_adamw_8bit"

    def test_its_knobs_are_part_of_the_trace_key(self) -> None:
        strategy = get_strategy("layer_block")
        one, other = (strategy.configured(distilbert(), first_layer=layer) for layer in (0, 3))
        assert strategy_key(one) != strategy_key(other)
        assert strategy_key(one) == strategy_key(strategy.configured(distilbert(), learning_rate=1e-3))


def test_an_upgraded_distribution_has_another_version_and_a_reworded_docstring_has_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = install(tmp_path)
    monkeypatch.syspath_prepend(str(site))
    source, (metadata,) = site / "advisor_plugin_example" / "layer_block.py", site.glob("*.dist-info/METADATA")
    forget()
    first = strategy_version("layer_block")
    assert first and not strategy_version("lora")

    source.write_text(source.read_text().replace("Surgical fine-tuning", "Surgery") + "# a comment\n")
    forget()
    assert strategy_version("layer_block") == first
    source.write_text(source.read_text().replace("num_layers: int = 1", "num_layers: int = 2"))
    forget()
    changed = strategy_version("layer_block")
    assert changed != first
    metadata.write_text(re.sub("(?m)^Version: .*", "Version: 1.1", metadata.read_text()))
    forget()
    assert strategy_version("layer_block") not in (first, changed)
    monkeypatch.undo()
    forget()


@pytest.mark.usefixtures("plugin")
class TestCommands:
    """The commands know the strategy's own knob and never its class."""

    def test_predict(self, advisor: Advisor, model_dir: Path) -> None:
        call = ("predict", model_dir, *BLOCK, "--device", "rtx-4090", "--json")
        one, two = (advisor(*call, "--knob", f"num_layers={count}").json for count in (1, 2))
        assert two["trainable_parameters"] > one["trainable_parameters"]
        assert two["memory"]["breakdown"]["gradients_bytes"] > one["memory"]["breakdown"]["gradients_bytes"]

    @pytest.mark.parametrize(
        ("knob", "words"),
        [
            ("num_layers=3", ["first_layer + num_layers <= 2", "3"]),
            ("num_layers=0", ["num_layers >= 1", "0"]),
            ("num_layers=many", ["num_layers", "many"]),
            ("num_leyers=1", ["no knob num_leyers", "num_layers"]),
            ("num_layers", ["NAME=VALUE"]),
        ],
    )
    def test_predict_refuses_knobs(self, advisor: Advisor, model_dir: Path, knob: str, words: list[str]) -> None:
        answer = advisor("predict", model_dir, *BLOCK, "--device", "rtx-4090", "--knob", knob)
        assert answer.code == 2
        assert all(word in answer.stderr for word in words), answer.stderr

    def test_recommend_run_and_report(
        self,
        advisor: Advisor,
        model_dir: Path,
        table: Path,
        cpu_profile,
        tmp_path: Path,
    ) -> None:
        plan_file, out = tmp_path / "plan.json", tmp_path / "out"
        recommended = advisor(
            "recommend", model_dir, "--data", table, "--methods", "layer_block", "--epochs", "1",
            "--knob", "first_layer=1", "--effective-batch-size", "8", "--output", plan_file, "--json",
        )  # fmt: skip
        assert recommended.code == 0, recommended.stderr
        plan = load_plan(plan_file)
        assert format_strategy(plan.strategy) == "layers 1 to 1, lr 5e-05, 1 epoch"
        assert json.loads(plan_file.read_text())["strategy"]["num_layers"] == 1

        ran = advisor("run", plan_file, "--output", out)
        assert ran.code == 0, ran.stderr
        assert ran.stdout.startswith("layer_block trained")
        record = json.loads((out / "record.json").read_text())
        assert record["measurement"]["outcome"] == "completed"
        verdicts = {item["quantity"]: item for item in record["verifications"]}
        assert verdicts["trainable_parameters"]["verdict"] == "inside"
        assert abs(verdicts["memory.allocated_bytes"]["relative_error"]) < 0.02

    def test_fit(self, advisor: Advisor, model_dir: Path) -> None:
        call = ("fit", model_dir, *BLOCK, "--method", "lora", "--device", "rtx-4090", "--no-cards", "--json")
        one, two = (advisor(*call, "--knob", f"num_layers={count}").json["methods"] for count in (1, 2))
        assert [method["strategy"].get("num_layers") for method in (*one, *two)] == [1, None, 2, None]
        needed = [method["setups"][0]["memory_bytes"] for method in (*one, *two)]
        assert needed[2] > needed[0] and needed[3] == needed[1]

    def test_a_knob_that_no_method_has_is_refused(self, advisor: Advisor, model_dir: Path) -> None:
        answer = advisor("fit", model_dir, *BLOCK, "--device", "rtx-4090", "--knob", "num_leyers=2")
        assert answer.code == 2
        assert "num_leyers" in answer.stderr and "num_layers" in answer.stderr

    def test_tune(
        self,
        advisor: Advisor,
        model_dir: Path,
        table: Path,
        cpu_profile,
        tmp_path: Path,
    ) -> None:
        tuned = advisor(
            "tune", model_dir, "--data", table, "--methods", "layer_block", "--budget", "10min", "--trials", "2",
            "--effective-batch-size", "8", "--study-dir", tmp_path / "study", "--knob", "num_train_epochs=1", "--json",
        )  # fmt: skip
        assert tuned.code == 0, tuned.stderr
        assert tuned.json["best"]["strategy"]["num_train_epochs"] == 1
        own = [{name for name in trial["params"] if "." in name} for trial in tuned.json["trials"]]
        assert own == [{"layer_block.num_layers"}] * 2
        assert tuned.json["best"]["strategy"]["num_layers"] in (1, 2)

    def test_measured_steps(self, advisor: Advisor, model_dir: Path, tmp_path: Path) -> None:
        from advisor.pipeline.measured_steps import read_steps

        steps = tmp_path / "steps.json"
        entry = {"model": str(model_dir), "method": "layer_block", "micro_batch_size": 2, "seq_length": 16}
        steps.write_text(json.dumps([{**entry, "step_s": 0.1, "num_layers": 2}]))
        (step,) = read_steps([steps], load_profile("t4"))
        assert step.strategy.knob("num_layers") == 2
        steps.write_text(json.dumps([{**entry, "step_s": 0.1, "rank": 2}]))
        with pytest.raises(Exception, match="not") as refused:
            read_steps([steps], load_profile("t4"))
        assert "rank: unknown field" in str(refused.value)
