## What fails at the machine, whichever the command

error-checkpoint = ce n’est pas un point de contrôle gpt-oss utilisable : { $why }
error-export = l’export a échoué : { $why }

in-process-not-exported = { $model } n’a pas d’export pour la cible { $target } ; faites-en un avec « gptoss-ctl export { $model } --target { $target } »
in-process-no-sequence = le moteur n’a pas de séquence à donner

cannot-write = écriture impossible : { $why }
man-no-command = { $of } n’a pas de commande { $name }

terminal-unwritable = impossible d’écrire le résultat : { $why }
interrupt-ended = interrompu ; { $advice }

## gptoss-ctl runtime, selftest

runtime-library = bibliothèque
runtime-version = version
runtime-compiled = compilés
runtime-provider = fournisseur
runtime-proven = { $provider } (a réussi son autotest)
runtime-not = pas { $provider }

selftest-passed = fonctionne : distance { $distance } aux logits de référence de nano, { $tolerance } est admis ({ $milliseconds } ms)
selftest-failed = ne fonctionne pas : { $why }
selftest-quarantined = en quarantaine depuis { $since } : { $why }
selftest-how-to-retry = Un fournisseur d’exécution en quarantaine est essayé à nouveau avec un autre pilote, un autre appareil, un autre ONNX Runtime ou un autre gptoss, ou par « gptoss-ctl selftest --retry ».
selftest-kept = { $provider } fonctionne, et { $file } ne peut pas être modifié : le démon continue à s’en passer jusqu’à ce que ceci soit exécuté en tant que root
selftest-reported = { $file } est écrit ; il ne nomme ni personne ni machine, relisez-le avant de l’envoyer
selftest-none = aucun fournisseur d’exécution ne reproduit les logits du modèle embarqué

## gptoss-ctl runtime install, remove

runtime-provider-of-show = --provider ne concerne que « gptoss-ctl runtime » seul
runtime-no-build = aucune version d’ONNX Runtime ({ $build }) n’est fixée pour { $here } ; il y en a une pour { $platforms }. ORT_DYLIB_PATH, ou runtime.library dans les réglages du démon, désigne une bibliothèque à vous
runtime-bad-index = donnez http://HÔTE ou https://HÔTE d’un index de paquets Python, tel que https://pypi.org
runtime-is-there = ONNX Runtime { $version } est dans { $folder } : chaque fichier est bien celui qui est fixé
runtime-installed = ONNX Runtime { $version } ({ $build }), { $size }, est installé dans { $folder } ; un démon le prend à son prochain démarrage
runtime-install-interrupted = ce qui a été apporté est conservé : relancez la même commande pour continuer
runtime-other-version = { $folder } est d’une autre version : « gptoss-ctl gc --superseded » le supprime
runtime-machines-store = { $store } est le dépôt de la machine, d’où les programmes de chacun et le démon ne chargent que des bibliothèques de root : exécutez ceci en tant que root (« sudo gptoss-ctl runtime install --cuda »), ou omettez --store pour un dépôt à vous
runtime-noexec = { $store } est sur un système de fichiers monté noexec, d’où aucune bibliothèque ne peut être chargée : désignez avec --store un dépôt sur un autre
runtime-licence-mit = sous licence MIT : { $wheels }
runtime-licence-nvidia = de NVIDIA, propriétaires, sous la licence du CUDA Toolkit ({ $cuda }) et celle de cuDNN ({ $cudnn }) : { $wheels }
runtime-licence-question = Acceptez-vous les licences de NVIDIA ? [o/N]
runtime-licence-wanted = rien n’a été récupéré : qui accepte les licences de NVIDIA le dit avec --accept-nvidia-license
runtime-removed = ONNX Runtime ({ $build }) est supprimé de { $folder } ; un démon qui l’a chargé le garde jusqu’à sa fin
runtime-nothing-to-remove = il n’y a pas d’ONNX Runtime ({ $build }) dans { $folder }

## gptoss-ctl doctor

doctor-good = ok
doctor-note = note
doctor-wrong = ERREUR
doctor-count = { $wrong ->
    [one] { $wrong } chose ne va pas
   *[other] { $wrong } choses ne vont pas
}

doctor-processor = processeur
doctor-memory = mémoire
doctor-gpu = gpu
doctor-store = dépôt
doctor-runtime = bibliothèque
doctor-provider = fournisseur
doctor-settings = réglages
doctor-catalog = catalogue
doctor-units = unités
doctor-bus = bus
doctor-socket = socket
doctor-daemon = démon
doctor-network = réseau

