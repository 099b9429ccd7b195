## Errors of the layers below, which say themselves in English (src/cli/error/)

error-or = { " " }ou{ " " }

# The numbers are those of errno on Linux.
error-system = { $number ->
    [1] opération non permise (erreur système 1)
    [2] aucun fichier ou dossier de ce nom (erreur système 2)
    [5] erreur d’entrée/sortie (erreur système 5)
    [12] mémoire insuffisante (erreur système 12)
    [13] permission non accordée (erreur système 13)
    [17] le fichier existe (erreur système 17)
    [20] n’est pas un dossier (erreur système 20)
    [21] est un dossier (erreur système 21)
    [24] trop de fichiers ouverts (erreur système 24)
    [27] fichier trop volumineux (erreur système 27)
    [28] aucun espace disponible sur le périphérique (erreur système 28)
    [30] système de fichiers en lecture seule (erreur système 30)
    [36] nom de fichier trop long (erreur système 36)
    [122] quota d’espace disque dépassé (erreur système 122)
   *[other] { $english }
}

# The store

error-store-not-installed = le modèle { $model } n’est pas installé dans { $places } ; « gptoss-ctl list » montre ceux qui le sont, « gptoss-ctl pull { $model } » en récupère un
error-store-not-mounted = le dépôt { $store } n’est pas là : { $why }. S’il faut malgré tout le créer à cet endroit : « mkdir -p { $folder } »
error-store-ambiguous = { $model } peut désigner { $candidates } ; donnez une plus grande partie de la révision
error-store-name = { $what ->
    [model-name] le nom de modèle « { $name } » est refusé
    [revision] la révision « { $name } » est refusée
    [file-name] le nom de fichier « { $name } » est refusé
   *[other] « { $name } » est refusé
} : { $why }
error-store-busy = un autre gptoss-ctl travaille sur { $model } ; attendez qu’il finisse, puis réessayez
error-store-in-use = { $model } est en cours d’utilisation : « gptoss-ctl unload » fait que le démon s’en sépare ; réessayez ensuite
error-store-installed = { $model } est déjà installé
error-store-manifest = { $path } n’est pas un manifeste utilisable : { $why }
error-store-catalog = le catalogue { $origin } n’est pas utilisable : { $why }
error-store-incomplete = { $path } devait être installé, mais ne peut pas l’être ({ $why }) ; rien n’a été installé
error-store-no-space = { $path } dispose de { $free } libres, et il en faut { $needed } ({ $what }) ; libérez de l’espace ou désignez avec --store un dépôt sur un autre disque
error-store-io = impossible { $action ->
    [ask-for-the-free-space-of] de connaître l’espace libre de
    [create] de créer
    [create-the-folder] de créer le dossier
    [flush] d’écrire jusqu’au disque
    [go-on-with] de poursuivre
    [install] d’installer
    [lock] de verrouiller
    [open] d’ouvrir
    [open-the-store] d’ouvrir le dépôt
    [read] de lire
    [read-the-catalog] de lire le catalogue
    [remove] de supprimer
    [replace] de remplacer
    [set-the-mode-of] de fixer les droits de
    [shorten] de raccourcir
    [write] d’écrire
   *[other] de faire ceci ({ $english }) :
} { $path } : { $why }
error-store-io-advice = { $failed } ; { $advice }

error-access-space = libérez de l’espace ou désignez avec --store un dépôt sur un autre disque
error-access-disk = le disque de { $place } ne répond pas comme il devrait : « dmesg » en dit plus
error-access-mounted-read-only = { $place } ({ $kind }) est monté en lecture seule : « mount -o remount,rw { $place } » y permet l’écriture, --store désigne un autre dépôt
error-access-read-only = le dépôt est ici en lecture seule : désignez-en un autre avec --store
error-access-hidden = { $place } ne peut pas être examiné par { $user }
error-access-owned = { $place } appartient à { $owner }, a les droits { $mode }, et vous êtes { $user } : { $remedy }
error-access-allowed = { $place } appartient à { $owner }, a les droits { $mode }, et vous êtes { $user } ; ces droits suffisent, mais { $why }
error-access-ours = « chmod u+rwX { $place } » vous rend ce qui est à vous
error-access-open = « sudo chmod -R a+rX { $store } » laisse tout le monde lire les modèles de la machine
error-access-ask = exécutez ceci en tant que { $owner }, ou demandez à { $owner } de vous laisser entrer
error-access-puller = « sudo systemctl start gptoss-pull@NOM » apporte un modèle dans le dépôt de la machine, « sudo -u { $owner } gptoss-ctl --store { $store } … » fait le reste ; --store désigne un dépôt à vous
error-access-own-store = exécutez ceci en tant que { $owner }, ou utilisez un dépôt à vous avec --store
error-access-selinux = SELinux applique sa politique à { $place }, dont le contexte est { $context } : « sudo restorecon -Rv { $place } » lui donne le contexte de son emplacement, « sudo ausearch -m AVC -ts recent » montre ce qui a été refusé
error-access-selinux-none = SELinux applique sa politique à { $place }, qui n’a pas de contexte : « sudo restorecon -Rv { $place } » lui donne le contexte de son emplacement, « sudo ausearch -m AVC -ts recent » montre ce qui a été refusé
error-access-apparmor = le profil AppArmor { $profile } ne le permet pas : « journalctl -k -g apparmor » montre ce qu’il a refusé
error-access-beyond = autre chose refuse : « lsattr -d », « getfacl » et « findmnt -T » en disent plus

