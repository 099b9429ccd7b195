## gptoss-ctl pull

pull-rate-too-low = at least { $least } bytes a second
pull-range-too-short = at least { $least } bytes
pull-interrupted = what was fetched is kept: run the same command again to go on
pull-name-is-the-catalogs = --name goes with hf: and oci: only; a catalog's model keeps its name
pull-installed = installed { $model }: { $size }, in { $folder }
pull-installed-signed = installed { $model }: { $size }, in { $folder }, signed by key { $key }
pull-exported = { $model } was installed already and has been exported
pull-shared = { $model } is in the machine's store already ({ $folder }), and is used from there; --own-copy fetches it into your own as well
pull-already = { $model } is installed already; `gptoss-ctl verify { $name }` proves its bytes again
pull-folder-is-no-model = a folder is no model: `gptoss-ctl import { $folder }` installs the checkpoint in it, `gptoss-ctl pull 20b --endpoint file://{ $folder }` takes the published files from it
pull-no-such-model = no model { $name }: there are { $known }; hf:OWNER/NAME takes one from the hub, --catalog FILE names your own
pull-other-revision-pinned = the catalog ({ $catalog }) pins { $name } to revision { $pinned }; hf:{ $repo }@{ $wanted } takes another
pull-shadows-published = { $catalog } gives the name { $name } to other bytes than the published model's; give them another name there
pull-bad-reference = hf:{ $reference }: { $why }
pull-hub-offline = --offline: the hub must be asked what hf:{ $reference } is
pull-published-name = { $name } is the name of a published model: choose another one with --name
pull-folder-says-nothing = { $endpoint } is a folder, which does not say what hf:{ $repo } is; `gptoss-ctl import` installs what is in a folder
pull-no-downloader = cannot start the downloader: { $error }
pull-not-exported-by-machine = { $model } is in the machine's store, where it is not exported for { $target }: `sudo -u gptoss-store gptoss-ctl --store { $store } export { $name } --target { $target }` does that, --own-copy fetches it into your own store
pull-other-bytes-installed = { $model } is installed with another { $file }: remove it with `gptoss-ctl rm { $model }` and pull it again
pull-fetching = { $files ->
    [one] fetching { $model }: { $files } file, { $size }, from { $source }
   *[other] fetching { $model }: { $files } files, { $size }, from { $source }
}
pull-fetching-now = fetching
pull-from-cache = what { $cache } has of it is taken from there

registry-names-itself = { $option } does not go with { $scheme }, which names the registry itself
registry-offline = --offline: the registry must be asked what { $reference } is
registry-manifest-no-text = the manifest is no text
registry-config-no-text = the model's config is no text
registry-signature-no-text = the signature is no text
registry-answer = what the registry said
registry-answer-place = the store
registry-answer-digest = its digest is another one

## What there must be space for, in an error of the store

space-download = the download
space-download-and-export = the download and the export
space-copy = the copy
space-copy-and-export = the copy and the export
space-export = the export
space-repair = the repair

## gptoss-ctl plan

plan-forecast = running it takes { $needed } of memory with a context of { $context }
plan-forecast-fits = running it takes { $needed } of memory with a context of { $context }; { $available } are available
plan-forecast-too-much = running it takes { $needed } of memory with a context of { $context }, and only { $available } are available: it will be refused until there are more
plan-installed = { $model }, installed
plan-not-installed = { $model }, not installed
plan-disk = disk, in { $folder }
plan-to-fetch = to fetch
plan-export = export for { $target }
plan-at-most = at most
plan-together = together
plan-fits-disk = , { $free } are free
plan-too-much-for-disk = : too much, { $free } are free
plan-memory = { $requests ->
    [one] memory for target { $target }, KV cache of { $precision }, one request at a time; { $available } are available
   *[other] memory for target { $target }, KV cache of { $precision }, { $requests } requests together; { $available } are available
}
plan-memory-untold = { $requests ->
    [one] memory for target { $target }, KV cache of { $precision }, one request at a time; the system does not tell what is available
   *[other] memory for target { $target }, KV cache of { $precision }, { $requests } requests together; the system does not tell what is available
}
plan-no-dimensions = its dimensions are not known before its config.json is there
plan-context = context
plan-weights = weights
plan-cache = KV cache
plan-working = working
plan-too-much = too much
plan-streamed = with experts on the disk (stream-experts), at a context of { $context }: { $rest } without them, { $memory } for { $percent } % of them; { $read } are read for each token, so a token takes that by what the disk gives in a second
plan-streamed-at = with experts on the disk (stream-experts), at a context of { $context }: { $rest } without them, { $memory } for { $percent } % of them; { $read } are read for each token, at most { $rate } tokens/s from this disk, which gives { $disk } a second

## gptoss-ctl import

import-interrupted = nothing was installed
import-installed = installed { $model }: { $size }, { $identity }
import-already = { $model } is installed already, with the same bytes
import-needs-a-name = give the model a name with --name
import-unreadable = cannot read { $path }: { $error }
import-no-regular-file = { $path } is no regular file
import-copying = { $files ->
    [one] copying { $files } file, { $size }
   *[other] copying { $files } files, { $size }
}
import-copying-now = copying

## Installing and exporting, whichever command does it

install-in-machines-store = { $model } is not in your own store: it is in the machine's, which is only read from here; `sudo -u gptoss-store gptoss-ctl --store { $store } …` changes it there
install-no-checkpoint = { $folder } is no checkpoint: cannot read its config.json: { $error }
install-refused = { $why }; nothing was installed
install-exporting = exporting for { $target }
install-experts = the experts of { $target }: { $what }
install-and = { $some } and { $last }

export-interrupted = the model is as it was
export-done = exported { $model } for { $targets }
export-already = { $model } is exported for { $targets } already; --force does it again

## Progress

progress-all-files = all files
progress-bar = { $done } of { $total } { $rate }  { $left } left
progress-line = { $what }: { $done } of { $total }, { $rate }/s
progress-line-left = { $what }: { $done } of { $total }, { $rate }/s, { $left } left
progress-checking = { $file }: proving the { $size } fetched before
progress-resumed = { $file }: going on at { $done } of { $size }
progress-proven = { $files ->
    [one] { $file }: { $size } proven ({ $proven } of { $files } file)
   *[other] { $file }: { $size } proven ({ $proven } of { $files } files)
}
progress-retrying = { $file }: { $why }
progress-no-json = cannot write JSON: { $error }
