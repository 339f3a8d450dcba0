# make quickstart     demo on real weights and text: probe, calibrate, recommend, run, compare (default target)
# make test           the everyday test suite                     make test-slow    the slow tests
# make check          ruff, mypy, import-linter, generated documentation pages
# make docs           the documentation as a site in site/
# make setup          only the environment (.venv)                make assets       only the demo models and data
# make fuzz           the property tests with new random examples, several times
# make test-lowest    the core of the suite with the lowest supported version of every dependency
# make test-newest    the same with the newest version of every dependency, torch aside
# make phantom        a CUDA build of torch and stand-ins for the driver, for tests without a GPU (5.5 GB; docs/phantom-gpu.md)
# make phantom-test   the project's commands on cards that are not there
# make phantom-record allocator peaks and requests on them, for the everyday tests; continues after an interruption
# make clean          remove everything except the demo assets
#
# Predictions against this machine; run them on an idle one:
# make validate       memory over a grid of small models (CPU, a few minutes)
# make validate-time  step times of more than 200 configurations (CPU, about 45 minutes)
# make validate-runs  nine whole training runs, part by part (CPU, about 20 minutes)
# make validate-gpu   what a GPU says about the predictions: 15 minutes, resumable, one file to send back
# make strategies     all ten strategies trained, as a table (CPU, about 15 minutes)
# make corpus         short training runs for the quality model, resumable (CPU, hours; docs/how-it-works/quality.md)
# make quality-model  fit the quality model to recorded runs
# make bench-quality  quality predictions with each source, or strategy, left out, against simpler rules
# make bench-speed    recommended plans against a published recipe and a default Trainer (CPU, about six minutes)
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
TORCH_LOWEST := $(shell sed -n 's/^torch==//p' constraints-lowest.txt)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP_FLAGS := -qq --disable-pip-version-check
DEMO := .demo
QUICKSTART_ASSETS := minilm movie-sentences
TEST_ASSETS ?= minilm smollm2 movie-sentences bbc-news wikipedia
QUICKSTART := runs/quickstart

# Everything stays inside the repository, and libraries do not access a model hub.
export ADVISOR_DEMO_DIR ?= $(CURDIR)/$(DEMO)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup assets quickstart strategies validate validate-time validate-gpu validate-runs bench-speed corpus \
  quality-model bench-quality check docs test test-slow test-lowest test-newest fuzz phantom phantom-test \
  phantom-record clean
.DEFAULT_GOAL := quickstart

# Tests run in parallel: threads that spin while waiting would compete for the cores.
test test-slow test-lowest test-newest fuzz: export OMP_WAIT_POLICY ?= PASSIVE

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "[setup] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[setup] torch $(TORCH)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) torch==$(TORCH)
	@echo "[setup] the advisor and what it needs, in the versions of constraints.txt (a few minutes the first time)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[dev,excel,gguf,rouge,dpo]"
	@touch $(STAMP)
	@echo "[setup] done: $$($(BIN)/advisor --version)"

assets: setup
	@$(BIN)/python -m advisor.training.data.assets fetch $(TEST_ASSETS) --to $(DEMO)

# Plain advisor commands, echoed: the same commands work with your own model, data and budget.
quickstart: export ADVISOR_HOME ?= $(CURDIR)/.advisor
quickstart: setup
	@echo "[quickstart] demo model and data, checked by sha256"
	@$(BIN)/python -m advisor.training.data.assets fetch $(QUICKSTART_ASSETS) --to $(DEMO)
	@rm -rf $(QUICKSTART)
	@$(BIN)/python tools/quickstart.py --model $(DEMO)/models/minilm --output $(QUICKSTART)

