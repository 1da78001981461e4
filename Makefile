# The commands of users and CI. They need Go, make, Python 3 and curl.
GO     ?= go
# The first three flags override GOFLAGS, which may hold -race, -buildmode=pie or -pgo=off.
BUILD   = CGO_ENABLED=0 $(GO) build -race=false -buildmode=default -pgo=auto -trimpath -ldflags='-s -w -buildid='
# The linters have a separate go.mod, so that the product does not depend on their modules.
TOOL    = $(GO) tool -modfile=tools/go.mod

# Ignore settings for other projects: a go.work in a parent directory, GO111MODULE=off, and -mod=mod or -mod=vendor in GOFLAGS.
GOWORK      = off
GO111MODULE = on
# Go writes the commit into the programs. That fails in a clone that git rejects, such as one that another user owns.
STAMP      := $(shell git status --porcelain >/dev/null 2>&1 && git log -1 >/dev/null 2>&1 || echo -buildvcs=false)
override GOFLAGS := $(or $(GOFLAGS),$(shell $(GO) env GOFLAGS)) -mod=readonly $(STAMP)
export GOWORK GO111MODULE GOFLAGS

.PHONY: build module up test test-long test-image test-cluster test-mesh test-openapi test-release bench soak dashboard pgo lint fuzz vuln clean
.PHONY: release release-programs release-module release-sbom release-images

## build: static authzd, keyd, keyctl (and the demo's parts) into bin/
build:
	@mkdir -p bin
	$(BUILD) -o bin/ ./cmd/... ./envoy/echo

SHARED  = CGO_ENABLED=1 $(GO) build -race=false -buildmode=c-shared -trimpath -ldflags='-s -w'

## module: the Envoy module bin/libphantom_authz.so; needs a C compiler
module:
	@cc=$$($(GO) env CC); command -v $${cc%% *} >/dev/null || \
	  { echo "The Envoy module needs a C compiler, and $$cc is missing: install gcc, or name another one with CC=." >&2; exit 1; }
	@mkdir -p bin
	$(SHARED) -o bin/libphantom_authz.so ./cmd/module
	@rm -f bin/libphantom_authz.h

# A release depends on the commit, VERSION and Go alone, so that each build of it has the same bytes. -X sets what -version prints.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
EPOCH   := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
RELEASE  = env GOFLAGS='-mod=readonly $(STAMP)' GOOS=linux GOAMD64=v1 GOARM64=v8.0 GOEXPERIMENT= CGO_CFLAGS='-O2 -g' CGO_LDFLAGS=
STAMPED  = -s -w -buildid= -X github.com/phantomrouter/phantom-authz/pkg/daemon.version=$(VERSION)

## release: programs for linux/amd64 and linux/arm64, the Envoy module for this architecture, SBOM, images and SHA256SUMS in dist/;
## VERSION= for another version than that of git describe
release: release-images
	@rm -rf dist/.image
	cd dist && sha256sum * >SHA256SUMS

release-programs:
	@case '$(VERSION)' in ''|*[!0-9A-Za-z.+_-]*) echo "VERSION is invalid: must be letters, digits and any of .+_-" >&2; exit 2;; esac
	@rm -rf dist && mkdir dist
	for arch in amd64 arm64; do for name in authzd keyd keyctl; do \
	  $(RELEASE) CGO_ENABLED=0 GOARCH=$$arch $(GO) build -trimpath -ldflags='$(STAMPED)' -o dist/$$name-linux-$$arch ./cmd/$$name || exit 1; \
	done; done