# Fetching

error-fetch-not-found = { $what } n’est pas sur { $endpoint } : { $advice }
error-fetch-unauthorized = { $endpoint } refuse l’accès à { $what } (HTTP { $status }) : { $advice }
error-fetch-wrong-bytes = { $path }, de { $endpoint }, est altéré : { $why }. Le fichier a été supprimé et rien n’a été installé ; le serveur, ou quelque chose sur le chemin, le modifie
error-fetch-wrong-copy = { $path } dans { $place } n’est pas ce qu’il doit être : { $why } ; rien n’a été installé
error-fetch-interrupted = { $path } : { $why } ; abandon après { $attempts ->
    [one] { $attempts } tentative
   *[other] { $attempts } tentatives
}. Ce qui a été récupéré est gardé : relancez la même commande pour continuer
error-fetch-offline = --offline : { $count ->
    [one] { $count } fichier reste
   *[other] { $count } fichiers restent
} à récupérer ({ $missing }) ; exécutez la commande une fois sans --offline
error-fetch-endpoint = « { $text } » n’est pas une adresse utilisable : donnez http://HÔTE, https://HÔTE ou file:///DOSSIER avec --endpoint ou HF_ENDPOINT
error-fetch-reference = « { $text } » est refusé : { $why } ; écrivez oci://HÔTE/NOM:ÉTIQUETTE ou oci://HÔTE/NOM@sha256:EMPREINTE
error-fetch-login = connexion à { $endpoint } impossible : { $why }
error-fetch-not-in-folder = { $folder } n’a pas de { $path } : { $why }
error-fetch-answer = la réponse de { $endpoint } n’a pas de sens : { $why }
error-fetch-client = HTTPS ne peut pas être mis en place : { $why } ; installez le paquet ca-certificates

# Bundles

error-bundle-not-found = il n’y a pas de lot { $path }
error-bundle-malformed = ce lot n’est pas utilisable : { $why } ; rien n’a été installé
error-bundle-piece = { $path } : { $why } ; copiez tous les morceaux, entiers, dans un même dossier
error-bundle-wrong-bytes = { $what } est endommagé dans le lot : { $why }. Rien n’a été installé ; copiez à nouveau le lot
error-bundle-choose = le lot contient { $found } : désignez l’un d’eux avec --model
error-bundle-pieces = cela fait { $pieces } morceaux, et { $most } sont le maximum : choisissez-en de plus grands avec --split
error-bundle-occupied = { $path } existe déjà ; supprimez-le ou désignez un autre endroit avec -o
error-bundle-damaged = { $path }, du modèle installé, est endommagé ({ $why }) ; « gptoss-ctl verify » en dit plus. Aucun lot n’a été écrit
error-bundle-runtime = { $path } n’est pas ce que cette version de gptoss exige : { $why }. Aucun lot n’a été écrit

# Settings

error-settings-read = impossible de lire { $path } : { $why }

# Checkpoints and exports

