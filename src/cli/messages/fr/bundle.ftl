## gptoss-ctl bundle create

bundle-piece-too-small = un morceau compte au moins { $least } octets
bundle-create-interrupted = aucun lot n’a été écrit
bundle-writing = { $files ->
    [one] écriture de { $model } : { $files } fichier, { $size }
   *[other] écriture de { $model } : { $files } fichiers, { $size }
}
bundle-writing-with-runtime = { $files ->
    [one] écriture de { $model } : { $files } fichier, { $size }, et d’ONNX Runtime pour { $platforms }
   *[other] écriture de { $model } : { $files } fichiers, { $size }, et d’ONNX Runtime pour { $platforms }
}
bundle-writing-now = écriture
bundle-model-and-runtime = { $model }, et ONNX Runtime pour { $platforms }
bundle-wrote = écrit dans { $path } : { $what }, { $size }, manifeste { $manifest }
bundle-wrote-signed = écrit dans { $path } : { $what }, { $size }, manifeste { $manifest }, signé par la clé { $key }
bundle-split-needs-tar = --split découpe un fichier tar : désignez-en un avec -o FICHIER.tar
bundle-password = Mot de passe de { $key } :
bundle-no-password = { $key } est protégé par un mot de passe, qui ne peut pas être demandé ici : { $error }
bundle-runtime-platforms = il y en a une pour { $platforms }
bundle-runtime-missing = { $file }, de la bibliothèque ONNX Runtime pour { $platform }, n’est pas là ou n’est pas celui que cette version de gptoss exige : « packaging/runtime/fetch DOSSIER cpu { $processor } » dans l’arborescence des sources l’obtient, et --runtime-dir DOSSIER le désigne

## gptoss-ctl bundle import

bundle-import-interrupted = ce qui a été copié est conservé : relancez la même commande pour reprendre
bundle-installed-signed = { $model } installé : { $size }, { $identity }, signé par la clé { $key }
bundle-other-bytes-installed = { $model } est installé avec d’autres fichiers que ceux du lot : supprimez-le avec « gptoss-ctl rm { $model } », ou choisissez un autre nom avec --name
bundle-copying = { $files ->
    [one] copie de { $model } : { $files } fichier, { $size }
   *[other] copie de { $model } : { $files } fichiers, { $size }
}
bundle-runtime-not-pinned = la bibliothèque ONNX Runtime du lot pour { $platform } n’est aucune de celles qu’accepte cette version de gptoss ({ $version }) : le lot provient d’une autre version, ou quelqu’un l’a modifié. « gptoss-ctl bundle import --no-runtime » la laisse de côté
bundle-runtime-for-others = la bibliothèque ONNX Runtime du lot est destinée à { $platforms }, et non à { $here }
bundle-runtime-installed = la bibliothèque ONNX Runtime, { $size }, est bien celle attendue et se trouve maintenant dans { $folder }

## gptoss-ctl bundle verify

bundle-proving-now = vérification
bundle-proven = { $files ->
    [one] { $model } : son { $files } fichier, { $size }, est celui que liste le manifeste du lot ; { $identity } ; { $signature }
   *[other] { $model } : ses { $files } fichiers, { $size }, sont ceux que liste le manifeste du lot ; { $identity } ; { $signature }
}
bundle-proven-with-runtime = { $files ->
    [one] { $model } : son { $files } fichier, { $size }, est celui que liste le manifeste du lot ; { $identity } ; { $signature } ; sa bibliothèque ONNX Runtime pour { $platforms } est bien celle attendue
   *[other] { $model } : ses { $files } fichiers, { $size }, sont ceux que liste le manifeste du lot ; { $identity } ; { $signature } ; sa bibliothèque ONNX Runtime pour { $platforms } est bien celle attendue
}
bundle-signed = signé par la clé de confiance { $key } ({ $comment })
bundle-not-signed = non signé
bundle-signed-by-others = signé par { $keys }, qui n’est pas une clé de confiance ici ; pour le contrôler : minisign -Vm blobs/sha256/{ $digest } avec sa clé publique

## Whom a site trusts

catalog-builtin = intégré
catalog-signed = { $catalog }, signé par la clé { $key }
catalog-of-package = { $catalog }, partie de gptoss { $version } et aussi authentique que ce paquet
catalog-unsigned = { $catalog }, non signé par une clé de confiance
trust-signed-only = ce site n’accepte que des modèles signés par une clé de confiance (trust.models = "signed"), et { $model } ne l’est pas ; les clés de confiance sont dans { $keys }. Rien n’a été installé
trust-pinned-only = ce site n’accepte que des modèles publiés, fixés par un catalogue signé ou signés par une clé de confiance (trust.models = "pinned"), et { $model } n’en est pas un ; les clés de confiance sont dans { $keys }. Rien n’a été installé
trust-signed-catalogs-only = ce site n’accepte que des catalogues signés (trust.models), et { $catalog } n’est pas signé par une clé de confiance : signez-le avec « minisign -Sm { $catalog } » et placez la clé publique dans { $keys }
