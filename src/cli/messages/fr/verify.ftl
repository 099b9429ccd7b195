## gptoss-ctl verify

verify-proving-now = vérification
verify-interrupted = ce qui a été apporté est conservé : relancez la même commande pour reprendre
verify-in-use = le modèle est utilisé tel qu’il était : après « gptoss-ctl unload », un démon chargera les fichiers réparés à la prochaine requête
verify-catalog-silent = le catalogue qui a fixé le modèle ne peut pas être consulté : { $error }
verify-damaged = { $wrong ->
    [one] { $model } est endommagé : { $wrong } fichier sur { $files } est incorrect ; « gptoss-ctl verify --repair { $model } » rétablit ce qui est abîmé
   *[other] { $model } est endommagé : { $wrong } fichiers sur { $files } sont incorrects ; « gptoss-ctl verify --repair { $model } » rétablit ce qui est abîmé
}
verify-damaged-manifest = { $wrong ->
    [one] { $model } est endommagé : { $wrong } fichier sur { $files } est incorrect ; supprimez-le avec « gptoss-ctl rm { $model } » et installez-le de nouveau
   *[other] { $model } est endommagé : { $wrong } fichiers sur { $files } sont incorrects ; supprimez-le avec « gptoss-ctl rm { $model } » et installez-le de nouveau
}
verify-sound = { $model } : les { $files } fichiers, { $size }, sont ceux qui ont été installés ; { $identity }
verify-sound-by-catalog = { $model } : les { $files } fichiers, { $size }, sont ceux qui ont été installés ; { $identity }, d’après le catalogue { $catalog }
verify-sound-unknown = { $matching ->
    [one] { $model } : les { $files } fichiers, { $size }, sont ceux qui ont été installés ; { $identity } ; { $matching } de ses { $own } fichiers correspond à une empreinte publiée
   *[other] { $model } : les { $files } fichiers, { $size }, sont ceux qui ont été installés ; { $identity } ; { $matching } de ses { $own } fichiers correspondent à une empreinte publiée
}
verify-file = { $file } : { $what }
verify-exported = exporté à partir des fichiers ci-dessus
verify-embedded = intégré à ce programme
verify-unpublished = tel qu’installé ; ne correspond à aucune empreinte publiée
verify-missing = manquant
verify-wrong-size = { $found } octets, au lieu de { $size }
verify-bytes-of-another = mauvais octets, ceux de { $other }
verify-wrong-bytes = mauvais octets, SHA-256 { $found }, qui ne correspond à aucune empreinte publiée
verify-unreadable = illisible : { $why }
verify-not-published = le catalogue qui a fixé le modèle exige d’autres octets que le manifeste

## gptoss-ctl verify --repair

repair-kept = { $file } : réparé, ses { $size } étaient tous là
repair-brought = { $file } : réparé, { $fetched } sur { $size } apportés
repair-exported = { $file } : réparé, exporté de nouveau, conforme à ce qui était enregistré
repair-came-from = { $fetched } proviennent de { $origin }
repair-repairing = { $broken ->
    [one] réparation de { $broken } fichier sur { $files } depuis { $origin }
   *[other] réparation de { $broken } fichiers sur { $files } depuis { $origin }
}
repair-repairing-now = réparation
repair-unknown-target = cette version de gptoss n’exporte pas pour { $target } ; les fichiers propres au point de contrôle sont corrects
repair-other-export = l’export pour { $target } de ce gptoss ({ $version }) n’est pas celui qui était enregistré (par { $recorded }) et n’a pas été installé ; « gptoss-ctl export { $model } --target { $target } --force » adopte le nouveau
repair-offline = --offline : il faudrait récupérer { $files } depuis { $origin } ; désignez le dossier d’un point de contrôle ou un lot avec --from, ou lancez la commande sans --offline
repair-not-in-bundle = { $bundle } n’a aucun fichier avec les octets de { $file } : c’est le lot d’un autre modèle ou d’une autre révision
repair-wrong-file = { $path } n’est pas le fichier qui avait été installé : { $why } ; rien n’a été remplacé par celui-ci
repair-wrong-file-size = il doit compter { $size } octets
origin-neither = { $path } n’est ni le dossier d’un point de contrôle ni un lot
origin-no-hub = { $model } ne vient pas d’un hub ({ $source }), ses fichiers n’ont donc pas leur place sur { $endpoint } ; désignez un dossier ou un lot avec --from
origin-gone = { $model } vient de « { $source } », qui n’est pas là ; désignez le dossier d’un point de contrôle ou un lot avec --from
origin-gone-published = { $model } vient de « { $source } », qui n’est pas là ; désignez le dossier d’un point de contrôle ou un lot avec --from, ou un serveur qui a les fichiers publiés avec --endpoint
origin-program = ce programme

