## What the commands that talk to the daemon share

daemon-unreachable = gptossd does not answer ({ $why }); start it with `systemctl start gptossd`, or one of your own with `gptossd --bus session` and use `--bus session`
daemon-unreachable-socket = gptossd does not answer ({ $why }); start it with `gptossd --socket { $path }`. It answers its own user and root alone
daemon-unreachable-own = gptossd does not answer ({ $why }); start it with `gptossd --bus session`

## gptoss-ctl status, load

status-state = state: { $state }
status-loading = state: { $state } { $model } ({ $percent } %)
status-unavailable = state: { $state } ({ $reason }): { $why }
status-slow = state: { $state } (slow: { $reason })
status-idle = state: { $state } (a model is loaded with the first prompt)
status-unloaded = state: { $state } (unloaded: { $reason }; the next prompt loads a model)
status-model = model: { $model } on { $provider }
status-streamed = experts are read from the disk as they are needed, { $memory } of memory is for those wanted most: answers are slow
status-not-on = not on { $provider }: { $why }
status-installed = installed: { $models }
status-none-installed = installed: none; `gptoss-ctl pull 20b` fetches one

load-loaded = { $model } is loaded
load-gone = the model was loaded and made room again, or another was asked for meanwhile; `gptoss-ctl status` says what is there
load-unavailable = the model is not available ({ $reason }): { $why }