error-checkpoint-read = impossible de lire { $path } : { $why }
error-checkpoint-shard-path = fragment « { $shard } » : { $why } ; les fragments doivent être de simples fichiers dans le dossier même du point de contrôle : copiez-y les vrais fichiers
error-checkpoint-shard = le fragment { $shard } est endommagé ({ $why }) : récupérez-le à nouveau
error-checkpoint-missing = le tenseur { $tensor } manque{ $place } : le point de contrôle est incomplet ou d’un autre modèle
error-checkpoint-missing-in = le tenseur { $tensor } manque dans { $file } : le point de contrôle est incomplet ou d’un autre modèle
error-checkpoint-experts = couche { $layer } : { $why }
error-checkpoint-unexpected = le fragment { $shard } contient { $tensor }, qui n’est pas un tenseur d’un modèle gpt-oss de cette forme
error-checkpoint-tensor = le tenseur { $tensor } est { $found }, mais config.json demande { $expected }
error-checkpoint-value = le tenseur { $tensor } contient { $value } à l’élément { $index } : le point de contrôle est endommagé
error-export-write = impossible d’écrire { $path } : { $why }
error-export-not-finite = le tenseur { $tensor } n’est pas fini à l’élément { $index } : le point de contrôle est endommagé
error-export-too-large = les { $bytes } octets du modèle ne tiennent pas dans un seul message : exportez-le dans des fichiers
error-export-incomplete = pas de données pour le tenseur { $tensor } du graphe ; merci de le signaler

# ONNX Runtime

error-runtime-not-found = aucune bibliothèque ONNX Runtime trouvée (cherchée dans { $tried }) ; « gptoss-ctl runtime install » en récupère une ; ou installez le paquet gptoss, exécutez « make runtime » dans les sources, ou donnez à ORT_DYLIB_PATH le chemin du fichier { $file }
error-runtime-no-library = { $path } n’est pas une bibliothèque ONNX Runtime que cette machine peut charger : { $why }
error-runtime-not-pinned = { $path } n’est pas l’ONNX Runtime que cette version de gptoss exige ({ $why }) et n’est pas chargé ; « gptoss-ctl runtime install » (avec --cuda s’il l’a apporté) ou le lot l’apporte à nouveau, « gptoss-ctl runtime remove » le supprime
error-runtime-untrusted = { $path } n’est pas chargé : { $why }, et une bibliothèque est du code : seuls root et l’utilisateur dont le programme la charge doivent pouvoir l’écrire. « gptoss-ctl runtime install --cuda » y remédie, en tant que root pour le dépôt de la machine ; « gptoss-ctl runtime remove --cuda » la supprime
error-runtime-too-old = { $path } est ONNX Runtime { $version }, trop ancien : il faut { $needed } ou plus récent ; installez le paquet gptoss, exécutez « make runtime » dans les sources, ou donnez à ORT_DYLIB_PATH une bibliothèque plus récente
error-runtime-loaded = ONNX Runtime est déjà chargé depuis { $path }, et un processus ne peut le charger qu’une fois
error-runtime-telemetry = ORT_DISABLE_TELEMETRY ne vaut pas 1 : ONNX Runtime n’est pas chargé avec sa télémétrie
error-runtime-not-loaded = ONNX Runtime n’a pas encore été chargé
error-runtime-provider = le fournisseur d’exécution { $provider } ne fonctionne pas sur cette machine : { $why }
error-runtime-no-provider = aucun fournisseur d’exécution n’a réussi son autotest : { $why }
error-runtime-memory = mémoire insuffisante : il faut { $need } Go, { $have } Go sont disponibles ; fermez d’autres programmes ou choisissez un contexte plus petit
error-runtime-memory-or = mémoire insuffisante : il faut { $need } Go, { $have } Go sont disponibles ; fermez d’autres programmes ou choisissez un contexte plus petit ; ou laissez les experts sur le disque (stream-experts = true sous [runtime] dans gptossd.toml, --stream-experts pour gptoss-ctl bench et eval) : { $percent } % d’entre eux ont la place, les autres sont lus pour chaque jeton, { $read } Go, au plus { $rate } jetons par seconde avec ce disque, qui donne { $disk } Go par seconde
error-runtime-gpu-memory = mémoire insuffisante sur le GPU : il faut { $need } Go, { $have } Go y sont libres ; fermez ce qui y calcule d’autre ou choisissez un contexte plus petit
error-runtime-no-export = le modèle { $model } n’a pas d’export pour le fournisseur d’exécution { $provider } ; créez-en un par « gptoss-ctl export { $model } --target { $target } »

# The daemon

error-client-unreachable = gptossd ne répond pas : { $why }
error-client-died = gptossd est mort au milieu de la réponse ; voyez son journal (journalctl -u gptossd)
error-client-malformed = gptossd a envoyé quelque chose qui n’est pas un événement : { $why }
