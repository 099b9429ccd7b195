## gptoss-ctl bundle create

bundle-piece-too-small = a piece has at least { $least } bytes
bundle-create-interrupted = no bundle was written
bundle-writing = { $files ->
    [one] writing { $model }: { $files } file, { $size }
   *[other] writing { $model }: { $files } files, { $size }
}
bundle-writing-with-runtime = { $files ->
    [one] writing { $model }: { $files } file, { $size }, and ONNX Runtime for { $platforms }
   *[other] writing { $model }: { $files } files, { $size }, and ONNX Runtime for { $platforms }
}
bundle-writing-now = writing
bundle-model-and-runtime = { $model }, and ONNX Runtime for { $platforms }
bundle-wrote = wrote { $what } to { $path }: { $size }, manifest { $manifest }
bundle-wrote-signed = wrote { $what } to { $path }: { $size }, manifest { $manifest }, signed by key { $key }
bundle-split-needs-tar = --split cuts a tar file: name one with -o FILE.tar
bundle-password = Password of { $key }:
bundle-no-password = { $key } is protected by a password, and it cannot be asked for here: { $error }
bundle-runtime-platforms = there is one for { $platforms }
bundle-runtime-missing = { $file } of the ONNX Runtime for { $platform } is not there, or is another than the one this version of gptoss pins: `packaging/runtime/fetch DIR cpu { $processor }` in the source tree gets it, and --runtime-dir DIR names it

## gptoss-ctl bundle import

bundle-import-interrupted = what was copied is kept: run the same command again to go on
bundle-installed-signed = installed { $model }: { $size }, { $identity }, signed by key { $key }
bundle-other-bytes-installed = { $model } is installed with other files than the bundle's: remove it with `gptoss-ctl rm { $model }`, or choose another name with --name
bundle-copying = { $files ->
    [one] copying { $model }: { $files } file, { $size }
   *[other] copying { $model }: { $files } files, { $size }
}
bundle-runtime-not-pinned = the bundle's ONNX Runtime for { $platform } is none that this version of gptoss ({ $version }) pins: the bundle is of another version, or somebody has changed it. `gptoss-ctl bundle import --no-runtime` leaves it out
bundle-runtime-for-others = the bundle's ONNX Runtime is for { $platforms }, not for { $here }
bundle-runtime-installed = ONNX Runtime, { $size }, is the pinned one and is now in { $folder }

## gptoss-ctl bundle verify

bundle-proving-now = proving
bundle-proven = { $files ->
    [one] { $model }: its { $files } file, { $size }, is what the bundle's manifest lists; { $identity }; { $signature }
   *[other] { $model }: all { $files } files, { $size }, are what the bundle's manifest lists; { $identity }; { $signature }
}
bundle-proven-with-runtime = { $files ->
    [one] { $model }: its { $files } file, { $size }, is what the bundle's manifest lists; { $identity }; { $signature }; its ONNX Runtime for { $platforms } is the pinned one
   *[other] { $model }: all { $files } files, { $size }, are what the bundle's manifest lists; { $identity }; { $signature }; its ONNX Runtime for { $platforms } is the pinned one
}
bundle-signed = signed by the trusted key { $key } ({ $comment })
bundle-not-signed = not signed
bundle-signed-by-others = signed by { $keys }, which is not trusted here; to check it: minisign -Vm blobs/sha256/{ $digest } with its public key

## Whom a site trusts

catalog-builtin = built-in
trust-signed-only = this site takes only models that are signed by a trusted key (trust.models = "signed"), and { $model } is not; trusted keys are in { $keys }. Nothing was installed
trust-pinned-only = this site takes only models that are published, pinned by a signed catalog, or signed by a trusted key (trust.models = "pinned"), and { $model } is not; trusted keys are in { $keys }. Nothing was installed
trust-signed-catalogs-only = this site takes only signed catalogs (trust.models), and { $catalog } is not signed by a trusted key: sign it with `minisign -Sm { $catalog }` and put the public key into { $keys }
