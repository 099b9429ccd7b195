## What fails at the machine, whichever the command

error-checkpoint = this is no usable gpt-oss checkpoint: { $why }
error-export = the export failed: { $why }

in-process-not-exported = { $model } has no export for the target { $target }; make one with `gptoss-ctl export { $model } --target { $target }`
in-process-no-sequence = the backend has no sequence to give
