## gptoss-ctl list, rm, gc

list-empty = no models in { $store }; `gptoss-ctl pull 20b` fetches one, `gptoss-ctl pull nano` a tiny one
list-empty-of-two = no models in { $store } or { $system }; `gptoss-ctl pull 20b` fetches one, `gptoss-ctl pull nano` a tiny one
list-not-there = { $store } (it does not exist yet)
list-name = NAME
list-revision = REVISION
list-size = SIZE
list-targets = TARGETS
list-store = STORE
list-installed = INSTALLED
list-own = own
list-system = system
list-staged = not complete: { $model }
list-unusable = not usable: { $why }

rm-removed = removed { $models }
rm-or-all = { $which }, or --all to remove every one

gc-nothing = nothing to remove
gc-removed = removed { $model } ({ $reason }), { $size }
gc-would-remove = would remove { $model } ({ $reason }), { $size }
gc-interrupted = interrupted
gc-superseded = superseded
