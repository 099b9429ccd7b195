## What fails at the machine, whichever the command

error-checkpoint = this is no usable gpt-oss checkpoint: { $why }
error-export = the export failed: { $why }

in-process-not-exported = { $model } has no export for the target { $target }; make one with `gptoss-ctl export { $model } --target { $target }`
in-process-no-sequence = the backend has no sequence to give

cannot-write = cannot write: { $why }
man-no-command = { $of } has no command { $name }

terminal-unwritable = cannot write the result: { $why }
interrupt-ended = interrupted; { $advice }

## gptoss-ctl runtime, selftest

runtime-library = library
runtime-version = version
runtime-compiled = compiled
runtime-provider = provider
runtime-proven = { $provider } (passed its self-test)
runtime-not = not { $provider }

selftest-passed = works: distance { $distance } from nano's golden logits, { $tolerance } is allowed ({ $milliseconds } ms)
selftest-failed = does not work: { $why }
selftest-quarantined = quarantined since { $since }: { $why }
selftest-how-to-retry = A provider in quarantine is tried again with another driver, device, ONNX Runtime or gptoss, or by `gptoss-ctl selftest --retry`.
selftest-kept = { $provider } works, and { $file } cannot be changed: the daemon goes on passing it over until this is run as root
selftest-reported = { $file } is written; it names no person and no machine, look through it before you send it
selftest-none = no provider reproduces the embedded model's logits

## gptoss-ctl runtime install, remove

runtime-provider-of-show = --provider belongs to `gptoss-ctl runtime` alone
runtime-no-build = no build of ONNX Runtime ({ $build }) is pinned for { $here }; there is one for { $platforms }. ORT_DYLIB_PATH, or runtime.library in the daemon's settings, names a library of your own
runtime-bad-index = give http://HOST or https://HOST of an index of Python's packages, such as https://pypi.org
runtime-is-there = ONNX Runtime { $version } is in { $folder }: every file is the pinned one
runtime-installed = installed ONNX Runtime { $version } ({ $build }), { $size }, in { $folder }; a daemon takes it when it starts anew
runtime-install-interrupted = what was brought is kept: run the same command again to go on
runtime-other-version = { $folder } is of another version: `gptoss-ctl gc --superseded` removes it
runtime-machines-store = { $store } is the machine's store, from which everybody's programs and the daemon load libraries of root's alone: run this as root (`sudo gptoss-ctl runtime install --cuda`), or leave --store out for a store of your own
runtime-noexec = { $store } is on a file system that is mounted noexec, from which no library can be loaded: name a store on another one with --store
runtime-licence-mit = under the MIT licence: { $wheels }
runtime-licence-nvidia = NVIDIA's, proprietary, under the CUDA Toolkit's licence ({ $cuda }) and cuDNN's ({ $cudnn }): { $wheels }
runtime-licence-question = Do you accept NVIDIA's licences? [y/N]
runtime-licence-wanted = nothing was fetched: whoever accepts NVIDIA's licences says so with --accept-nvidia-license
runtime-removed = removed ONNX Runtime ({ $build }) from { $folder }; a daemon that has loaded it keeps it until it ends
runtime-nothing-to-remove = there is no ONNX Runtime ({ $build }) in { $folder }

## gptoss-ctl doctor

doctor-good = ok
doctor-note = note
doctor-wrong = WRONG
doctor-count = { $wrong ->
    [one] { $wrong } thing is wrong
   *[other] { $wrong } things are wrong
}

doctor-processor = processor
doctor-memory = memory
doctor-gpu = gpu
doctor-store = store
doctor-runtime = runtime
doctor-provider = provider
doctor-settings = settings
doctor-catalog = catalog
doctor-units = units
doctor-bus = bus
doctor-socket = socket
doctor-daemon = daemon
doctor-network = network

