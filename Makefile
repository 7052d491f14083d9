# What the project can do, a target each. Everything sets up what it lacks.
VERSION := $(shell git describe --always --dirty 2>/dev/null || echo unknown)
KERNEL  ?= 6.1
export CGO_ENABLED ?= 0

.PHONY: build image demo test bench lint e2e clean

build: ## bin/pointsman, static
	go build -trimpath -ldflags '-s -w -X main.version=$(VERSION)' -o bin/pointsman ./cmd/pointsman

image: ## bin/pointsman-image.tar, for deploy/; needs no container engine
	scripts/image

demo: build ## the scenario on a real kernel; HOLD=1 leaves you inside, KERNEL=7.2 takes another
	scripts/setup demo
	go build -trimpath -ldflags '-s -w' -o bin/demo ./e2e/demo
	scripts/vm --kernel $(KERNEL) -- bin/demo -pointsman bin/pointsman

test: ## unit, race, property, fuzz and real-kernel tests
	scripts/test

e2e: build ## the program in a cluster: a real control plane, nodes on real kernels
	scripts/test cluster

bench: build ## figures from one guest run, and native ones
	scripts/bench

lint:
	scripts/lint

clean: ## what was built; .cache keeps kernels
	rm -rf bin
