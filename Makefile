# Tandem. The common calls:
#   make            the program ./tandem           make test    all tests, with a closing count
#   make chat       build and talk to the demo     make bench   speed of this machine
#   make install    PREFIX=/usr/local DESTDIR=     make clean
# On a machine with a card: make test-gpu, make bench-gpu; sh tools/gpu_report.sh does both.
# Switches: SAN=1 (AddressSanitizer and UBSan), LIBS=none (libc, libm and pthread only),
#           CUDA=1 or 0 (build the GPU library or not; without it: where nvcc and a card are),
#           V=1 (show commands), B=dir (where objects go).

CC     ?= cc
PREFIX ?= /usr/local
SAN    ?= 0
LIBS   ?= all
CUDA   ?= $(if $(and $(NVCC),$(GPU_CARDS)),1,0)
V      ?= 0
MACHINE := $(shell $(CC) -dumpmachine | cut -d- -f1)

B ?= build$(if $(filter 1,$(SAN)),-san)$(if $(filter none,$(LIBS)),-nolibs)
Q := $(if $(filter 0,$(V)),@)

VERSION := 0.1
COMMIT  := $(shell git rev-parse --short HEAD 2>/dev/null || echo unknown)

CFLAGS   ?= -O3 -g
WARN     := -Wall -Wextra -Wshadow -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wvla
ALL_CFLAGS = -std=c11 -D_GNU_SOURCE -I. $(WARN) -ffp-contract=off -fno-math-errno \
             -fvisibility=hidden -pthread $(CFLAGS) $(LIB_CFLAGS)
LDLIBS    = $(LIB_LDLIBS) -ldl -lm -pthread

ifeq ($(SAN),1)
  CFLAGS += -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer -O1
  LDFLAGS += -fsanitize=address,undefined
endif

