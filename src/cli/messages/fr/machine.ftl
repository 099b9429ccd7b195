## What fails at the machine, whichever the command

error-checkpoint = ce n’est pas un point de contrôle gpt-oss utilisable : { $why }
error-export = l’export a échoué : { $why }

in-process-not-exported = { $model } n’a pas d’export pour la cible { $target } ; faites-en un avec « gptoss-ctl export { $model } --target { $target } »
in-process-no-sequence = le moteur n’a pas de séquence à donner
