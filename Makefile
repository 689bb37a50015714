# One verb per need, the same at a desk and in CI. `make help` lists them.
#
# .venv is set up on first use, and again when the dependencies change: each stamp below stands for
# one set of extras. .venv-triton is the other side of the interop tests, .venv-peers of benchmarks,
# .venv-stores of the tests of object stores.

SHELL := /bin/sh
MAKEFLAGS += --no-builtin-rules
SERVING := .venv/.serving.stamp
DEV := .venv/.dev.stamp
TRITON := .venv-triton/.stamp
STORES := .venv-stores/.stamp
DEPENDENCIES := pyproject.toml constraints.txt scripts/venv.sh
BIN := .venv/bin

# The interpreter that makes .venv; empty means the first on the PATH that is new enough.
export PYTHON
# Since 1.29 ONNX Runtime reports to its maker, from its import on, unless this is set.
export ORT_DISABLE_TELEMETRY := 1

.PHONY: help demo test check fix proto reference docs bench store-test image-test sbom release

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

demo: $(SERVING) ## serve models/, mint ten digits of each class, write demo/sheet.png
	@$(BIN)/python scripts/demo.py

test: $(DEV) $(TRITON) ## run every test; PYTEST_ARGS="-k serial" for some
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

check: $(DEV) ## format, lint, types, arrows, schemas, fresh stubs, Dockerfile, shell
	@scripts/check.sh

fix: $(DEV) ## mend what can be mended by machine
	@$(BIN)/ruff check --fix; status=$$?; $(BIN)/ruff format; exit $$status

proto: $(DEV) ## generate proto/gen and clients/typescript/src/gen from proto/
	@scripts/genproto.sh
	@scripts/genproto-typescript.sh

reference: $(DEV) ## write docs/reference from the code: settings, schemas, metrics, errors
	@$(BIN)/python scripts/site/make_site.py reference

docs: $(DEV) ## build the documentation site and show it at localhost:8008
	@$(BIN)/python scripts/site/make_site.py serve

# It makes the environments of the peers that it is told to run, in .venv-peers.
bench: $(DEV) ## load-test the server beside its peers; BENCH_ARGS="--peers none" alone
	@$(BIN)/python benchmarks/serving.py $(BENCH_ARGS)

# It needs npm; `make test` skips these tests, because the installation takes minutes.
store-test: $(DEV) $(STORES) ## test repositories in Google Cloud Storage and Azure, on emulators
	@PYTHONPATH=.venv-stores/python $(BIN)/python -m pytest tests/integration/test_cloud_stores.py \
	  $(PYTEST_ARGS)

# It needs root, buildah and debootstrap; otherwise the tests are skipped, with the reason.
image-test: $(DEV) ## build the container images, start them and test them; takes minutes
	@$(BIN)/python -m pytest -m image tests/e2e/test_image.py $(PYTEST_ARGS)

sbom: $(DEV) ## write what the images hold, and the licences, to dist/; SBOM_ARGS="cpu" for one
	@$(BIN)/python scripts/sbom.py $(SBOM_ARGS)

release: $(DEV) ## make everything of a release but publish it; VERSION=0.3.0
	@$(BIN)/python scripts/release.py $(VERSION) $(RELEASE_ARGS)

$(SERVING): $(DEPENDENCIES)
	@scripts/venv.sh server
	@touch $@

# The dev extra holds the server extra, so one set-up serves both.
$(DEV): $(DEPENDENCIES)
	@scripts/venv.sh dev
	@touch $(SERVING) $@

# Order-only: the client of Triton knows nothing of ours, and .venv only lends it its Python.
$(TRITON): constraints-triton.txt scripts/venv-triton.sh | $(DEV)
	@scripts/venv-triton.sh
	@touch $@

$(STORES): constraints-stores.txt scripts/venv-stores.sh | $(DEV)
	@scripts/venv-stores.sh
	@touch $@