## What some bytes are

identity-name-taken = { $name } est le nom d’un modèle publié et ces octets ne sont pas les siens ({ $identity }) ; choisissez un autre nom avec --name. Rien n’a été installé
identity-embedded = les { $files } fichiers sont ceux qui sont intégrés à ce programme
identity-published = les { $files } fichiers sont les octets publiés de { $repo } à la révision { $revision }
identity-published-in-part = { $matching ->
    [one] { $matching } fichier sur { $files } correspond aux octets publiés de { $repo } à la révision { $revision } ; diffèrent : { $others }
   *[other] { $matching } fichiers sur { $files } correspondent aux octets publiés de { $repo } à la révision { $revision } ; diffèrent : { $others }
}
identity-unknown = aucun modèle publié que cette version connaisse

## gptoss-ctl show

show-name = nom
show-revision = révision
show-source = source
show-digests = empreintes
show-pinned-by = fixé par
show-pinned-by-nothing = rien
show-licence = licence
show-unknown-licence = inconnue
show-signature = signature
show-no-signature = aucune
show-by-key = par la clé { $key } ({ $comment })
show-targets = cibles
show-size = taille
show-installed = installé
show-installed-by = { $time } par gptoss { $version }
show-verified = vérifié
show-store = dépôt
show-folder = dossier
show-experts = experts
show-experts-of = pour { $target } : { $what }
show-experts-published = les octets mêmes du point de contrôle, MXFP4
show-experts-columns = les codes mêmes du point de contrôle, MXFP4, dans l’ordre du fournisseur CUDA
show-experts-int4 = quantifiés par l’export de MXFP4 en int4

## gptoss-ctl show --provenance

show-bytes = octets
show-catalog = catalogue
show-no-catalog = aucun
show-catalog-in-program = le même que dans ce programme
show-catalog-signed = signé { $by }
show-catalog-of-package = non signé lui-même : aussi authentique que le paquet gptoss
show-catalog-not-signed = non signé
show-signature-of-bundle = du lot d’où il vient, { $by }
show-files-pinned-by = les fichiers du point de contrôle, fixés par { $whom } :
pinned-by-bundle = un lot signé par la clé { $key }
pinned-by-nobody = personne (mesurés à l’installation)
pinned-by-built-in = le catalogue intégré
pinned-by-other-built-in = le catalogue intégré de la version qui l’a installé
pinned-by-catalog = le catalogue { $catalog }
pinned-by-server = le serveur d’où ils ont été récupérés
pinned-by-program = ce programme, qui contient le fichier
show-target = cible { $target }, { $how } :
show-export = produite le { $time } par gptoss { $version } (format { $format }) à partir de { $inputs }
show-export-unknown = produite par une version de gptoss qui n’a pas enregistré comment
show-tensors = { $tensors ->
    [one] { $count } tenseur :  { $form }
   *[other] { $count } tenseurs : { $form }
}
show-again = pour obtenir ces mêmes octets : { $command }

## Models and sizes on the command line

locate-no-folder = il n’y a pas de dossier { $folder }
size-wanted = donnez un nombre d’octets, seul ou suivi de k, M ou G