# A file X.c that needs a library has a twin X_none.c that does without and says so where it matters.
# tools/ are commands of tandem, which also answers to tandem-COMMAND; those in OWN are programs.
OWN     := tiny
ALL_SRC := $(wildcard src/*.c src/*/*.c cpu/*.c) $(filter-out $(OWN:%=tools/%%.c),$(wildcard tools/*.c))
NONE    := $(filter %_none.c,$(ALL_SRC))
ifeq ($(LIBS),none)
  SRC := $(filter-out $(NONE:%_none.c=%.c),$(ALL_SRC))
else
  SRC := $(filter-out $(NONE),$(ALL_SRC))
  LIB_CFLAGS := $(shell pkg-config --cflags libpcre2-8 readline jansson openblas 2>/dev/null)
  # OpenBLAS is opened at run time (cpu/blas.c); its header is all that is needed here.
  LIB_LDLIBS := $(or $(shell pkg-config --libs libpcre2-8 readline jansson 2>/dev/null),\
                     -lpcre2-8 -lreadline -ljansson)
  # The one that may be missing: without it Markdown is shown as it was written.
  ifeq ($(shell echo '\#include <md4c.h>' | $(CC) -E - >/dev/null 2>&1 && echo found),found)
    LIB_LDLIBS += -lmd4c
  else
    SRC := $(filter-out %/markdown.c %/markdown_table.c,$(SRC)) src/cli/markdown_none.c
  endif
endif

# Kernels: one folder per ISA, its flags here; the files choose nothing themselves.
ifeq ($(MACHINE),x86_64)
  SRC += $(wildcard cpu/avx2/*.c cpu/avxvnni/*.c cpu/avx512/*.c cpu/vbmi/*.c cpu/amx/*.c)
  FLAGS_avx2   := -mavx2 -mfma -mf16c
  FLAGS_avxvnni := -mavxvnni $(FLAGS_avx2)
  FLAGS_avx512 := -mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni -mavx2 -mfma -mf16c
  FLAGS_vbmi   := $(FLAGS_avx512) -mavx512vbmi -mgfni
  FLAGS_amx    := $(FLAGS_avx512) -mamx-tile -mamx-int8 -mamx-bf16
else ifeq ($(MACHINE),aarch64)
  SRC += $(wildcard cpu/neon/*.c)
  FLAGS_neon := -march=armv8.2-a+dotprod+fp16
endif

# The GPU library: .cu files by nvcc; for the tests by the C++ compiler, against tests/cuda_host.h.
# GPU_ARCH: compute capabilities, those of the cards here that nvcc knows, or 80 (newer cards translate
# its PTX). What nvidia-smi says in place of numbers, where it has failed, is left out.
CUDA_ROOTS := $(CUDA_HOME) $(CUDA_PATH) /usr/local/cuda /opt/cuda $(lastword $(sort $(wildcard /usr/local/cuda-*)))
NVCC      ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard $(CUDA_ROOTS:%=%/bin/nvcc)))
GPU_CARDS := $(sort $(shell PATH="$$PATH:/usr/lib/wsl/lib" \
               nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | \
               sed -n 's/^ *\([0-9][0-9]*\)\.\([0-9]\) *$$/\1\2/p'))
NVCC_KNOWS = $(patsubst compute_%,%,$(shell $(NVCC) --list-gpu-arch 2>/dev/null))
GPU_ARCH  ?= $(or $(filter $(NVCC_KNOWS),$(GPU_CARDS)),80)
GPU_SRC   := $(wildcard gpu/*.cu)
CXX_OK    := $(shell command -v $(CXX) 2>/dev/null)
CXX_FLAGS  = -std=c++20 -I. -Wall -Wextra -ffp-contract=off -fno-math-errno -fPIC \
             -fvisibility=hidden -pthread $(CFLAGS)
CUDA_HOST := $(B)/tests/cuda_host.o $(patsubst %,$(B)/tests/cuda_host_%.o,api graphs hooks numbers)
EMULATED  := $(if $(CXX_OK),$(B)/tests/tandem-gpu-emulated.so)
gencode    = $(foreach a,$(1),-gencode arch=compute_$(a),code=sm_$(a)) \
             -gencode arch=compute_$(lastword $(1)),code=compute_$(lastword $(1))
NVCC_FLAGS = -std=c++20 -O3 -I. $(NVCC_STRICT) \
             -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-ffp-contract=off

OBJ   := $(SRC:%.c=$(B)/%.o)
TESTS := $(patsubst tests/%.c,$(B)/tests/%,$(wildcard tests/test_*.c tests/check_*.c))
TESTS += $(if $(CXX_OK),$(patsubst tests/%.cc,$(B)/tests/%,$(wildcard tests/test_*.cc)))
TOOLS := $(OWN:%=$(B)/%)
ALSO  := tandem-quantize tandem-convert
MODEL := models/demo.gguf

all: $(B)/tandem tandem $(TOOLS) $(ALSO:%=$(B)/%) $(if $(filter 1,$(CUDA)),gpu)

# ./tandem is the latest build, whatever its switches were.
tandem: $(B)/tandem
	$(Q)ln -sf $< $@

$(B)/tandem: $(B)/main.o $(B)/libtandem.a
	@echo "link  $@"
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(ALSO:%=$(B)/%): $(B)/tandem
	$(Q)ln -sf tandem $@

$(B)/libtandem.a: $(OBJ)
	@echo "ar    $@"
	$(Q)rm -f $@ && ar rcs $@ $^

$(B)/tests/%: $(B)/tests/%.o $(B)/tests/check.o $(B)/libtandem.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $^ $(LDLIBS)

$(B)/tiny: $(B)/tools/tiny_keys.o $(B)/tools/tiny_types.o
$(TOOLS): $(B)/%: $(B)/tools/%.o $(B)/libtandem.a
	$(Q)$(CC) $(LDFLAGS) -o $@ $(filter %.o,$^) $(filter %.a,$^) $(LDLIBS)

gpu: $(B)/tandem-gpu.so

$(B)/tandem-gpu.so: $(GPU_SRC:%.cu=$(B)/%.o)
	@echo "link  $@"
	$(Q)$(NVCC) -shared -cudart static -o $@ $^

$(B)/gpu/%.o: gpu/%.cu
	@mkdir -p $(@D)
	@echo "nvcc  $<"
	$(Q)$(or $(NVCC),$(error no nvcc found: install the CUDA toolkit or say NVCC=path)) $(NVCC_FLAGS) \
	  $(call gencode,$(GPU_ARCH)) -MMD -MP -MF $(@:.o=.d) -c -o $@ $<

# Every card this version serves, as a release is built; a warning is an error here.
cuda-all:
	$(Q)$(MAKE) --no-print-directory B=build-cuda-all GPU_ARCH="75 80 86 89 90 100 120" \
	  NVCC_STRICT="-Werror all-warnings" gpu

emulated: $(EMULATED)

$(B)/tests/tandem-gpu-emulated.so: $(GPU_SRC:gpu/%.cu=$(B)/tests/gpu/%.o) $(CUDA_HOST) \
                                   $(B)/tests/cuda_host_blas.o
	@echo "link  $@"
	$(Q)$(CXX) -shared $(LDFLAGS) -o $@ $^ -pthread

$(B)/tests/gpu/%.o: gpu/%.cu
	@mkdir -p $(@D)
	@echo "c++   $<"
	$(Q)$(CXX) $(CXX_FLAGS) -include tests/cuda_host.h -MMD -MP -x c++ -c -o $@ $<

$(B)/%.o: %.cc
	@mkdir -p $(@D)
	@echo "c++   $<"
	$(Q)$(CXX) $(CXX_FLAGS) -MMD -MP -c -o $@ $<

$(B)/tests/test_cuda_host: $(B)/tests/test_cuda_host.o $(CUDA_HOST) $(B)/tests/check.o \
                           $(B)/libtandem.a
	$(Q)$(CXX) $(LDFLAGS) -o $@ $^ $(LDLIBS)

# A new commit or prefix rebuilds the one file that tells them.
$(B)/stamp: FORCE
	@mkdir -p $(@D)
	@echo '$(VERSION) $(COMMIT) $(PREFIX)' | cmp -s - $@ || echo '$(VERSION) $(COMMIT) $(PREFIX)' >$@

$(B)/src/cli/version.o $(B)/src/gpu_load.o: $(B)/stamp
$(B)/src/gpu_load.o: ALL_CFLAGS += -DTANDEM_PREFIX='"$(PREFIX)"'
$(B)/src/cli/version.o: ALL_CFLAGS += -DTANDEM_VERSION='"$(VERSION)"' -DTANDEM_COMMIT='"$(COMMIT)"' \
                                      -DTANDEM_PREFIX='"$(PREFIX)"'
# The commit is part of the program: what --version says is what was built.
$(B)/src/cli/version.o: $(B)/commit
$(B)/commit: FORCE
	@mkdir -p $(@D)
	@echo $(COMMIT) | cmp -s - $@ || echo $(COMMIT) > $@
FORCE:

$(B)/%.o: %.c
	@mkdir -p $(@D)
	@echo "cc    $<"
	$(Q)$(CC) $(ALL_CFLAGS) $(FLAGS_$(notdir $(patsubst %/,%,$(dir $<)))) -MMD -MP -c -o $@ $<

-include $(shell find $(B) -name '*.d' 2>/dev/null)

tests: $(TESTS) $(EMULATED)

test: all tests
	$(Q)B=$(B) sh tests/run.sh

test-long: all tests
	$(Q)B=$(B) TANDEM_TEST_LONG=1 sh tests/run.sh

# The GPU's tests on a real card. Without fixtures or a card they fail.
GPU_TESTS := $(foreach t,$(TESTS),$(if $(findstring gpu,$(notdir $(t))),$(t)))
gpu-tests: $(B)/tandem $(GPU_TESTS)

test-gpu: gpu gpu-tests
	@test -d "$${TANDEM_FIXTURES:-../shared/fixtures}" || \
	  { echo "make test-gpu needs the fixtures: TANDEM_FIXTURES, or make device-kit elsewhere"; exit 1; }
	$(Q)B=$(B) TANDEM_GPU=$(B)/tandem-gpu.so TANDEM_TEST_ONLY=gpu sh tests/run.sh

# The card's speed: kernels, bus, models. SMALL=1: tiny sizes on the emulated card.
bench-gpu: $(if $(SMALL),emulated,gpu) $(B)/tandem $(TOOLS)
	$(Q)B=$(B) $(if $(SMALL),TANDEM_GPU=$(EMULATED)) sh tools/bench_gpu.sh

# What the GPU's tests need on a machine that has only a card and a compiler; see device-kit/README.
# LIBS=all, said on the command line: shared libraries too.
device-kit: gpu-tests emulated
	$(Q)B=$(B) KIT_LIBS=$(if $(filter command,$(firstword $(origin LIBS))),$(LIBS),none) sh tools/device_kit.sh

# The ARM kernels on any machine: cross-built, run by an emulator.
check-neon:
	$(Q)MAKE="$(MAKE)" sh tests/neon.sh

# The machine with its kernels, then the demo model on it.
bench: all
	$(Q)$(B)/tandem bench --probe
	@echo
	$(Q)$(B)/tandem bench $(MODEL)

chat: all
	$(Q)$(B)/tandem chat $(MODEL)

# libFuzzer on everything that reads bytes: tests/fuzz_X.c, seeds in tests/vectors/X.*; needs clang.
FUZZ   := $(patsubst tests/fuzz_%.c,%,$(wildcard tests/fuzz_*.c))
FUZZ_S ?= 60
FUZZ_ALSO := tools/imatrix.c tools/journal.c
fuzz:
	@command -v clang >/dev/null || { echo "make fuzz needs clang"; exit 1; }
	@mkdir -p build-fuzz
	$(Q)for f in $(FUZZ); do \
	  mkdir -p build-fuzz/$$f && cp tests/vectors/*.$$f build-fuzz/$$f/ 2>/dev/null; \
	  clang -std=c11 -D_GNU_SOURCE -I. -O1 -g -fsanitize=fuzzer,address,undefined \
	    -fno-sanitize-recover=all $(LIB_CFLAGS) -o build-fuzz/fuzz_$$f tests/fuzz_$$f.c \
	    $(filter src/base/% src/format/% src/text/% $(FUZZ_ALSO),$(SRC)) $(LDLIBS) && \
	  build-fuzz/fuzz_$$f -max_total_time=$(FUZZ_S) -timeout=5 -rss_limit_mb=512 -max_len=4096 \
	    -print_final_stats=1 -artifact_prefix=build-fuzz/$$f- build-fuzz/$$f || exit 1; \
	done

install: all
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/tandem
	install -m 755 $(B)/tandem $(DESTDIR)$(PREFIX)/bin/tandem
	if [ -f $(B)/tandem-gpu.so ]; then install -d $(DESTDIR)$(PREFIX)/lib/tandem && \
	  install -m 755 $(B)/tandem-gpu.so $(DESTDIR)$(PREFIX)/lib/tandem/; fi
	for name in $(ALSO); do ln -sf tandem $(DESTDIR)$(PREFIX)/bin/$$name; done
	install -m 644 $(MODEL) $(DESTDIR)$(PREFIX)/share/tandem/demo.gguf
	install -m 644 LICENSE $(DESTDIR)$(PREFIX)/share/tandem/LICENSE
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d \
	  $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	$(B)/tandem help --man >$(DESTDIR)$(PREFIX)/share/man/man1/tandem.1
	for name in `$(B)/tandem help --commands`; do \
	  $(B)/tandem help $$name --man >$(DESTDIR)$(PREFIX)/share/man/man1/tandem-$$name.1 || exit 1; done
	$(B)/tandem help --completions bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/tandem
	$(B)/tandem help --completions zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_tandem
	$(B)/tandem help --completions fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/tandem.fish

clean:
	rm -rf build build-* tandem device-kit gpu-report

.PHONY: FORCE all tandem gpu cuda-all emulated tests test test-long gpu-tests test-gpu bench-gpu device-kit check-neon bench chat fuzz install clean
.SECONDARY:
