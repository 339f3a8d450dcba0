# One command checks everything, one tests everything, one shows everything.
#   make quickstart   probe -> calibrate -> recommend -> run -> predicted vs measured, on real weights and real text
#   make strategies   all ten strategies for real, as a table
#   make setup        the environment alone (.venv)
#   make validate     memory predicted and measured over a grid of small models (CPU, a few minutes)
#   make validate-time step times predicted and measured over more than 200 configurations (CPU, quiet, about 45 minutes)
#   make validate-gpu memory and step times over 60M-8B parameters on a GPU (about 35 minutes)
#   make validate-runs  whole-run time: nine real runs, predicted and measured part by part (CPU, about 20 minutes)
#   make bench-speed  the recommended plans against the published recipe: samples/s and quality (CPU, about six minutes)
#   make check        ruff, mypy, import-linter
#   make test         the everyday test suite        make test-slow    what takes longer than that
#   make fuzz         the property tests, several times, with new random examples each time
#   make test-lowest  the suite with the lowest stated versions of every dependency
#   make assets       the offline demo models and data, checked by sha256
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

# Everything stays inside the repository, and no library asks a hub for anything.
export ADVISOR_DEMO_DIR ?= $(CURDIR)/$(DEMO)
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup assets quickstart strategies validate validate-time validate-gpu validate-runs bench-speed check test test-slow test-lowest fuzz clean
.DEFAULT_GOAL := quickstart

# Tests run side by side: threads that spin while they wait would take the cores from each other.
test test-slow test-lowest fuzz: export OMP_WAIT_POLICY ?= PASSIVE

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@echo "[setup] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[setup] torch $(TORCH)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) torch==$(TORCH)
	@echo "[setup] the advisor and what it needs, in the versions of constraints.txt (a few minutes the first time)"
	@$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e ".[dev,gguf]"
	@touch $(STAMP)
	@echo "[setup] done: $$($(BIN)/advisor --version)"

assets: setup
	@$(BIN)/python -m advisor.training.data.assets fetch $(TEST_ASSETS) --to $(DEMO)

# Plain advisor commands, echoed: the same five lines work on your own model, data and budget.
quickstart: export ADVISOR_HOME ?= $(CURDIR)/.advisor
quickstart: setup
	@echo "[quickstart] demo model and data, checked by sha256"
	@$(BIN)/python -m advisor.training.data.assets fetch $(QUICKSTART_ASSETS) --to $(DEMO)
	@rm -rf $(QUICKSTART)
	@echo; echo "[quickstart] 1/4 what can this machine do?"
	$(BIN)/advisor probe --quick
	@echo; echo "[quickstart] 2/4 how fast are this model's operators here?"
	$(BIN)/advisor calibrate $(DEMO)/models/minilm --quick
	@echo; echo "[quickstart] 3/4 which strategy, within 1 GiB?"
	$(BIN)/advisor recommend $(DEMO)/models/minilm --data movie-sentences --memory 1GiB --time 10min \
	  --max-train-rows 1600 --max-eval-rows 800 --epochs 2 --effective-batch-size 16 --evidence 80s \
	  --output $(QUICKSTART)/plan.json
	@echo; echo "[quickstart] 4/4 train it, and compare with what was promised"
	$(BIN)/advisor run $(QUICKSTART)/plan.json --output $(QUICKSTART)/run

# Every strategy for real, predicted against measured (about 15 minutes on two cores): the tables of the README.
STRATEGIES ?= full partial head lora high_rank_lora hira sparse_lora qlora ia3 peft
strategies: export ADVISOR_HOME ?= $(CURDIR)/.advisor
strategies: assets
	$(BIN)/advisor probe --quick
	$(BIN)/advisor calibrate $(DEMO)/models/minilm --quick
	$(BIN)/advisor calibrate $(DEMO)/models/smollm2 --task causal-lm --quick
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
	$(BIN)/python -m advisor.reporting.record_table $(STRATEGIES:%=runs/strategies/minilm-%)
	$(BIN)/python -m advisor.reporting.record_table $(STRATEGIES:%=runs/strategies/smollm2-%)

# Records go to calibration/validation; stopped or killed, the same command goes on with what is missing.
VALIDATION := calibration/validation
validate: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate: setup
	$(BIN)/advisor calibrate --quick
	$(BIN)/advisor validate memory --grid cpu --output $(VALIDATION)

validate-time: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate-time: setup
	$(BIN)/advisor probe
	$(BIN)/advisor calibrate
	$(BIN)/advisor validate time --grid cpu-wide --output $(VALIDATION)