# Trains every strategy and compares it with its prediction: the tables of docs/accuracy/cpu.md.
STRATEGIES ?= full partial head lora high_rank_lora hira sparse_lora qlora ia3 peft
strategies: export ADVISOR_HOME ?= $(CURDIR)/.advisor
strategies: assets
	$(BIN)/advisor probe --quick
	$(BIN)/advisor calibrate run $(DEMO)/models/minilm --quick
	$(BIN)/advisor calibrate run $(DEMO)/models/smollm2 --task causal-lm --quick
	@rm -rf runs/strategies
	@for method in $(STRATEGIES); do \
	  $(BIN)/advisor recommend $(DEMO)/models/minilm --data movie-sentences --methods $$method --epochs 1 \
	    --max-train-rows 640 --max-eval-rows 400 --effective-batch-size 16 --peft-config tests/fixtures/peft/dora.json \
	    --output runs/strategies/minilm-$$method.json && \
	  $(BIN)/advisor run runs/strategies/minilm-$$method.json --output runs/strategies/minilm-$$method; \
	done
	@for method in $(STRATEGIES); do \
	  $(BIN)/advisor recommend $(DEMO)/models/smollm2 --data wikipedia --methods $$method --epochs 1 \
	    --max-train-rows 24 --max-eval-rows 8 --effective-batch-size 4 --peft-config tests/fixtures/peft/dora.json \
	    --output runs/strategies/smollm2-$$method.json && \
	  $(BIN)/advisor run runs/strategies/smollm2-$$method.json --output runs/strategies/smollm2-$$method; \
	done
	$(BIN)/advisor validate runs $(STRATEGIES:%=runs/strategies/minilm-%)
	$(BIN)/advisor validate runs $(STRATEGIES:%=runs/strategies/smollm2-%)

# Records go to calibration/validation; after an interruption the same command continues.
VALIDATION := calibration/validation
validate: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate: setup
	$(BIN)/advisor calibrate run --quick
	$(BIN)/advisor validate memory --grid cpu --output $(VALIDATION)

validate-time: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate-time: setup
	$(BIN)/advisor probe
	$(BIN)/advisor calibrate run
	$(BIN)/advisor validate time --grid cpu-wide --output $(VALIDATION)

validate-gpu: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate-gpu: setup
	$(BIN)/python tools/gpu_checklist.py

# model:data:method:training rows:held-out rows:rows per step:epochs. Existing calibrations are reused. The last command
# fails if the median error is above 8 % or the largest above 15 %.
RUNS ?= minilm:movie-sentences:full:1600:400:16:1 minilm:movie-sentences:lora:2400:400:32:1 \
  minilm:movie-sentences:hira:1200:400:16:2 minilm:movie-sentences:head:4800:800:32:1 \
  minilm:bbc-news:partial:320:80:16:1 minilm:bbc-news:ia3:160:40:8:1 \
  smollm2:wikipedia:lora:48:16:4:1 smollm2:wikipedia:qlora:32:8:4:1 smollm2:wikipedia:head:64:16:8:1