release-module: release-programs
	$(RELEASE) CGO_ENABLED=1 $(GO) build -buildmode=c-shared -trimpath -ldflags='$(STAMPED) -extldflags=-Wl,--build-id=none' \
	  -o dist/libphantom_authz-linux-$$($(GO) env GOHOSTARCH).so ./cmd/module
	@rm -f dist/*.h

SYFT ?= $(GO) tool -modfile=tools/release/go.mod syft
# syft reads what the programs link. Its time and its random name are replaced by those of the release.
release-sbom: release-module
	@mkdir -p bin
	SYFT_CHECK_FOR_APP_UPDATE=false $(SYFT) scan -q dir:dist --source-name phantom-authz --source-version '$(VERSION)' -o spdx-json >bin/sbom.json
	sed -E -e 's|"created": *"[^"]*"|"created":"'$$(date -u -d @$(EPOCH) +%Y-%m-%dT%H:%M:%SZ)'"|' \
	  -e 's|("documentNamespace": *"[^"]*)-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"|\1-$(VERSION)"|' bin/sbom.json >dist/phantom-authz.spdx.json

# The images hold the programs from dist/. An archive has its files in order and with the time of the commit.
release-images: release-sbom
	@tools/release/images.sh '$(VERSION)' $(EPOCH)

## up: the complete stack on this machine with a real Envoy on localhost:10000 (PORT= for another port; MODULE=1 for the Envoy
## module in place of authzd)
up: $(if $(filter 1,$(MODULE)),module)
	@mkdir -p bin
	@echo "building"
	@$(BUILD) -o bin/ ./cmd/... ./envoy/echo
	@exec bin/demo

# -pgo=off: with its profile all that authzd imports is compiled a second time.
## test: everything that needs no Docker
test: export GOFLAGS := $(GOFLAGS) -pgo=off
test:
	$(GO) vet ./...
	$(GO) test -race -timeout 15m ./...
	cd k8s && $(GO) test -timeout 10m ./...
	cd monitoring && $(GO) test -timeout 10m ./...

## test-image: the image, the Pods and the compose project with buildah and runc (root, Linux)
test-image:
	cd k8s && $(GO) test -tags image -timeout 30m ./...

## test-mesh: the overlays for meshes with istioctl, istiod and egctl, which it compiles into the user's cache directory the first
## time (20 min); UPDATE=1 writes their translations, which make test runs
test-mesh:
	cd k8s && $(GO) test -tags mesh -timeout 90m -v ./mesh

## test-long: the long model and all mutants; a million checks during faults, a million unknown keys, 100 kills of each type, 30 minutes of mixed load with authzd and with the module
test-long:
	$(GO) test -tags long -timeout 60m -v -run 'Long|AllMutants' ./pkg/keycache
	$(GO) test -tags long -timeout 150m -v ./faults/...

## test-cluster: base, overlays and admission policies on a real API server (builds etcd and kube-apiserver once, 10 min; needs openssl)
test-cluster:
	cd k8s && $(GO) test -tags cluster -timeout 60m -v ./cluster

SOAK  ?= 30m
FRONT ?= authzd
soak_test_authzd = TestMixedLoad
soak_test_module = TestMixedLoadWithTheModule
## soak: 2,000 requests/s for SOAK with changes, outages and restarts, then the tables and plots of docs/soak.md; FRONT=module for
## the Envoy module. Fails if an answer is wrong or a bound is broken
soak:
	@test -n "$(soak_test_$(FRONT))" || { echo "FRONT is invalid: must be authzd or module" >&2; exit 1; }
	@mkdir -p bin/soak; rm -f bin/soak/$(FRONT).json
	@failed=0; \
	$(GO) test -tags long -count 1 -timeout 0 -v -run '^$(soak_test_$(FRONT))$$' ./faults -args -mixed $(SOAK) -mixed.json $(CURDIR)/bin/soak/$(FRONT).json || failed=1; \
	$(GO) run ./bench/report -page soak bin/soak/$(FRONT).json || failed=1; \
	exit $$failed

# In the order of docs/performance.md.
BENCHES ?= envoy check size change revoke flood scale
## bench: all benchmarks (25 min, on an idle machine), then the tables and plots of docs/performance.md; BENCHES= for some of them
bench:
	@mkdir -p bin/bench
	@# The compiler would disturb the first rounds: the benchmarks then find keyd and authzd in its cache.
	$(GO) build -o bin/bench/ ./bench/... ./cmd/keyd ./cmd/authzd ./internal/loadgen
	@failed=; for name in $(BENCHES); do \
	  echo "== $$name"; rm -f bin/bench/$$name.json; \
	  timeout -k 10 15m bin/bench/$$name -json bin/bench/$$name.json && test -f bin/bench/$$name.json || failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "failed:$$failed. Repeat these with make bench BENCHES=\"$${failed# }\""; exit 1; fi
	bin/bench/report $(BENCHES:%=bin/bench/%.json)

## dashboard: the pictures of docs/dashboard.md, from three minutes of load with outages; needs Prometheus, which make test unpacks
dashboard:
	$(GO) run ./bench/dashboard

## pgo: the profile for the compiler, cmd/authzd/default.pgo, of authzd under the loads of bench/check; go build uses it
pgo:
	GOFLAGS='$(GOFLAGS) -trimpath' $(GO) run ./bench/check -duration 20s -profile cmd/authzd/default.pgo

## test-openapi: requests that schemathesis generates from openapi.yaml for a real keyd (installs it from PyPI into .venv)
test-openapi:
	$(GO) test -tags openapi -timeout 10m -run TestSchemathesis ./cmd/keyd

## test-release: make release in two clones with separate caches: the same bytes, the stamped version, a complete SBOM
test-release:
	$(GO) test -tags release -timeout 60m -v -run TestRelease .

## lint: golangci-lint over all modules
lint:
	$(TOOL) golangci-lint run --build-tags long,openapi ./...
	cd k8s && $(GO) tool -modfile=../tools/go.mod golangci-lint run --build-tags image,cluster,mesh ./...
	cd monitoring && $(GO) tool -modfile=../tools/go.mod golangci-lint run ./...

## fuzz: all fuzz targets, each for FUZZTIME
FUZZTIME ?= 1m
fuzz:
	@set -e; for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "== $$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) -parallel 2 $$pkg; \
	  done; done

## vuln: known vulnerabilities of linked code; needs the database of govulncheck
vuln:
	$(TOOL) govulncheck ./...

clean:
	rm -rf bin dist .demo .envoy