validate-gpu: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate-gpu: setup
	$(BIN)/advisor probe
	$(BIN)/advisor calibrate
	for shard in 1/3 2/3 3/3; do \
	  $(BIN)/advisor validate all --grid cuda --shard $$shard --time-limit 8min --output $(VALIDATION) || exit $$?; \
	done

# model:data:method:training rows:held-out rows:rows a step:epochs. What was calibrated already is not measured again;
# the last command fails when the median error is above 8 % or any above 15 %.
RUNS ?= minilm:movie-sentences:full:1600:400:16:1 minilm:movie-sentences:lora:2400:400:32:1 \
  minilm:movie-sentences:hira:1200:400:16:2 minilm:movie-sentences:head:4800:800:32:1 \
  minilm:bbc-news:partial:320:80:16:1 minilm:bbc-news:ia3:160:40:8:1 \
  smollm2:wikipedia:lora:48:16:4:1 smollm2:wikipedia:qlora:32:8:4:1 smollm2:wikipedia:head:64:16:8:1
RUNS_DIR := runs/validation
validate-runs: export ADVISOR_HOME ?= $(CURDIR)/.advisor
validate-runs: assets
	$(BIN)/advisor probe $(PROBE)
	$(BIN)/advisor calibrate $(DEMO)/models/minilm $(CALIBRATE)
	$(BIN)/advisor calibrate $(DEMO)/models/smollm2 --task causal-lm $(CALIBRATE)
	@rm -rf $(RUNS_DIR) && mkdir -p $(RUNS_DIR)
	@for run in $(RUNS); do \
	  echo "[validate-runs] $$run"; \
	  set -- $$(echo $$run | tr : ' '); \
	  name=$(RUNS_DIR)/$$1-$$2-$$3; \
	  $(BIN)/advisor recommend $(DEMO)/models/$$1 --data $$2 --methods $$3 --max-train-rows $$4 --max-eval-rows $$5 \
	    --effective-batch-size $$6 --epochs $$7 --output $$name.json > $$name.txt && \
	  $(BIN)/advisor run $$name.json --output $$name || exit 1; \
	done
	$(BIN)/python -m advisor.reporting.time_table $$(ls -d $(RUNS_DIR)/*/)

check: setup
	@echo "[check] ruff";          $(BIN)/ruff check --quiet . && $(BIN)/ruff format --check --quiet .
	@echo "[check] mypy";          $(BIN)/mypy advisor
	@echo "[check] import-linter"; $(BIN)/lint-imports

bench-speed: export ADVISOR_HOME ?= $(CURDIR)/.advisor
bench-speed: setup
	@$(BIN)/python -m advisor.training.data.assets fetch $(QUICKSTART_ASSETS) --to $(DEMO)
	$(BIN)/advisor bench speed $(DEMO)/models/minilm --data movie-sentences --rows 192 --eval-rows 300

# One torch thread per worker: spinning threads of two workers on the same cores cost more than they bring. Stolen work
# leaves the tests of a file together, so that what they share is made once.
test: export OMP_NUM_THREADS := 1
test: assets
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu"

test-slow: export OMP_NUM_THREADS := 1
test-slow: assets
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not gpu"

# Without a seed hypothesis draws another one each time; it prints how to repeat a failure, and repeats it next time.
FUZZ_RUNS ?= 5
fuzz: export OMP_NUM_THREADS := 1
fuzz: assets
	@for run in $$(seq $(FUZZ_RUNS)); do \
	  echo "[fuzz] $$run of $(FUZZ_RUNS)"; \
	  $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal -m "hypothesis and not gpu" --hypothesis-profile=fuzz || exit 1; \
	done

test-lowest:
	@echo "[test-lowest] virtual environment in .venv-lowest"
	@$(PYTHON) -m venv .venv-lowest
	@.venv-lowest/bin/python -m pip install $(PIP_FLAGS) torch==$(TORCH_LOWEST)
	@.venv-lowest/bin/python -m pip install $(PIP_FLAGS) -c constraints-lowest.txt -e ".[dev,gguf]"
	@.venv-lowest/bin/python -m advisor.training.data.assets fetch $(TEST_ASSETS) --to $(DEMO)
	OMP_NUM_THREADS=1 .venv-lowest/bin/python -m pytest -n $(WORKERS) --dist worksteal -m "not slow and not gpu"

clean:
	rm -rf $(VENV) .venv-lowest build dist runs .cache .advisor .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