RUNS_DIR := runs/validation
validate-runs: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate-runs: assets
	$(BIN)/advisor probe $(PROBE)
	$(BIN)/advisor calibrate run $(DEMO)/models/minilm $(CALIBRATE)
	$(BIN)/advisor calibrate run $(DEMO)/models/smollm2 --task causal-lm $(CALIBRATE)
	@rm -rf $(RUNS_DIR) && mkdir -p $(RUNS_DIR)
	@for run in $(RUNS); do \
	  echo "[validate-runs] $$run"; \
	  set -- $$(echo $$run | tr : ' '); \
	  name=$(RUNS_DIR)/$$1-$$2-$$3; \
	  $(BIN)/advisor recommend $(DEMO)/models/$$1 --data $$2 --methods $$3 --max-train-rows $$4 --max-eval-rows $$5 \
	    --effective-batch-size $$6 --epochs $$7 --output $$name.json > $$name.txt && \
	  $(BIN)/advisor run $$name.json --output $$name || exit 1; \
	done
	$(BIN)/advisor validate runs --strict $(RUNS_DIR)/*/

# Every finished run is a line of its own; the same command continues after an interruption.
CORPUS := runs/corpus.jsonl
CORPUS_TIME ?= 3h
CORPUS_DATA := movie-sentences amazon-sentences nyt-sentences tweets bbc-news imdb reuters-r8 newsgroups election-tweets \
  sitcom-lines rotten-tomatoes polarity-sentences hedges spam dutch-reviews
corpus: setup
	@$(BIN)/python -m advisor.training.data.assets fetch minilm $(CORPUS_DATA) --to $(DEMO)
	$(BIN)/python -m advisor.experiments.corpus.record --output $(CORPUS) --time-limit $(CORPUS_TIME)
	$(BIN)/python -m advisor.experiments.corpus.probes --output $(CORPUS:.jsonl=-tasks.jsonl)

# From the recorded runs to calibration/corpus and the fit that ships; then the tables of docs/how-it-works/quality.md.
quality-model: setup
	$(BIN)/python -m advisor.experiments.corpus.tables --runs $(CORPUS) --tasks $(CORPUS:.jsonl=-tasks.jsonl)
	$(BIN)/python -m advisor.experiments.corpus fit

bench-quality: setup
	@$(BIN)/python -m advisor.experiments.corpus judge

check: setup
	@echo "[check] ruff";          $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@echo "[check] mypy";          $(BIN)/mypy advisor
	@echo "[check] import-linter"; $(BIN)/lint-imports
	@echo "[check] documentation"; $(BIN)/python tools/generate_docs.py --check

DOCS_STAMP := $(VENV)/.installed-docs
$(DOCS_STAMP): $(STAMP)
	@echo "[docs] mkdocs"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[docs]"
	@touch $(DOCS_STAMP)

docs: export NO_MKDOCS_2_WARNING := 1
docs: $(DOCS_STAMP)
	$(BIN)/python tools/generate_docs.py --check
	$(BIN)/mkdocs build --strict --quiet

bench-speed: export ADVISOR_HOME ?= $(CURDIR)/.advisor
bench-speed: setup
	@$(BIN)/python -m advisor.training.data.assets fetch $(QUICKSTART_ASSETS) --to $(DEMO)
	$(BIN)/advisor bench speed $(DEMO)/models/minilm --data movie-sentences --rows 192 --eval-rows 300

# One torch thread per worker, because threads of two workers would compete for the cores. worksteal keeps the tests of a
# file together, so that their fixtures are made once.
test: export OMP_NUM_THREADS := 1
test: assets
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu and not phantom"

test-slow: export OMP_NUM_THREADS := 1
test-slow: assets
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not gpu and not phantom"

# hypothesis draws new examples each time, prints how to reproduce a failure, and replays it next time.
FUZZ_RUNS ?= 5
fuzz: export OMP_NUM_THREADS := 1
fuzz: assets
	@for run in $$(seq $(FUZZ_RUNS)); do \
	  echo "[fuzz] $$run of $(FUZZ_RUNS)"; \
	  $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "hypothesis and not gpu" --hypothesis-profile=fuzz || exit 1; \
	done

# What depends on the versions of libraries: readers and writers of files, tracing, building, training and saving by
# every strategy and task, studies, the stores, and each command.
CORE_TESTS ?= tests/calibration/test_database.py tests/calibration/test_exchange.py tests/cli/test_help.py \
  tests/cli/test_failures.py tests/cli/test_jobs.py tests/cli/test_calibrate.py tests/cli/test_reading.py \
  tests/core --ignore=tests/core/test_portability.py tests/experiments/test_run_comparison.py tests/measurement/test_measured_run.py \
  tests/measurement/test_steps.py tests/pipeline/test_running.py tests/pipeline/test_tuning.py \
  tests/pipeline/test_unchanged.py tests/plugin/test_plugin_strategy.py tests/reporting \
  tests/search/test_study_space.py tests/search/test_study_loop.py tests/situations \
  tests/strategies/test_adapters.py tests/strategies/test_conformance.py tests/strategies/test_registry.py \
  tests/tracing/test_every_strategy_is_traced.py tests/tracing/test_registered_architectures.py \
  tests/tracing/test_recent_architectures.py tests/training/data tests/training/tasks \
  tests/training/test_arguments_optimizer.py tests/training/test_best_checkpoint.py tests/training/test_build.py \
  tests/training/test_build_quantized.py tests/training/test_loss.py tests/training/test_metrics.py \
  tests/training/test_models_inspection.py tests/training/test_packing.py tests/training/test_switches.py \
  tests/training/test_trainer.py
CORE_MARKS := -m "not slow and not gpu and not phantom"

test-lowest:
	@echo "[test-lowest] virtual environment in .venv-lowest"
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install $(PIP_FLAGS) torch==$(TORCH_LOWEST)
	@.venv-lowest/bin/python -m pip install $(PIP_FLAGS) -c constraints-lowest.txt -e ".[dev,excel,gguf,rouge]"
	@.venv-lowest/bin/python -m advisor.training.data.assets fetch $(TEST_ASSETS) --to $(DEMO)
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal $(CORE_MARKS) $(CORE_TESTS)

# Newer versions than ours, which users get; torch is ours, since a newer one is gigabytes.
test-newest:
	@echo "[test-newest] virtual environment in .venv-newest"
	@$(PYTHON) -m venv .venv-newest
	@.venv-newest/bin/python -m pip install $(PIP_FLAGS) torch==$(TORCH)
	@.venv-newest/bin/python -m pip install $(PIP_FLAGS) --upgrade --upgrade-strategy eager torch==$(TORCH) -e ".[dev,excel,gguf,rouge,dpo]"
	@.venv-newest/bin/python -m advisor.training.data.assets fetch $(TEST_ASSETS) --to $(DEMO)
	OMP_NUM_THREADS=1 .venv-newest/bin/python -m pytest -n $(WORKERS) --dist worksteal $(CORE_MARKS) $(CORE_TESTS)

# The headers of the CUDA runtime come in wheels of their own; their version is that of torch's CUDA.
PHANTOM_VENV ?= .venv-phantom
PHANTOM_TORCH ?= 2.14.1
PHANTOM_CUDA ?= 13.0
PHANTOM_STAMP := $(PHANTOM_VENV)/.installed
$(PHANTOM_STAMP): pyproject.toml constraints.txt
	@echo "[phantom] virtual environment in $(PHANTOM_VENV): torch $(PHANTOM_TORCH) for CUDA $(PHANTOM_CUDA)"
	@$(PYTHON) -m venv $(PHANTOM_VENV)
	@grep -v '^torch==' constraints.txt > $(PHANTOM_VENV)/constraints.txt
	@$(PHANTOM_VENV)/bin/python -m pip install $(PIP_FLAGS) torch==$(PHANTOM_TORCH) \
	  "nvidia-cuda-crt==$(PHANTOM_CUDA).*" "nvidia-cuda-cccl==$(PHANTOM_CUDA).*"
	@$(PHANTOM_VENV)/bin/python -m pip install $(PIP_FLAGS) -c $(PHANTOM_VENV)/constraints.txt -e . pytest hypothesis
	@touch $(PHANTOM_STAMP)

phantom: $(PHANTOM_STAMP)
	$(PHANTOM_VENV)/bin/python tools/phantom_gpu/build.py --environment $(PHANTOM_VENV)

phantom-test: export PHANTOM_ENVIRONMENT := $(abspath $(PHANTOM_VENV))
phantom-test: assets phantom
	$(BIN)/python -m pytest -m phantom

phantom-record: phantom
	$(PHANTOM_VENV)/bin/python tools/phantom_gpu/record.py --environment $(PHANTOM_VENV)

clean:
	rm -rf $(VENV) $(PHANTOM_VENV) .venv-lowest .venv-newest build dist site runs .cache .advisor .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