doctor-cores = { $cores } cores, kernels { $kernels }
doctor-scalar = it has neither AVX2 nor dot products of NEON: plain loops compute, many times slower
doctor-memory-unknown = the system does not tell
doctor-memory-see = see `free -h`
doctor-memory-available = { $size } available
doctor-memory-wanted = 20b wants { $size }: close programs, or raise the control group's limit
doctor-gpu-none = no NVIDIA GPU is visible; the processor computes
doctor-gpu-driver = { $devices }, NVIDIA's driver { $driver }
doctor-gpu-no-driver = /dev/nvidia0 is there and its driver is not loaded
doctor-gpu-load-driver = install NVIDIA's driver of this kernel, or `modprobe nvidia`
doctor-gpu-unloadable = { $library } cannot be loaded
doctor-gpu-install-driver = install NVIDIA's driver
doctor-gpu-install-cuda = `gptoss-ctl runtime install --cuda` brings it, or install CUDA 13 ({ $package })
doctor-gpu-install-cudnn = `gptoss-ctl runtime install --cuda` brings it, or install cuDNN 9 for CUDA 13 ({ $package })

doctor-store-name-another = name another folder with --store or GPTOSS_STORE
doctor-store-not-writable = not writable: { $why }
doctor-store-only-read = until then models are only read; --store names another store
doctor-store-closed = { $path } is closed to the daemon's user
doctor-store-open = `sudo chmod -R a+rX { $store }`
doctor-store-unreadable = { $store } cannot be read
doctor-store-make-readable = its folder must be readable
doctor-store-reinstall = remove it with `gptoss-ctl rm` and install it again
doctor-store-staged = interrupted, or at work: { $models }
doctor-store-go-on = the same command goes on with it; `gptoss-ctl gc` removes it
doctor-store-holds = { $store }: { $models }, { $free } free
doctor-store-empty = { $store }: no model, { $free } free
doctor-store-fill = `gptoss-ctl pull 20b` fetches a model, `gptoss-ctl bundle import` brings one in

doctor-runtime-install = `gptoss-ctl runtime install`, install the package gptoss, import a bundle with a runtime, or set ORT_DYLIB_PATH
doctor-runtime-other-version = { $folder } is of another version of gptoss
doctor-runtime-collect = `gptoss-ctl gc --superseded` removes it, `gptoss-ctl runtime install --cuda` brings this version's
doctor-runtime-found = ONNX Runtime { $version } with { $providers }, { $path }
doctor-provider-reinstall = the library does not compute what it should: reinstall gptoss
doctor-provider-proven = { $provider } reproduces nano's logits
doctor-provider-not = not { $provider }: { $why }
doctor-provider-quarantined = { $provider } is in quarantine since { $since }: { $why }
doctor-provider-retry = another driver, device, ONNX Runtime or gptoss has it tried again, and so does `gptoss-ctl selftest --retry`, for the machine's daemon with sudo; `--report` writes what a report of the fault should have
doctor-provider-cuda = there is a GPU: the package gptoss-cuda brings the ONNX Runtime that uses it
doctor-quarantine-remove = it can be removed: what broke is found out again
doctor-provider-no-gpu = without a GPU this is as it should be; `gptoss-ctl runtime` tells more

doctor-settings-defaults = the defaults
doctor-settings-check = `gptossd --check-config` checks them again
doctor-catalog-correct = correct the catalog, its signature or the settings under [trust]

doctor-units-none = the daemon is not installed for the machine
doctor-units-install = install the package gptoss, or use one of your own with --bus session
doctor-units-unit = the daemon's unit
doctor-units-service = the bus cannot start the daemon
doctor-units-bus = the bus lets nobody have the daemon's name
doctor-units-polkit = polkit knows no gptoss action: root alone may use it
doctor-units-sysusers = the users gptoss and gptoss-store are made by nobody
doctor-units-missing = missing { $file }: { $means }
doctor-units-and = { $first }; { $then }
doctor-units-there = unit, bus and polkit files under { $prefix }
doctor-units-reinstall = reinstall the package gptoss

doctor-bus-answers = it answers
doctor-bus-start = start dbus: `systemctl start dbus`
doctor-socket-start = start a daemon there: `gptossd --socket { $path }`
doctor-bus-log-in = log in to a session, or use `dbus-run-session`
doctor-daemon-refuses = `adduser NAME gptoss` lets someone in who is not at the screen
doctor-daemon-silent = `journalctl -u gptossd` has its words
doctor-network-none = the daemon has an empty namespace of its own
doctor-network-own = the daemon holds no HTTP or TLS client; a user's own has no namespace of its own
doctor-network-shared = the daemon shares the machine's network
doctor-network-unit = its unit has been changed: `systemctl cat gptossd` should show PrivateNetwork=yes
doctor-network-unknown = the daemon belongs to another user
doctor-network-root = root may look: `sudo gptoss-ctl doctor`
