# Each target is one `flaxvae …` command, in a virtual environment made on first use.
#   make train DATASET=mnist MODEL=vae EPOCHS=20 SEED=0 ARGS="--latent-dim 2"

DATASET    ?=
MODEL      ?=
EPOCHS     ?=
SEED       ?=
DATA_DIR   ?=
RUN        ?=
ARGS       ?=
ACCEL      ?= cpu
VENV       ?= .venv
NO_INSTALL ?=
PYTHON     ?= python3

comma  := ,
extras := tfds,tensorboard,dev$(if $(filter-out cpu,$(ACCEL)),$(comma)$(ACCEL))
stamp  := $(VENV)/.installed-$(ACCEL)
# NO_INSTALL=1 uses the environment as it is: that of VENV, or with an empty VENV the PATH's.
bin     := $(if $(VENV),$(VENV)/bin/)
python  := $(if $(VENV),$(VENV)/bin/python,$(PYTHON))
ready   := $(if $(NO_INSTALL),,$(stamp))
flaxvae := PYTHONPATH=src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(python) -m flaxvae
# Tests run in several processes where pytest-xdist is installed.
parallel := -n auto --maxprocesses 4 --dist loadfile
run     := $(or $(RUN),runs/latest)
# flaxvae chooses what is not given: digits, vae, and epochs that suit the dataset.
settings := $(if $(DATASET),--dataset $(DATASET)) $(if $(MODEL),--model $(MODEL)) \
            $(if $(EPOCHS),--epochs $(EPOCHS)) $(if $(SEED),--seed $(SEED)) \
            $(if $(DATA_DIR),--data-dir $(DATA_DIR)) $(if $(RUN),--run $(RUN))

.DEFAULT_GOAL := help
.PHONY: help setup train sweep eval sample reconstruct interpolate traverse fit-prior encode \
        score figures export report runs compare verify doctor test test-faults test-slow test-gpu lint format \
        experiments bench oldest constraints clean

help: ## list the targets
	@echo "make TARGET [DATASET= MODEL= EPOCHS= SEED= DATA_DIR= RUN= ARGS= ACCEL=cpu|cuda12|cuda13|tpu]"
	@echo "            [VENV=.venv NO_INSTALL=1 PYTHON=python3]"
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

setup: $(ready) ## make .venv and install

train: $(ready) ## train, evaluate, draw figures (digits need no download, DATASET=mnist does)
	@$(flaxvae) train $(settings) $(ARGS)

sweep: $(ready) ## train a grid together: make sweep MODEL=beta_vae ARGS="--beta 1 2 4 --seeds 8"
	@$(flaxvae) sweep $(settings) $(ARGS)

eval sample reconstruct interpolate traverse fit-prior encode score figures export report verify: $(ready)
	@$(flaxvae) $@ $(run) $(ARGS)

runs compare: $(ready)
	@$(flaxvae) $@ $(ARGS)

eval: ## ELBO, KL, MSE and, with ARGS="--k 500", log p(x) of RUN (default runs/latest)
sample: ## draw images from the prior of RUN
reconstruct: ## test images of RUN above their reconstructions
interpolate: ## interpolations between images in the latent space of RUN
traverse: ## images along single latent dimensions of RUN
fit-prior: ## fit a prior to the codes of RUN, to sample from
encode: ## latents and scores of images, .npz
score: ## how unusual each image is, .csv: make score RUN=… ARGS="--images my_folder"
figures: ## draw all figures of RUN again
report: ## write the page of RUN again, report.html
runs: ## list the runs in runs/: make runs ARGS="--where model=vae --sort elbo"
compare: ## runs beside one another: make compare ARGS="runs/a runs/b"
export: ## the model of RUN for other programs: make export ARGS="--to onnx"
verify: ## check every file of RUN

doctor: $(ready) ## versions, devices, data, disk, and a self-test
	@$(flaxvae) $@ $(ARGS)

test: $(ready) ## the tests (minutes)
	@$(python) -m pytest $(if $(shell $(python) -c 'import xdist' 2>&1),,$(parallel)) $(ARGS)

test-faults: $(ready) ## what a run must survive: kills, damage, full disks, NaNs (long)
	@$(python) -m pytest -m "slow or not slow" tests/test_faults.py tests/test_lock.py \
	  tests/test_resume.py $(ARGS)

test-slow: $(ready) ## the tests that train for minutes or need MNIST
	@$(python) -m pytest -m slow $(ARGS)

# An empty JAX_PLATFORMS lets JAX choose: the GPU, if it can use one. pytest exits 5 if all skip.
test-gpu: $(ready) ## compare a GPU with the CPU (skipped if jax sees no GPU)
	@JAX_PLATFORMS= $(python) -m pytest -m gpu -rs tests/test_gpu.py $(ARGS) || test $$? -eq 5

lint: $(ready) ## ruff and mypy
	@$(bin)ruff check . && $(bin)ruff format --check . && $(bin)mypy

format: $(ready) ## ruff, rewriting files
	@$(bin)ruff check --fix . && $(bin)ruff format .

experiments: $(ready) ## run every study in experiments/ and rewrite experiments/README.md
	@PYTHONPATH=src $(python) -m experiments $(ARGS)

bench: $(ready) ## time it against PyTorch and plain flax (ARGS=start: one group; half an hour)
	@PYTHONPATH=src $(python) -m benchmarks $(ARGS)

oldest: $(ready) ## install the oldest JAX, flax, optax and Orbax of pyproject.toml into .venv
	@$(python) -m pip install -q --disable-pip-version-check $(shell sed -nE \
	  's/^  "(jax|jaxlib|flax|optax|orbax-checkpoint)>=([0-9.]+)",$$/\1==\2/p' pyproject.toml)

constraints: ## rewrite constraints.txt with today's versions (needs uv)
	@{ echo "# Exact versions that make setup installs, to test with. Made by: make constraints"; \
	  uv pip compile pyproject.toml --universal --python-version 3.11 --extra tfds \
	  --extra tensorboard --extra dev --no-header --no-annotate -q; } > constraints.new
	@mv constraints.new constraints.txt

clean: ## remove .venv and caches, not runs
	rm -rf $(or $(VENV),.venv) .pytest_cache .ruff_cache .mypy_cache
	find src tests experiments -name __pycache__ -type d -prune -exec rm -rf {} +

$(stamp): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; v >= (3, 11) or sys.exit("Python %d.%d is too old: expected 3.11 or newer; use make PYTHON=python3.11" % v)'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) ($(ACCEL)), a minute or two"
	@$(VENV)/bin/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(extras)]'
	@touch $@