doctor-cores = { $cores ->
    [one] { $cores } cœur
   *[other] { $cores } cœurs
}, noyaux de calcul { $kernels }
doctor-scalar = il n’a ni AVX2 ni les produits scalaires de NEON : de simples boucles calculent, bien plus lentement
doctor-memory-unknown = le système ne le dit pas
doctor-memory-see = voyez « free -h »
doctor-memory-available = { $size } disponibles
doctor-memory-wanted = 20b demande { $size } : fermez des programmes, ou relevez la limite du groupe de contrôle
doctor-gpu-none = aucun GPU NVIDIA n’est visible ; le processeur calcule
doctor-gpu-driver = { $devices }, pilote NVIDIA { $driver }
doctor-gpu-no-driver = /dev/nvidia0 est là et son pilote n’est pas chargé
doctor-gpu-load-driver = installez le pilote NVIDIA de ce noyau, ou « modprobe nvidia »
doctor-gpu-unloadable = { $library } ne peut pas être chargée
doctor-gpu-install-driver = installez le pilote NVIDIA
doctor-gpu-install-cuda = « gptoss-ctl runtime install --cuda » l’apporte, ou installez CUDA 13 ({ $package })
doctor-gpu-install-cudnn = « gptoss-ctl runtime install --cuda » l’apporte, ou installez cuDNN 9 pour CUDA 13 ({ $package })

doctor-store-name-another = désignez un autre dossier avec --store ou GPTOSS_STORE
doctor-store-not-writable = écriture impossible : { $why }
doctor-store-only-read = d’ici là les modèles sont seulement lus ; --store désigne un autre dépôt
doctor-store-closed = { $path } est fermé à l’utilisateur du démon
doctor-store-open = « sudo chmod -R a+rX { $store } »
doctor-store-unreadable = { $store } ne peut pas être lu
doctor-store-make-readable = son dossier doit être lisible
doctor-store-reinstall = supprimez-le avec « gptoss-ctl rm » et réinstallez-le
doctor-store-staged = interrompu, ou en cours : { $models }
doctor-store-go-on = la même commande le poursuit ; « gptoss-ctl gc » le supprime
doctor-store-holds = { $store } : { $models }, { $free } libres
doctor-store-empty = { $store } : aucun modèle, { $free } libres
doctor-store-fill = « gptoss-ctl pull 20b » récupère un modèle, « gptoss-ctl bundle import » en apporte un

doctor-runtime-install = « gptoss-ctl runtime install », installez le paquet gptoss, importez un lot qui contient la bibliothèque, ou définissez ORT_DYLIB_PATH
doctor-runtime-other-version = { $folder } est d’une autre version de gptoss
doctor-runtime-collect = « gptoss-ctl gc --superseded » le supprime, « gptoss-ctl runtime install --cuda » apporte celle de cette version
doctor-runtime-found = ONNX Runtime { $version } avec { $providers }, { $path }
doctor-provider-reinstall = la bibliothèque ne calcule pas ce qu’elle doit : réinstallez gptoss
doctor-provider-proven = { $provider } reproduit les logits de nano
doctor-provider-not = pas { $provider } : { $why }
doctor-provider-quarantined = { $provider } est en quarantaine depuis { $since } : { $why }
doctor-provider-retry = un autre pilote, appareil, ONNX Runtime ou gptoss le fait essayer à nouveau, comme « gptoss-ctl selftest --retry », avec sudo pour le démon de la machine ; « --report » écrit ce qu’il faut pour signaler la panne
doctor-provider-cuda = il y a un GPU : le paquet gptoss-cuda apporte l’ONNX Runtime qui s’en sert
doctor-quarantine-remove = il peut être supprimé : ce qui est en panne sera retrouvé
doctor-provider-no-gpu = sans GPU, c’est normal ; « gptoss-ctl runtime » en dit plus

doctor-settings-defaults = ceux par défaut
doctor-settings-check = « gptossd --check-config » les vérifie à nouveau
doctor-catalog-correct = corrigez le catalogue, sa signature ou les réglages sous [trust]

doctor-units-none = le démon n’est pas installé pour la machine
doctor-units-install = installez le paquet gptoss, ou utilisez un démon à vous avec --bus session
doctor-units-unit = l’unité du démon
doctor-units-service = le bus ne peut pas démarrer le démon
doctor-units-bus = le bus ne laisse personne prendre le nom du démon
doctor-units-polkit = polkit ne connaît aucune action de gptoss : root seul peut l’utiliser
doctor-units-sysusers = personne ne crée les utilisateurs gptoss et gptoss-store
doctor-units-missing = il manque { $file } : { $means }
doctor-units-and = { $first } ; { $then }
doctor-units-there = fichiers de l’unité, du bus et de polkit sous { $prefix }
doctor-units-reinstall = réinstallez le paquet gptoss

doctor-bus-answers = il répond
doctor-bus-start = démarrez dbus : « systemctl start dbus »
doctor-socket-start = démarrez-y un démon : « gptossd --socket { $path } »
doctor-bus-log-in = ouvrez une session, ou utilisez « dbus-run-session »
doctor-daemon-refuses = « adduser NOM gptoss » laisse entrer quelqu’un qui n’est pas devant l’écran
doctor-daemon-silent = « journalctl -u gptossd » dit pourquoi
doctor-network-none = le démon a son propre espace de noms, vide
doctor-network-own = le démon ne contient aucun client HTTP ou TLS ; celui d’un utilisateur n’a pas d’espace de noms à lui
doctor-network-shared = le démon partage le réseau de la machine
doctor-network-unit = son unité a été modifiée : « systemctl cat gptossd » devrait montrer PrivateNetwork=yes
doctor-network-unknown = le démon appartient à un autre utilisateur
doctor-network-root = root peut regarder : « sudo gptoss-ctl doctor »
