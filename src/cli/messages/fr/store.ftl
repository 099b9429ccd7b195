## gptoss-ctl list, rm, gc

list-empty = aucun modèle dans { $store } ; « gptoss-ctl pull 20b » en récupère un, « gptoss-ctl pull nano » un tout petit
list-empty-of-two = aucun modèle dans { $store } ni dans { $system } ; « gptoss-ctl pull 20b » en récupère un, « gptoss-ctl pull nano » un tout petit
list-not-there = { $store } (qui n’existe pas encore)
list-name = NOM
list-revision = RÉVISION
list-size = TAILLE
list-targets = CIBLES
list-store = DÉPÔT
list-installed = INSTALLÉ LE
list-own = perso
list-system = machine
list-staged = incomplet : { $model }
list-unusable = inutilisable : { $why }

rm-removed = supprimé : { $models }
rm-or-all = { $which }, ou --all pour les supprimer toutes

gc-nothing = rien à supprimer
gc-removed = supprimé : { $model } ({ $reason }), { $size }
gc-would-remove = serait supprimé : { $model } ({ $reason }), { $size }
gc-interrupted = interrompu
gc-superseded = remplacé
