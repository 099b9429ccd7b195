## gptoss-ctl bench

bench-nothing-to-measure = rien à mesurer : donnez à -p ou à -n un nombre supérieur à 0
bench-machine = { $threads ->
    [one] { $model } ({ $target }), { $threads } fil d’exécution, contexte { $context }, ONNX Runtime { $runtime } sur { $provider }
   *[other] { $model } ({ $target }), { $threads } fils d’exécution, contexte { $context }, ONNX Runtime { $runtime } sur { $provider }
}
bench-loaded = { $threads ->
    [one] chargé en { $seconds } s ; { $threads } fil lit { $gigabytes } Go/s
   *[other] chargé en { $seconds } s ; { $threads } fils lisent { $gigabytes } Go/s
}
bench-streaming = les experts sont sur le disque : mémoire pour { $slots } sur { $experts }, { $memory }
bench-streamed = {"  "}experts : { $hits } % de ceux demandés en mémoire ; { $read } lus sur le disque par étape, { $rate } des { $disk } Go/s qu’il donne ({ $share } %) ; { $waited } % du temps à l’attendre
bench-test-failed = { $test } : { $error }
bench-legend =
    pp : jetons de requête calculés d’un coup, ms jusqu’au choix du premier jeton de la réponse ;
    tg : jetons produits un à un, x N : par N séquences ensemble ; @ d : jetons déjà dans le cache
bench-plot-title = jetons par seconde selon le nombre de jetons dans le cache
bench-no-folder = impossible de créer { $folder } : { $error }
bench-unusable-profile = le profil { $profile } est inutilisable : { $error }
bench-profile-sum = les exécutions ont pris { $whole } s, mise en route comprise ; les mesures, { $timed } s
bench-replay-two-files = --replay demande deux fichiers, une requête et une réponse
bench-replayed = { $tokens } jetons après une requête de { $prompt } : { $without } jetons/s, avec ébauches { $with } : { $gain } fois, { $step } jetons par étape
bench-no-answer = le moteur s’est arrêté sans donner de réponse
bench-daemon-silent = le démon n’a pas dit ce que la réponse a coûté
bench-overhead = Surcoût, au plus : { $share } % du temps, en médiane. C’est ce qui ne revient pas au moteur, et le temps de processeur de ce programme et des fils de bus du démon.

## gptoss-ctl eval

eval-nothing-to-do = donnez --tokens avec --logits, ou --perplexity
eval-written = { $prompts ->
    [one] { $rows } lignes de logits pour { $prompts } requête sont dans { $output }
   *[other] { $rows } lignes de logits pour { $prompts } requêtes sont dans { $output }
}
eval-perplexity = { $windows ->
    [one] perplexité { $perplexity } (log-vraisemblance négative moyenne { $mean }) de { $tokens } jetons en { $windows } fenêtre de { $window }
   *[other] perplexité { $perplexity } (log-vraisemblance négative moyenne { $mean }) de { $tokens } jetons en { $windows } fenêtres de { $window }
}
eval-prompt-failed = requête { $number } : { $error }
eval-no-text = { $path } n’est pas du texte UTF-8
eval-nothing-to-predict = { $path } compte moins de deux jetons, il n’y a donc rien à prédire
eval-no-prompts = une liste de { $entry } est attendue : { $error }
eval-bad-file = { $path } : { $why }
eval-empty-list = la liste est vide
eval-bad-entry = élément { $number } : { $why }
eval-empty-ids = ids est vide
eval-position-beyond = la position { $position } dépasse ses { $ids } ids
eval-prefill-beyond = prefill vaut { $prefill }, mais il n’y a que { $ids } ids

## Both

measure-positive = il faut un nombre entier supérieur à 0
measure-unreadable = impossible de lire { $path } : { $error }
measure-unwritable = impossible d’écrire { $path } : { $error }
