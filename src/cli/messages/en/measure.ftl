## gptoss-ctl bench

bench-nothing-to-measure = nothing to measure: give -p or -n a number above 0
bench-machine = { $threads ->
    [one] { $model } ({ $target }), { $threads } thread, context { $context }, ONNX Runtime { $runtime } on { $provider }
   *[other] { $model } ({ $target }), { $threads } threads, context { $context }, ONNX Runtime { $runtime } on { $provider }
}
bench-loaded = { $threads ->
    [one] loaded in { $seconds } s; { $threads } thread reads { $gigabytes } GB/s
   *[other] loaded in { $seconds } s; { $threads } threads read { $gigabytes } GB/s
}
bench-streaming = experts are on the disk: memory for { $slots } of { $experts }, { $memory }
bench-streamed = {"  "}experts: { $hits } % of those wanted in memory; { $read } read from the disk a step, { $rate } of the { $disk } GB/s it gives ({ $share } %); { $waited } % of the time spent waiting for it
bench-test-failed = { $test }: { $error }
bench-legend =
    pp: prompt tokens computed at once, ms until the first token of the answer is chosen;
    tg: tokens generated one by one, x N: by N sequences together; @ d: tokens in the cache
bench-plot-title = tokens per second against tokens in the cache
bench-no-folder = cannot make { $folder }: { $error }
bench-unusable-profile = the profile { $profile } is not usable: { $error }
bench-profile-sum = runs took { $whole } s, warm-up included; the tests { $timed } s
bench-replay-two-files = --replay takes two files, a prompt and an answer
bench-replayed = { $tokens } tokens after a prompt of { $prompt }: { $without } tokens/s, with drafts { $with }: { $gain } times, { $step } tokens a step
bench-no-answer = the engine ended without an answer
bench-daemon-silent = the daemon did not say what the answer took
bench-overhead = Overhead, at most: { $share } % of the time, in the median. It is what is not the engine's, and the processor time of this program and of the daemon's bus threads.

## gptoss-ctl eval

eval-nothing-to-do = give --tokens with --logits, or --perplexity
eval-written = { $prompts ->
    [one] { $rows } rows of logits for { $prompts } prompt are in { $output }
   *[other] { $rows } rows of logits for { $prompts } prompts are in { $output }
}
eval-perplexity = { $windows ->
    [one] perplexity { $perplexity } (mean negative log-likelihood { $mean }) of { $tokens } tokens in { $windows } window of { $window }
   *[other] perplexity { $perplexity } (mean negative log-likelihood { $mean }) of { $tokens } tokens in { $windows } windows of { $window }
}
eval-prompt-failed = prompt { $number }: { $error }
eval-no-text = { $path } is not UTF-8 text
eval-nothing-to-predict = { $path } has fewer than two tokens, so nothing to predict
eval-no-prompts = expected a list of { $entry }: { $error }
eval-bad-file = { $path }: { $why }
eval-empty-list = the list is empty
eval-bad-entry = entry { $number }: { $why }
eval-empty-ids = ids is empty
eval-position-beyond = position { $position } is beyond its { $ids } ids
eval-prefill-beyond = prefill is { $prefill }, but it has { $ids } ids

## Both

measure-positive = must be a whole number above 0
measure-unreadable = cannot read { $path }: { $error }
measure-unwritable = cannot write { $path }: { $error }
