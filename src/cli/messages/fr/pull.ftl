## gptoss-ctl pull

pull-rate-too-low = au moins { $least } octets par seconde
pull-range-too-short = au moins { $least } octets
pull-interrupted = ce qui a été récupéré est conservé : relancez la même commande pour reprendre
pull-name-is-the-catalogs = --name ne s’emploie qu’avec hf: et oci: ; un modèle du catalogue garde son nom
pull-installed = { $model } installé : { $size }, dans { $folder }
pull-installed-signed = { $model } installé : { $size }, dans { $folder }, signé par la clé { $key }
pull-exported = { $model } était déjà installé et vient d’être exporté
pull-shared = { $model } est déjà dans le dépôt de la machine ({ $folder }), d’où il est utilisé ; --own-copy le récupère aussi dans le vôtre
pull-already = { $model } est déjà installé ; « gptoss-ctl verify { $name } » en vérifie de nouveau les octets
pull-folder-is-no-model = un dossier n’est pas un modèle : « gptoss-ctl import { $folder } » installe le point de contrôle qu’il contient, « gptoss-ctl pull 20b --endpoint file://{ $folder } » y prend les fichiers publiés
pull-no-such-model = aucun modèle { $name } : il y a { $known } ; hf:PROPRIÉTAIRE/NOM en prend un sur le hub, --catalog FICHIER désigne votre catalogue
pull-other-revision-pinned = le catalogue ({ $catalog }) fixe { $name } à la révision { $pinned } ; hf:{ $repo }@{ $wanted } en prend une autre
pull-shadows-published = { $catalog } donne le nom { $name } à d’autres octets que ceux du modèle publié ; donnez-leur un autre nom dans ce catalogue
pull-bad-reference = hf:{ $reference } : { $why }
pull-hub-offline = --offline : il faut demander au hub ce qu’est hf:{ $reference }
pull-published-name = { $name } est le nom d’un modèle publié : choisissez-en un autre avec --name
pull-folder-says-nothing = { $endpoint } est un dossier, qui ne dit pas ce qu’est hf:{ $repo } ; « gptoss-ctl import » installe le contenu d’un dossier
pull-no-downloader = impossible de démarrer le téléchargement : { $error }
pull-not-exported-by-machine = { $model } est dans le dépôt de la machine, où il n’est pas exporté pour { $target } : « sudo -u gptoss-store gptoss-ctl --store { $store } export { $name } --target { $target } » le fait, --own-copy récupère le modèle dans votre propre dépôt
pull-other-bytes-installed = { $model } est installé avec un autre { $file } : supprimez-le avec « gptoss-ctl rm { $model } » et récupérez-le de nouveau
pull-fetching = { $files ->
    [one] récupération de { $model } : { $files } fichier, { $size }, depuis { $source }
   *[other] récupération de { $model } : { $files } fichiers, { $size }, depuis { $source }
}
pull-fetching-now = récupération
pull-from-cache = ce que { $cache } en contient y est pris

registry-names-itself = { $option } ne s’emploie pas avec { $scheme }, qui désigne lui-même le registre
registry-offline = --offline : il faut demander au registre ce qu’est { $reference }
registry-manifest-no-text = le manifeste n’est pas du texte
registry-config-no-text = la configuration du modèle n’est pas du texte
registry-signature-no-text = la signature n’est pas du texte
registry-answer = la réponse du registre
registry-answer-place = le dépôt
registry-answer-digest = son empreinte est différente

## What there must be space for, in an error of the store

space-download = le téléchargement
space-download-and-export = le téléchargement et l’export
space-copy = la copie
space-copy-and-export = la copie et l’export
space-export = l’export
space-repair = la réparation

## gptoss-ctl plan

plan-forecast = son exécution demande { $needed } de mémoire avec un contexte de { $context }
plan-forecast-fits = son exécution demande { $needed } de mémoire avec un contexte de { $context } ; mémoire disponible : { $available }
plan-forecast-too-much = son exécution demande { $needed } de mémoire avec un contexte de { $context }, et la mémoire disponible n’est que de { $available } : elle sera refusée tant qu’il n’y en aura pas davantage
plan-installed = { $model }, installé
plan-not-installed = { $model }, non installé
plan-disk = disque, dans { $folder }
plan-to-fetch = à récupérer
plan-export = export pour { $target }
plan-at-most = au plus
plan-together = au total
plan-fits-disk = , pour { $free } d’espace libre
plan-too-much-for-disk =  : trop, pour { $free } d’espace libre
plan-memory = { $requests ->
    [one] mémoire pour la cible { $target }, cache clé-valeur en { $precision }, une requête à la fois ; mémoire disponible : { $available }
   *[other] mémoire pour la cible { $target }, cache clé-valeur en { $precision }, { $requests } requêtes à la fois ; mémoire disponible : { $available }
}
plan-memory-untold = { $requests ->
    [one] mémoire pour la cible { $target }, cache clé-valeur en { $precision }, une requête à la fois ; le système ne dit pas combien de mémoire est disponible
   *[other] mémoire pour la cible { $target }, cache clé-valeur en { $precision }, { $requests } requêtes à la fois ; le système ne dit pas combien de mémoire est disponible
}
plan-no-dimensions = ses dimensions ne sont pas connues tant que son config.json n’est pas là
plan-context = contexte
plan-weights = poids
plan-cache = cache clé-valeur
plan-working = calcul
plan-too-much = trop
plan-streamed = avec les experts sur le disque (stream-experts), pour un contexte de { $context } : { $rest } sans eux, { $memory } pour { $percent } % d’entre eux ; { $read } sont lus pour chaque jeton, qui prend donc cela divisé par ce que le disque donne en une seconde
plan-streamed-at = avec les experts sur le disque (stream-experts), pour un contexte de { $context } : { $rest } sans eux, { $memory } pour { $percent } % d’entre eux ; { $read } sont lus pour chaque jeton, au plus { $rate } jetons/s avec ce disque, qui donne { $disk } par seconde

## gptoss-ctl import

import-interrupted = rien n’a été installé
import-installed = { $model } installé : { $size }, { $identity }
import-already = { $model } est déjà installé, avec les mêmes octets
import-needs-a-name = donnez un nom au modèle avec --name
import-unreadable = impossible de lire { $path } : { $error }
import-no-regular-file = { $path } n’est pas un fichier ordinaire
import-copying = { $files ->
    [one] copie de { $files } fichier, { $size }
   *[other] copie de { $files } fichiers, { $size }
}
import-copying-now = copie

## Installing and exporting, whichever command does it

install-in-machines-store = { $model } n’est pas dans votre propre dépôt : il est dans celui de la machine, qui n’est que lu d’ici ; « sudo -u gptoss-store gptoss-ctl --store { $store } … » l’y modifie
install-no-checkpoint = { $folder } n’est pas un point de contrôle : impossible de lire son config.json : { $error }
install-refused = { $why } ; rien n’a été installé
install-exporting = export pour { $target }
install-experts = les experts de { $target } : { $what }
install-and = { $some } et { $last }
experts-quantized = { $layers ->
    [one] quantifiés par l’export de { $from } en { $to }, { $layers } couche, erreur quadratique moyenne relative { $error }
   *[other] quantifiés par l’export de { $from } en { $to }, { $layers } couches, erreur quadratique moyenne relative { $error }
}
experts-quantized-exactly = { $layers ->
    [one] quantifiés par l’export de { $from } en { $to }, { $layers } couche, sans perte
   *[other] quantifiés par l’export de { $from } en { $to }, { $layers } couches, sans perte
}

export-interrupted = le modèle est resté tel qu’il était
export-done = { $model } exporté pour { $targets }
export-already = { $model } est déjà exporté pour { $targets } ; --force recommence l’export

## Progress

progress-all-files = tous les fichiers
progress-bar = { $done } sur { $total } { $rate }  encore { $left }
progress-line = { $what } : { $done } sur { $total }, { $rate }/s
progress-line-left = { $what } : { $done } sur { $total }, { $rate }/s, encore { $left }
progress-checking = { $file } : vérification des { $size } déjà récupérés
progress-resumed = { $file } : reprise à { $done } sur { $size }
progress-proven = { $proven ->
    [one] { $file } : { $size }, vérifié ({ $proven } fichier sur { $files })
   *[other] { $file } : { $size }, vérifié ({ $proven } fichiers sur { $files })
}
progress-retrying = { $file } : { $why }
progress-no-json = impossible d’écrire le JSON : { $error }
