## gptoss-ctl verify

verify-proving-now = proving
verify-interrupted = what was brought is kept: run the same command again to go on
verify-in-use = the model is in use as it was: after `gptoss-ctl unload` a daemon loads the repaired files with the next prompt
verify-catalog-silent = the catalog that pinned the model cannot be asked: { $error }
verify-damaged = { $model } is damaged: { $wrong } of { $files } files are wrong; `gptoss-ctl verify --repair { $model }` brings back what is broken
verify-damaged-manifest = { $model } is damaged: { $wrong } of { $files } files are wrong; remove it with `gptoss-ctl rm { $model }` and install it again
verify-sound = { $model }: all { $files } files, { $size }, are what was installed; { $identity }
verify-sound-by-catalog = { $model }: all { $files } files, { $size }, are what was installed; { $identity }, by the catalog { $catalog }
verify-sound-unknown = { $model }: all { $files } files, { $size }, are what was installed; { $identity }; { $matching } of its { $own } files match a published digest
verify-file = { $file }: { $what }
verify-exported = exported from the files above
verify-embedded = embedded in this program
verify-unpublished = as installed; matches no published digest
verify-missing = missing
verify-wrong-size = { $found } bytes, must be { $size }
verify-bytes-of-another = wrong bytes, those of { $other }
verify-wrong-bytes = wrong bytes, SHA-256 { $found }, which matches no published digest
verify-unreadable = cannot be read: { $why }
verify-not-published = the catalog that pinned the model pins other bytes than the manifest

## gptoss-ctl verify --repair

repair-kept = { $file }: repaired, its { $size } were all there
repair-brought = { $file }: repaired, { $fetched } of { $size } brought
repair-exported = { $file }: repaired, exported again, as recorded
repair-came-from = { $fetched } came from { $origin }
repair-repairing = { $files ->
    [one] repairing { $broken } of { $files } file from { $origin }
   *[other] repairing { $broken } of { $files } files from { $origin }
}
repair-repairing-now = repairing
repair-unknown-target = this version of gptoss does not export for { $target }; the checkpoint's own files are right
repair-other-export = the export for { $target } by this gptoss ({ $version }) is not the one that was recorded (by { $recorded }), and was not installed; `gptoss-ctl export { $model } --target { $target } --force` takes the new one
repair-offline = --offline: { $files } would have to be fetched from { $origin }; name a checkpoint's folder or a bundle with --from, or run the command without --offline
repair-not-in-bundle = { $bundle } has no file with the bytes of { $file }: it is a bundle of another model or revision
repair-wrong-file = { $path } is not the file that was installed: { $why }; nothing was replaced by it
repair-wrong-file-size = it must have { $size } bytes
origin-neither = { $path } is neither a checkpoint's folder nor a bundle
origin-no-hub = { $model } did not come from a hub ({ $source }), so that its files have no place on { $endpoint }; name a folder or a bundle with --from
origin-gone = { $model } came from "{ $source }", and that is not there; name a checkpoint's folder or a bundle with --from
origin-gone-published = { $model } came from "{ $source }", and that is not there; name a checkpoint's folder or a bundle with --from, or a server that has the published files with --endpoint

## What some bytes are

identity-name-taken = { $name } is the name of a published model and these are not its bytes ({ $identity }); choose another name with --name. Nothing was installed

## gptoss-ctl show

show-name = name
show-revision = revision
show-source = source
show-digests = digests
show-pinned-by = pinned by
show-pinned-by-nothing = nothing
show-licence = licence
show-unknown-licence = unknown
show-signature = signature
show-no-signature = none
show-by-key = by key { $key } ({ $comment })
show-targets = targets
show-size = size
show-installed = installed
show-installed-by = { $time } by gptoss { $version }
show-verified = verified
show-store = store
show-folder = folder
show-experts = experts
show-experts-of = for { $target }: { $what }
show-experts-published = the checkpoint's own bytes, MXFP4
show-experts-columns = the checkpoint's own codes, MXFP4, in the order of the CUDA provider
show-experts-int4 = quantized by the export from MXFP4 to int4

## gptoss-ctl show --provenance

show-bytes = bytes
show-catalog = catalog
show-no-catalog = none
show-catalog-in-program = the same as in this program
show-catalog-signed = signed { $by }
show-catalog-of-package = not signed by itself: as authentic as the package gptoss
show-catalog-not-signed = not signed
show-signature-of-bundle = of the bundle it came in, { $by }
show-files-pinned-by = the checkpoint's files, pinned by { $whom }:
show-target = target { $target }, { $how }:
show-export = made { $time } by gptoss { $version } (format { $format }) of { $inputs }
show-export-unknown = made by a version of gptoss that did not record how
show-tensors = { $tensors ->
    [one] { $count } tensor:  { $form }
   *[other] { $count } tensors: { $form }
}
show-again = these bytes again: { $command }

## Models and sizes on the command line

locate-no-folder = there is no folder { $folder }
size-wanted = give a number of bytes, or one with k, M or G
