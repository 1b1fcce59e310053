# SPDX-License-Identifier: Apache-2.0
# Perilune. `make help` lists the targets.

BUILD   ?= build
CC      := gcc
CLANG   := clang
PYTHON  := /usr/bin/python3
VERSION := 0.1

PKGS    := liburing libiscsi libxxhash lmdb jansson libmicrohttpd libcurl libseccomp gnutls
CFLAGS  ?= -O2 -g
WARN    := -Wall -Wextra -Wshadow -Wmissing-prototypes -Wvla -Wimplicit-fallthrough -Werror
CPPFLAGS += -I. -D_GNU_SOURCE -DPERILUNE_VERSION='"$(VERSION)"'
ALL_CFLAGS = -std=c17 $(WARN) $(CFLAGS) $(SANITIZE) -fno-omit-frame-pointer -pthread
LDLIBS  = -luring -liscsi -lxxhash -llmdb -ljansson -lmicrohttpd -lcurl -lseccomp -lgnutls -lm

# Layers, top to bottom: a library a folder; the linker sees them in this order.
LAYERS  := host migrate vfs clusterfs blockdev base
LIBS    := $(foreach l,$(LAYERS),$(if $(wildcard $(l)/*.c),$(BUILD)/lib/lib$(l).a))
HVLIBS  := $(BUILD)/lib/libhv.a $(BUILD)/lib/libbase.a
DIRS    := $(LAYERS) hv tools

objs = $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard $(1)/*.c))

# A program is a folder's file main_NAME.c in tools/, plus, for NAME, every tools/NAME_*.c.
PROGRAMS := $(patsubst tools/main_%.c,%,$(wildcard tools/main_*.c))
BINS     := $(foreach p,$(PROGRAMS),$(BUILD)/bin/$(subst _,-,$(p)))

UNIT     := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/unit/test_*.c tests/crash/test_*.c))
HELPERS  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/hosts/*.c tests/bench/*.c tests/client/*.c tests/stub/*.c))
FUZZ     := $(patsubst tests/fuzz/%.c,$(BUILD)/fuzz/%,$(wildcard tests/fuzz/fuzz_*.c))

# `make V=1` shows the commands.
Q := $(if $(V),,@)
say = $(if $(V),,@echo "  $(1) $@")

.PHONY: all help deps install check check-fast check-headers soak fuzz bench bench-lab demo sanitize tsan format format-check clean tests
.SECONDARY:
.DELETE_ON_ERROR:

all: $(BINS) ## build the programs into build/bin

help: ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' Makefile

# --- building ---------------------------------------------------------------------------------

$(BUILD)/obj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC  )
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

define library
$(BUILD)/lib/lib$(1).a: $(call objs,$(1))
	@mkdir -p $$(@D)
	@rm -f $$@
	$$(call say,AR  )
	$$(Q)ar rcs $$@ $$^
endef
$(foreach l,$(LAYERS) hv,$(eval $(call library,$(l))))

define program
$(BUILD)/bin/$(subst _,-,$(1)): $(BUILD)/obj/tools/main_$(1).o $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tools/$(1)_*.c)) $(if $(filter perilune_vmm,$(1)),$(HVLIBS),$(LIBS))
	@mkdir -p $$(@D)
	$$(call say,LINK)
	$$(Q)$(CC) $(ALL_CFLAGS) -o $$@ $$^ $(LDLIBS)
endef
$(foreach p,$(PROGRAMS),$(eval $(call program,$(p))))

# Tests link every layer and hv; each is one file plus the helpers in tests/lib.
TESTLIB := $(BUILD)/lib/libtest.a
$(TESTLIB): $(patsubst %.c,$(BUILD)/obj/%.o,$(wildcard tests/lib/*.c))
	@mkdir -p $(@D)
	@rm -f $@
	@ar rcs $@ $^
$(BUILD)/tests/%: tests/%.c $(TESTLIB) $(LIBS) $(if $(wildcard hv/*.c),$(BUILD)/lib/libhv.a)
	@mkdir -p $(@D)
	$(call say,TEST)
	$(Q)$(CC) $(CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -MF $@.d -o $@ $< $(TESTLIB) $(if $(wildcard hv/*.c),$(BUILD)/lib/libhv.a) $(LIBS) -lcmocka $(LDLIBS)

tests: $(UNIT) $(HELPERS)

# Fuzz targets build the product's own sources with clang's coverage, in a tree of their own.
FUZZ_FLAGS := -std=c17 -g -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -Wno-unknown-warning-option
fuzzobjs = $(patsubst %.c,$(BUILD)/fuzzobj/%.o,$(foreach d,$(LAYERS) hv,$(wildcard $(d)/*.c)))
$(BUILD)/fuzzobj/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC  )
	$(Q)$(CLANG) $(CPPFLAGS) $(FUZZ_FLAGS) -MMD -MP -c -o $@ $<
$(BUILD)/fuzzobj/all.a: $(fuzzobjs)
	@rm -f $@
	$(Q)ar rcs $@ $^
$(BUILD)/fuzzobj/shared.a: $(patsubst %.c,$(BUILD)/fuzzobj/%.o,$(filter-out tests/fuzz/fuzz_%,$(wildcard tests/fuzz/*.c)))
	@rm -f $@
	$(Q)ar rcs $@ $^
$(BUILD)/fuzz/%: tests/fuzz/%.c $(BUILD)/fuzzobj/shared.a $(BUILD)/fuzzobj/all.a
	@mkdir -p $(@D)
	$(call say,FUZZ)
	$(Q)$(CLANG) $(CPPFLAGS) $(FUZZ_FLAGS) -fsanitize=fuzzer,address,undefined -o $@ $< $(BUILD)/fuzzobj/shared.a $(BUILD)/fuzzobj/all.a -pthread $(LDLIBS)

fuzz-build: $(FUZZ)

deps: ## install the Debian packages of packages.txt
	@tests/checks/deps packages.txt

install: all ## install into $(DESTDIR)/usr
	install -d $(DESTDIR)/usr/bin $(DESTDIR)/usr/sbin $(DESTDIR)/usr/lib/perilune
	install -m 755 $(BUILD)/bin/perilune $(DESTDIR)/usr/bin/
	install -m 755 $(BUILD)/bin/perilund $(DESTDIR)/usr/sbin/
	install -m 755 $(BUILD)/bin/perilune-vmm $(DESTDIR)/usr/lib/perilune/
	install -d $(DESTDIR)/lib/systemd/system
	install -m 644 tools/perilund.service $(DESTDIR)/lib/systemd/system/

# --- proving ----------------------------------------------------------------------------------

check: deps ## everything; the last line counts passed, failed, skipped
	@$(MAKE) --no-print-directory -j2 all tests fuzz-build
	@tests/run all

check-fast: ## under two minutes: headers, includes, unit and the quick host tests
	@$(MAKE) --no-print-directory -j2 all tests
	@tests/run fast

soak: all tests ## hours: the kill and chaos tests many times over
	@tests/run soak

fuzz: fuzz-build ## every fuzz target for FUZZ_SECONDS (60) each
	@tests/run fuzz

bench: all tests ## rows of build/bench.tsv against fio and QEMU
	@tests/bench/run native

bench-lab: all tests ## the lab's rows into the same file
	@tests/bench/run lab

demo: deps ## from an empty LUN to a VM that moves, and survives its host, in the lab
	@$(MAKE) --no-print-directory -j2 all tests
	@tests/lab/demo

sanitize: ## build and run the unit tests under ASan and UBSan, in build/san
	@$(MAKE) --no-print-directory -j2 BUILD=$(BUILD)/san SANITIZE='-fsanitize=address,undefined -fno-sanitize-recover=undefined' all tests
	@BUILD=$(BUILD)/san tests/run unit

tsan: ## build and run the unit tests under TSan, in build/tsan
	@$(MAKE) --no-print-directory -j2 BUILD=$(BUILD)/tsan SANITIZE='-fsanitize=thread -Wno-tsan' all tests
	@BUILD=$(BUILD)/tsan TSAN_OPTIONS='die_after_fork=0 second_deadlock_stack=1 suppressions=tests/tsan.supp' tests/run unit

FORMATTED := $(wildcard $(foreach d,$(DIRS) tests/unit tests/fuzz tests/hosts tests/crash tests/bench tests/client tests/stub tests/lib,$(d)/*.c $(d)/*.h))
format: ## clang-format everything in place
	clang-format -i $(FORMATTED)

format-check: ## fail when clang-format would change something
	@clang-format --dry-run -Werror $(FORMATTED)

clean: ## remove build/
	rm -rf $(BUILD)

-include $(shell find $(BUILD) -name '*.d' 2>/dev/null)
